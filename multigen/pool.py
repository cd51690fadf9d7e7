"""Work that several processes share on one machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.pool import Pool


def processes(count: int) -> Pool:
    """A pool of so many."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Pool(count)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def shared(worth: bool, chunk: int = 1, workers: int | None = None) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` by several processes, results in order; by this one alone where it is not `worth` starting others.

    Args:
        worth: whether there is much to do.
        chunk: items that a process is given at a time.
        workers: processes; None for one on each processor.
    """
    count = workers or processors()
    if count == 1 or not worth:
        yield map
        return
    with processes(count) as pool:
        yield partial(pool.imap, chunksize=chunk)
