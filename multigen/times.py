"""Which time each component of each training example is corrupted to.

A draw maps uniform numbers to times by its inverse distribution function, so that one uniform number per example decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from multigen.random import Noise
from multigen.state import MultigenError, State

Draw = Callable[[Tensor], Tensor]
"""Uniform numbers (B,) in (0, 1) -> times (B,)."""


class Times(Protocol):
    def __call__(self, components: Iterable[str], noise: Noise) -> State:
        """Component -> (B,) times in [0, 1]."""
        ...


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise MultigenError(f"Uniform times need 0 <= low <= high <= 1, got {self.low} and {self.high}")

    def __call__(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, eq. 19). Positive means favour times near the data.

    On the linear path logit(t) is log(alpha / sigma): SiT's log-normal sigma is mean 0, std 1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal(u))


@dataclass(frozen=True)
class ArctanNormal:
    """log tan(pi t / 2) ~ N(mean, std^2).

    On the trigonometric path that is log(alpha / sigma): SiT's log-normal sigma is mean 0, std 1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return torch.atan(torch.exp(self.mean + self.std * _normal(u))) * (2 / math.pi)


def _normal(u: Tensor) -> Tensor:
    """Quantiles of N(0, 1), cut at 4.9 deviations."""
    return math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))


@dataclass(frozen=True)
class Beta:
    """t ~ Beta(a, b). Beta(2, 1) is SemlaFlow's choice."""

    a: float
    b: float
    _table: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.a <= 0 or self.b <= 0:
            raise MultigenError(f"Beta times need positive a and b, got {self.a} and {self.b}")
        from scipy.special import betaincinv

        # interpolating the quantile at 4,097 knots is exact to about 1e-4 in the body; torch has no inverse incomplete beta
        self._table.extend(float(betaincinv(self.a, self.b, i / 4096)) for i in range(4097))

    def __call__(self, u: Tensor) -> Tensor:
        if self.b == 1:
            return u ** (1 / self.a)
        if self.a == 1:
            return 1 - (1 - u) ** (1 / self.b)
        table = torch.tensor(self._table, dtype=u.dtype, device=u.device)  # (4097,)
        x = u * 4096
        low = x.long().clamp(max=4095)  # (B,)
        return torch.lerp(table[low], table[low + 1], x - low)


@dataclass(frozen=True)
class Fixed:
    """Always the same time; ``Fixed(1)`` gives a component clean."""

    time: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.time <= 1:
            raise MultigenError(f"Fixed: times lie between 0 and 1, got {self.time}")

    def __call__(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.time)


@dataclass(frozen=True)
class Mixture:
    """Another draw, replaced by a fixed time with some probability: teaches one model to be given a component, or to lack it.

    With probability ``clean`` the time is 1, with probability ``absent`` it is 0.
    """

    draw: Draw
    clean: float = 0.0
    absent: float = 0.0

    def __post_init__(self) -> None:
        if self.clean < 0 or self.absent < 0 or self.clean + self.absent > 1:
            raise MultigenError(f"Mixture: clean {self.clean} and absent {self.absent} must be probabilities of sum at most 1")

    def __call__(self, u: Tensor) -> Tensor:
        rest = max(1 - self.clean - self.absent, 1e-6)
        t = self.draw(((u - self.absent) / rest).clamp(1e-6, 1 - 1e-6))
        t = torch.where(u > 1 - self.clean, 1.0, t)
        return torch.where(u < self.absent, 0.0, t)


@dataclass(frozen=True)
class Shared:
    """One time per example, the same for all of its components."""

    draw: Draw = Uniform()

    def __call__(self, components: Iterable[str], noise: Noise) -> State:
        t = self.draw(noise.fold("time").uniform())  # (B,)
        return dict.fromkeys(components, t)


@dataclass(frozen=True)
class Independent:
    """One time per component: the model learns every conditional and the joint at once (UniDiffuser, Bao et al. 2023).

    Args:
        draws: component -> draw, where one component differs.
        draw: of the others.
    """

    draws: Mapping[str, Draw] = field(default_factory=dict)
    draw: Draw = Uniform()

    def __call__(self, components: Iterable[str], noise: Noise) -> State:
        names = list(components)
        if unknown := sorted(set(self.draws) - set(names)):
            raise MultigenError(f"times for unknown components {unknown}; components are {sorted(names)}")
        stream = noise.fold("time")
        return {k: self.draws.get(k, self.draw)(stream.fold(k).uniform()) for k in names}  # (B,) each
