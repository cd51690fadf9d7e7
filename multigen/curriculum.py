"""The weight of a loss term as a function of the global step.

A weight is derived from the step that a checkpoint stores and from nothing else, so that resuming, accumulating gradients or
changing the number of workers cannot change it (REED, arXiv 2507.08980, sections on the training curriculum).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from multigen.state import MultigenError

Weight = float | Callable[[int], float]
"""A constant, or a function of the global step (the number of optimiser updates already made)."""

Shape = Literal["constant", "linear", "cosine"]


def weight_at(weight: Weight, step: int) -> float:
    return float(weight(step)) if callable(weight) else float(weight)


@dataclass(frozen=True)
class Ramp:
    """Zero, then a rise to ``peak``, then a plateau, then a fall to ``end``; clamped past both ends.

    With n = step + offset, or whole epochs n = (step + offset) // steps_per_epoch when ``steps_per_epoch`` is given::

        n < start                          0
        start <= n < start + warmup        peak * rise((n - start) / warmup)
        ... <= n < hold                    peak                                (hold defaults to the end of the warm-up)
        hold <= n < horizon                end + (peak - end) * fall((n - hold) / (horizon - hold))
        n >= horizon                       end

    Args:
        peak: the weight on the plateau.
        start: before it the weight is 0.
        warmup: length of the rise; 0 switches the term on at ``start``.
        rise: "linear", "cosine" (half a period), or "constant" (0 during the warm-up, then a jump).
        fall: "constant" (never falls), "linear" or "cosine" (half a period, 1 at ``hold`` and 0 at ``horizon``).
        hold: where the fall begins.
        horizon: where it ends. With ``fall="constant"`` it is a cut-off: ``end`` from there on (HASTE's early stop).
        end: the weight past the horizon.
        steps_per_epoch: when given, every length above counts epochs and the weight changes only between epochs.
        offset: 1 counts from one, as SemlaFlow-based REED does: the first update has weight 1 / warmup, not 0.
        fractional: with ``steps_per_epoch``, let the weight move within an epoch too.
        total: when given, every length above is a share of so many steps, so that a schedule keeps its shape in a shorter run.

    The three published settings::

        images     Ramp(warmup=50_000), or Ramp(warmup=0.05, total=1_000_000)   alignment 0.5, constant
        proteins   Ramp(warmup=50, steps_per_epoch=n)                           Ramp(0.2, fall="cosine", horizon=200, ...)
        molecules  Ramp(warmup=30, steps_per_epoch=n, offset=1, fractional=True)   alignment 0.2, constant
    """

    peak: float = 1.0
    start: float = 0
    warmup: float = 0
    rise: Shape = "linear"
    fall: Shape = "constant"
    hold: float | None = None
    horizon: float | None = None
    end: float = 0.0
    steps_per_epoch: int | None = None
    offset: int = 0
    fractional: bool = False
    total: int | None = None

    def __post_init__(self) -> None:
        for name, shape in (("rise", self.rise), ("fall", self.fall)):
            if shape not in ("constant", "linear", "cosine"):
                raise MultigenError(f"Ramp: {name} is {shape!r}; choices are constant, linear, cosine")
        if self.fall != "constant" and self.horizon is None:
            raise MultigenError(f"Ramp: fall {self.fall!r} needs a horizon")
        if self.hold is not None and self.hold < self.start + self.warmup:
            raise MultigenError(f"Ramp: hold {self.hold} lies before the end of the warm-up at {self.start + self.warmup}")
        if self.horizon is not None and self.horizon < self._hold:
            raise MultigenError(f"Ramp: horizon {self.horizon} lies before the end of the plateau at {self._hold}")
        if self.warmup < 0 or any(n is not None and n < 1 for n in (self.steps_per_epoch, self.total)):
            raise MultigenError("Ramp: warmup must be at least 0, steps_per_epoch and total at least 1")
        if self.steps_per_epoch is not None and self.total is not None:
            raise MultigenError("Ramp: lengths count epochs (steps_per_epoch) or are shares of the run (total), not both")

    @property
    def _hold(self) -> float:
        return self.start + self.warmup if self.hold is None else self.hold

    def __call__(self, step: int) -> float:
        n = self._position(step)
        if n < self.start:
            return 0.0
        if n < self.start + self.warmup:
            return self.peak * _rise(self.rise, (n - self.start) / self.warmup)
        if self.horizon is not None and n >= self.horizon:
            return self.end
        if self.fall == "constant" or self.horizon is None or n < self._hold:
            return self.peak
        return self.end + (self.peak - self.end) * (1 - _rise(self.fall, (n - self._hold) / (self.horizon - self._hold)))

    def _position(self, step: int) -> float:
        n = step + self.offset
        if self.total is not None:
            return n / self.total
        if self.steps_per_epoch is None:
            return n
        return n / self.steps_per_epoch if self.fractional else n // self.steps_per_epoch


def _rise(shape: Shape, x: float) -> float:
    """From 0 at x = 0 to 1 at x = 1."""
    if shape == "linear":
        return x
    return (1 - math.cos(math.pi * x)) / 2 if shape == "cosine" else 0.0
