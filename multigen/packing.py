"""Batches of similar sizes under a budget of sites, for examples of very different sizes.

Each epoch is the epoch's own permutation, cut into windows; in a window, examples are sorted by size and packed as long as
(number of examples) x (largest size) ^ power stays within the budget; at last the batches are shuffled. No example is dropped,
and everything is a function of (seed, epoch), so a run goes on from any step.

Batches hold different numbers of examples. Where a step has several of them, of several processes or accumulated, its loss is
the mean of their means: an example of a batch of few, which are the large ones, counts more than one of a batch of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigen.random import keys, permutation
from multigen.state import MultigenError, at_least

UNITS = {1: "batch_tokens", 2: "batch_pairs"}
"""Power of the size -> what a budget of it is called in a trainer's settings."""

BATCHES = "processes x accumulate"
"""How many batches a step takes: with another number, steps that were made would have seen others."""


class Plan(NamedTuple):
    """One epoch's batches."""

    batches: list[NDArray[np.int64]]
    """Positions within the epoch, batch by batch."""
    padding: float
    """Share of the sites of all batches, or of their pairs, that are padding."""


class Packed:
    """How the examples of a run are cut into micro-batches with a budget of sites; `multigen.loader.Split` counts examples.

    Args:
        sizes: (N,), sites of each example.
        budget: most sites (or pairs, ...) of one micro-batch of one process, padding included. A larger example is a batch of
            its own.
        accumulate: micro-batches of one optimiser step.
        rank, world: this process and their number. A step takes accumulate x world batches of the order, whoever takes which.
        seed: of the order.
        window: examples that are sorted together: more waste less padding, fewer mix better.
        power: 1 counts sites, 2 their pairs, for a network whose work and memory grow with the square of the size.
    """

    def __init__(
        self,
        sizes: Sequence[int] | NDArray[np.int64],
        budget: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        window: int = 2048,
        power: int = 1,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)  # (N,)
        at_least(1, **{UNITS[power]: budget}, accumulate=accumulate, window=window)
        if not len(self.sizes) or self.sizes.min() < 1:
            raise MultigenError(f"batches by tokens need examples with at least one site each, got {len(self.sizes)} examples")
        self.budget, self.accumulate, self.rank, self.world = budget, accumulate, rank, world
        self.seed, self.window, self.power = seed, window, power
        self._plans: dict[int, Plan] = {}
        self._ends: list[int] = []
        first = self.plan(0)
        self.batch_size: float = len(self.sizes) / len(first.batches) * accumulate * world
        """Examples of one optimiser step, on average over the first epoch."""
        self.padding = first.padding
        """Share of padding in the first epoch."""

    @property
    def order(self) -> dict[str, Any]:
        """What decides, beside seed and data, which examples a step takes."""
        return {UNITS[self.power]: self.budget, BATCHES: self.world * self.accumulate}

    def plan(self, epoch: int) -> Plan:
        """The batches of an epoch."""
        if epoch not in self._plans:
            self._plans = {e: plan for e, plan in self._plans.items() if e >= epoch - 1}  # those before are done with
            self._plans[epoch] = self._packed(epoch)
        return self._plans[epoch]

    def positions(self, micro: int) -> list[int]:
        """This process's positions of the run's `micro`-th micro-batch."""
        number = micro * self.world + self.rank
        while not self._ends or self._ends[-1] <= number:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.plan(len(self._ends)).batches))
        epoch = int(np.searchsorted(self._ends, number, "right"))
        before = self._ends[epoch - 1] if epoch else 0
        return (self.plan(epoch).batches[number - before] + epoch * len(self.sizes)).tolist()

    def _packed(self, epoch: int) -> Plan:
        sizes = self.sizes[permutation(self.seed, epoch, len(self.sizes)).numpy()]  # (N,) in the epoch's order
        batches = [
            batch
            for start in range(0, len(sizes), self.window)
            for batch in _pack(sizes[start : start + self.window] ** self.power, start, self.budget)
        ]
        order = keys(self.seed, range(len(batches)), f"batches {epoch}").argsort(stable=True)
        cost = sizes**self.power  # (N,)
        held = sum(len(batch) * int(cost[batch].max()) for batch in batches)
        return Plan([batches[i] for i in order.tolist()], 1 - float(cost.sum()) / held)


def _pack(cost: NDArray[np.int64], start: int, budget: int) -> list[NDArray[np.int64]]:
    """Positions start .. start + len(cost), in batches of ascending cost."""
    batches: list[list[int]] = []
    for i in np.argsort(cost, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * cost[i] > budget:
            batches.append([])
        batches[-1].append(start + i)
    return [np.asarray(batch, np.int64) for batch in batches]  # (n,) each
