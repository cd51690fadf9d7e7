"""Samples of very different sizes, drawn in batches of similar ones and handed out in their own order.

A sample is a function of (seed, index) alone, so it may be drawn beside any others; beside ones of its size it wastes least.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from multigen.state import Batch, MultigenError

S = TypeVar("S")

WINDOW = 1024
"""Samples that are sorted together: so many are held at most before they are handed out."""
SPREAD = 1.25
"""Largest over smallest size of a batch, at most."""


@runtime_checkable
class Sized(Protocol):
    """What a `Modality` may add whose samples differ in size."""

    def sizes(self, index: Sequence[int], seed: int) -> Sequence[int]:
        """Sites of each row of ``template(index, seed)``, without making it."""
        ...


def ranges(n: int, size: int) -> list[range]:
    """0 .. n - 1 in parts of `size`."""
    if n < 1 or size < 1:
        raise MultigenError(f"sampling needs at least 1 sample and batches of at least 1, got n={n} and batch_size={size}")
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def batches(modality: Any, n: int, size: int, seed: int) -> list[Sequence[int]]:
    """The samples 0 .. n - 1 in batches of at most `size`, of similar sizes if the modality is `Sized`.

    What is drawn early is handed out early: sizes are sorted within windows of `WINDOW` samples.
    """
    parts = ranges(n, size)  # refuses what cannot be
    if not isinstance(modality, Sized):
        return list(parts)
    windows = ranges(n, max(WINDOW // size, 1) * size)
    return [batch for window in windows for batch in bucketed(window, modality.sizes(window, seed), size)]


def bucketed(index: Sequence[int], sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """The same indices by ascending size, in batches within a factor of `SPREAD`; those of equal size keep their order.

    >>> bucketed([0, 1, 2, 3], [9, 4, 9, 5], 2)
    [[1, 3], [0, 2]]
    """
    found: list[list[int]] = []
    smallest = 0
    for i in np.argsort(np.asarray(sizes), kind="stable").tolist():
        if not found or len(found[-1]) == batch_size or sizes[i] > SPREAD * smallest:
            found.append([])
            smallest = sizes[i]
        found[-1].append(index[i])
    return found


def in_order(
    modality: Any, plan: Iterable[Sequence[int]], drawn: Iterable[tuple[list[S], Batch]], parts: Sequence[range], seed: int
) -> Iterator[tuple[list[S], Batch]]:
    """What was drawn by a plan, in the order of `parts`, each as soon as it is whole, with templates to match."""
    held: dict[int, S] = {}
    waiting = list(parts)
    for index, (samples, template) in zip(plan, drawn, strict=True):
        held |= zip(index, samples, strict=True)
        while waiting and all(i in held for i in waiting[0]):
            part = waiting.pop(0)
            own = template if list(part) == list(index) else modality.template(part, seed)
            yield [held.pop(i) for i in part], own


def padding(sizes: Sequence[int], plan: Iterable[Sequence[int]]) -> float:
    """Share of padding among the sites of all batches; `sizes` of samples 0, 1, ...

    >>> padding([9, 4, 9, 5], [[1, 3], [0, 2]])
    0.035714285714285716
    """
    held = sum(len(batch) * max(sizes[i] for i in batch) for batch in plan)
    return 1 - sum(sizes) / held
