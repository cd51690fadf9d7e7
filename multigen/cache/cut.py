"""Caches cut out of longer ones: a whitening's components are in order, so that fewer of them are the first of more.

A cache is cut only from a finished one of the same encoder, examples and type, whose whitening begins with exactly the numbers
of its own. It then holds what would be computed, to the rounding of a product with fewer columns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from multigen.cache.codec import CODECS, Plain
from multigen.cache.plan import Plan, missing
from multigen.cache.read import Reader, open_cache
from multigen.cache.shard import Item
from multigen.cache.whitening import Whitened, longer
from multigen.state import MultigenError


def cut(plan: Plan, root: Path | None, log: Callable[[str], None]) -> None:
    """Fill a cache from a longer one, if there is any. Shards that another process is at are left to it."""
    teacher = plan.job.encoder
    if not isinstance(teacher, Whitened) or not isinstance(CODECS[plan.dtype], Plain):  # integers would be rounded twice
        return
    width = teacher.whitening.width
    for whitening in longer(teacher.whitening, plan.job.name, root):
        todo = missing([plan])
        source = _finished(plan, Whitened(teacher.encoder, whitening), root) if todo else None
        if source is not None:
            log(f"target {plan.job.name!r}: the first {width} of {source.width} components in {source.folder}")
            for number in todo:
                _take(plan, number, source, width)


def _finished(plan: Plan, teacher: Whitened, root: Path | None) -> Reader | None:
    with suppress(MultigenError):
        found = open_cache(plan.job.dataset, teacher, plan.job.name, plan.dtype, root, verify=True)
        return found if len(found) == len(plan.job.dataset) else None
    return None


def _take(plan: Plan, number: int, source: Reader, width: int) -> None:
    with ExitStack() as held:
        if plan.take(number, held, wait=False) and plan.lacks(number):
            plan.write(number, [_first(source, index, width) for index in plan.indices(number)])


def _first(source: Reader, index: int, width: int) -> Item:
    found = source[index]
    value, mask = found if isinstance(found, tuple) else (found, np.ones(found.shape[:-1], np.bool_))  # (*sites, D), (*sites)
    return Item(value[..., :width].astype(np.float32), mask)  # (*sites, k), (*sites)
