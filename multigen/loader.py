"""Training data in an order that is a pure function of (seed, position).

Position p of a run is example p mod N of epoch p // N's permutation, and the random numbers of that example have the key of
(seed, p). Batches run on across the end of an epoch: none is short, no example is dropped or seen twice in an epoch. Nothing
has to be saved to go on from a position, and neither workers nor processes can change what comes.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from multigen import distributed
from multigen.modality import Dataset, Modality
from multigen.packing import UNITS, Packed
from multigen.random import keys, permutation
from multigen.state import Batch, MultigenError, at_least


def indices(seed: int, positions: Sequence[int], count: int) -> list[int]:
    """The examples at some positions of the run, of a data set of `count`."""
    return [int(permutation(seed, p // count, count)[p % count]) for p in positions]


@dataclass(frozen=True)
class Split:
    """How the examples of one optimiser step are cut up: first into micro-batches, then among processes.

    Args:
        batch_size: examples of one optimiser step, over all micro-batches and processes.
        accumulate: micro-batches of one optimiser step.
        rank, world: this process and their number.
    """

    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        parts = self.accumulate * self.world
        if self.accumulate < 1 or self.batch_size < 1 or self.batch_size % parts:
            raise MultigenError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulate} accumulated micro-batches on {self.world} "
                f"processes; it must be a multiple of {parts}"
            )

    @property
    def size(self) -> int:
        """Examples of one micro-batch on one process."""
        return self.batch_size // (self.accumulate * self.world)

    @property
    def order(self) -> dict[str, Any]:
        """What decides, beside seed and data, which examples a step takes."""
        return {"batch_size": self.batch_size}

    def positions(self, micro: int) -> range:
        """This process's positions of the run's `micro`-th micro-batch: a contiguous slice of it."""
        start = micro * self.size * self.world + self.rank * self.size
        return range(start, start + self.size)


def split_of(
    dataset: Dataset,
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    batch_pairs: int | None,
    accumulate: int,
    seed: int,
) -> Split | Packed:
    """How the run's data is cut: by number of examples, of sites, or of pairs of sites, whichever is given.

    Raises:
        MultigenError: none is given, or several; or the data set has no sizes, which budgets of sites need.
    """
    named = {"batch_size": batch_size, UNITS[1]: batch_tokens, UNITS[2]: batch_pairs}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1:
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        raise MultigenError(f"give one of {', '.join(named)}; got {said or 'none'}")
    rank, world = distributed.rank(), distributed.world()
    if batch_size is not None:
        return Split(batch_size, accumulate, rank, world)
    [(name, budget)] = given.items()
    if (sizes := getattr(dataset, "sizes", None)) is None:
        raise MultigenError(f"{name} needs a data set with sizes, which {type(dataset).__name__} has not; use batch_size")
    [power] = [power for power, unit in UNITS.items() if unit == name]
    return Packed(sizes, budget, accumulate, rank, world, seed, power=power)


@dataclass(frozen=True)
class _MicroBatches:
    """The run's micro-batches by number, as a map-style data set for torch's workers."""

    dataset: Dataset
    modality: Modality[Any]
    split: Split | Packed
    seed: int

    def __getitem__(self, micro: int) -> Batch | MultigenError:
        positions = self.split.positions(micro)
        try:
            examples = [self.dataset[i] for i in indices(self.seed, positions, len(self.dataset))]
            return self.modality.collate(examples, keys(self.seed, positions, "train").tolist())
        except MultigenError as error:
            return error  # raised in a worker it would arrive wrapped in a traceback


class Loader:
    """The micro-batches of a run, from any step on.

    Args:
        split: how the examples are cut into micro-batches: so many each, or as many as fill a budget of sites.
        workers: processes that prepare batches ahead; with 0 it is done in between.
        pin: page-locked memory, for transfers that do not wait.
    """

    def __init__(
        self,
        dataset: Dataset,
        modality: Modality[Any],
        split: Split | Packed,
        seed: int = 0,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        if len(dataset) < 1:
            raise MultigenError("the training set is empty")
        at_least(0, workers=workers)
        self.dataset = dataset
        self._source = _MicroBatches(dataset, modality, split, seed)
        self.split, self._workers, self._pin = split, workers, pin

    def steps(self, start: int, stop: int) -> Generator[list[Batch], None, None]:
        """The micro-batches of optimiser steps start, ..., stop - 1. Close the iterator to end its workers."""
        count = self.split.accumulate
        batches = iter(self._loader(range(start * count, stop * count)))
        try:
            for _ in range(start, stop):
                yield [_checked(next(batches)) for _ in range(count)]
        finally:
            if self._workers:
                batches._shutdown_workers()  # type: ignore[attr-defined] # at once, whoever still refers to the iterator

    def _loader(self, micros: range) -> DataLoader[Any]:
        return DataLoader(
            self._source,  # type: ignore[arg-type]
            batch_size=None,
            sampler=micros,
            collate_fn=_same,
            num_workers=self._workers,
            pin_memory=self._pin,
            worker_init_fn=_begin if self._workers else None,
            # a forked worker notices when the trainer is killed; one made by a server process would live on for ever
            multiprocessing_context="fork" if self._workers and sys.platform == "linux" else None,
            generator=torch.Generator(),
        )


def _checked(batch: Batch | MultigenError) -> Batch:
    if isinstance(batch, MultigenError):
        raise batch
    return batch


def _same(batch: Any) -> Any:
    return batch


def _begin(worker: int) -> None:
    """In a worker: leave signals to the trainer, which wants to finish its step when a terminal signals the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
