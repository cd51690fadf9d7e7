"""Losses summed where they are computed, so that training never waits for a number that nobody looks at yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multigen.objective import Losses
from multigen.state import MultigenError

Reduce = Callable[[Tensor], Tensor]
"""Sum of a tensor over the processes."""


class Faults(NamedTuple):
    """The steps whose losses were not finite."""

    number: int
    last: int
    """The last of them."""
    terms: list[str]
    """What was not finite in it."""


class Meter:
    """Means of losses and gradient norms since they were last read, and a count of the steps that were not finite.

    Args:
        device: where the losses are.
        limit: after so many steps with losses that are not finite, no further step counts as good.
        reduce: sums over processes.
        scaled: gradients are scaled (fp16): that they overflow now and then is part of the method and no fault.
    """

    def __init__(self, device: torch.device, limit: int, reduce: Reduce, scaled: bool = False) -> None:
        self._device, self._limit, self._reduce, self._scaled = device, limit, reduce, scaled
        self._names: list[str] = []
        self._loaded = False
        self._pending: list[Tensor] = []  # (P - 1,) each, the micro-batches of this step
        self._bad = torch.zeros((), dtype=torch.long, device=device)  # ()
        self._last = torch.full((), -1, dtype=torch.long, device=device)  # ()

    def _begin(self, names: list[str]) -> None:
        """Make room for `names` and the gradient norm: P numbers."""
        self._names = names
        self._clear()
        self._last_wrong = torch.zeros_like(self._sums, dtype=torch.bool)  # (P,) not finite in the last bad step

    def _clear(self) -> None:
        self._sums = torch.zeros(len(self._names) + 1, device=self._device)  # (P,)
        self._counts = torch.zeros_like(self._sums)  # (P,)

    def add(self, losses: Losses) -> None:
        """Take in one micro-batch."""
        names = ["loss", *(f"loss/{name}" for name in losses.parts)]
        if not self._names or (self._loaded and names != self._names):  # a version that named other parts began the run
            self._begin(names)
        self._loaded = False
        if names != self._names:
            raise MultigenError(f"a term's parts may not change from step to step: losses were {self._names} and are {names}")
        self._pending.append(torch.stack([losses.total.detach(), *losses.parts.values()]))  # (P - 1,)

    def close(self, norm: Tensor, step: int) -> Tensor:
        """End an optimiser step.

        Args:
            norm: () the gradient norm, the same in all processes.
            step: the step's number.

        Returns:
            Bool (), the same in all processes: may the weights be updated?
        """
        rows = torch.stack(self._pending).float()  # (M, P - 1) for M micro-batches
        values = torch.cat([rows, norm.detach().float().expand(len(rows), 1)], 1)  # (M, P)
        finite = values.isfinite()  # (M, P)
        self._sums += torch.where(finite, values, 0).sum(0)
        self._counts += finite.sum(0)
        self._pending.clear()
        return self._judge(~finite.all(0), step)

    def _judge(self, wrong: Tensor, step: int) -> Tensor:
        """Count the step if something in it, Bool (P,), was `wrong`; may the weights be updated?"""
        bad = (wrong[:-1] if self._scaled else wrong).any()  # ()
        bad = self._reduce(bad.long()) > 0  # ()
        good = ~bad & (self._bad < self._limit)  # ()
        self._bad += bad
        self._last = torch.where(bad, step, self._last)  # ()
        self._last_wrong = torch.where(bad, wrong, self._last_wrong)  # (P,)
        return good

    def read(self) -> dict[str, float]:
        """Means over steps, micro-batches and processes since the last reading; waits for the device.

        A value that was never finite is nan.
        """
        sums, counts = self._reduce(torch.stack([self._sums, self._counts])).tolist()
        self._clear()
        means = [s / n if n else float("nan") for s, n in zip(sums, counts, strict=True)]
        return dict(zip([*self._names, "gradient_norm"], means, strict=True))

    @property
    def bad(self) -> int:
        """Number of steps that were not finite, the same in all processes; waits for the device."""
        return int(self._bad)

    def faults(self) -> Faults:
        """The steps that were not finite; waits for the device. Every process has to ask."""
        wrong = self._reduce(self._last_wrong.long()).tolist() if self._names else []
        found = [name for name, w in zip([*self._names, "gradient"], wrong, strict=False) if w]
        terms = [name.removeprefix("loss/") for name in found if name.startswith("loss/")]
        return Faults(self.bad, int(self._last), terms or found)

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Every process has to ask."""
        if not self._names:
            return {"bad": int(self._bad), "last": int(self._last), "names": []}
        rows = self._reduce(torch.stack([self._sums, self._counts])).tolist()
        return {"bad": int(self._bad), "last": int(self._last), "names": self._names, "sums": rows[0], "counts": rows[1]}

    def load(self, state: dict[str, Any], main: bool) -> None:
        """Go on from `state`; the sums, which are those of all processes, on the `main` one."""
        self._bad.fill_(state["bad"])
        self._last.fill_(state["last"])
        if state["names"]:
            self._begin(list(state["names"]))
            self._loaded = True
            if main:
                self._sums.copy_(torch.tensor(state["sums"]))
                self._counts.copy_(torch.tensor(state["counts"]))
