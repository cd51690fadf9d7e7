"""How much signal and how much noise is left at time t: noisy = alpha(t) clean + sigma(t) noise.

t = 0 is noise and t = 1 is data. Each interpolation is a frozen value with one method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from multigen.state import MultigenError, at_least


class Coefficients(NamedTuple):
    """Each shaped like t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2 (Kingma et al. 2021), finite at t = 1."""
        return self.alpha**2 / self.sigma.clamp(min=1e-6) ** 2


class Interpolation(Protocol):
    def __call__(self, t: Tensor) -> Coefficients: ...


@dataclass(frozen=True)
class Linear:
    """alpha = t, sigma = 1 - t (rectified flow, Liu et al. 2022; Lipman et al. 2022 with sigma_min = 0)."""

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(frozen=True)
class Trigonometric:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): variance preserving (Albergo et al. 2023; SiT's GVP)."""

    def __call__(self, t: Tensor) -> Coefficients:
        angle = t * (math.pi / 2)
        alpha, sigma = torch.sin(angle), torch.cos(angle)
        return Coefficients(alpha, sigma, sigma * (math.pi / 2), -alpha * (math.pi / 2))


@dataclass(frozen=True)
class DDPM:
    """The discrete noise of Ho et al. 2020 (section 4) as a path: t = 1 - n / steps after n steps of noise.

    ``alpha^2 = prod_{i < n} (1 - beta_i)`` with beta rising linearly from `first` to `last`; between two steps its logarithm
    is linear. At t = 0 a trace of the data is left, alpha = 0.006, as in every model that was trained on this schedule.
    """

    first: float = 1e-4
    last: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        if not 0 < self.first <= self.last < 1:
            raise MultigenError(f"DDPM: noise of a step needs 0 < first <= last < 1, got {self.first} and {self.last}")

    def __call__(self, t: Tensor) -> Coefficients:
        keep = torch.log1p(
            -torch.linspace(self.first, self.last, self.steps, dtype=torch.float64, device=t.device)
        )  # (steps,)
        before = keep.cumsum(0) - keep  # (steps,): log alpha^2 after n = 0, 1, ... steps
        n = self.steps * (1 - t.double())
        low = n.floor().clamp(0, self.steps - 1).long()
        log_square = before[low] + (n - low) * keep[low]
        alpha, sigma = torch.exp(log_square / 2), torch.sqrt(-torch.expm1(log_square))
        d_alpha = -self.steps / 2 * keep[low] * alpha
        d_sigma = -alpha * d_alpha / sigma.clamp(min=1e-6)
        return Coefficients(*(x.to(t.dtype) for x in (alpha, sigma, d_alpha, d_sigma)))


@dataclass(frozen=True)
class Shifted:
    """Another interpolation with its time warped towards noise, t' = t / (t + shift (1 - t)).

    With Linear this multiplies sigma / alpha by ``shift``: the resolution-dependent shift of Esser et al. 2024 (eq. 23).
    ``shift = 1`` changes nothing; above 1 the path spends longer near noise.
    """

    shift: float
    path: Interpolation = Linear()

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise MultigenError(f"Shifted: shift must be positive, got {self.shift}")

    def __call__(self, t: Tensor) -> Coefficients:
        denominator = t + self.shift * (1 - t)
        alpha, sigma, d_alpha, d_sigma = self.path(t / denominator)
        slope = self.shift / denominator**2  # dt'/dt
        return Coefficients(alpha, sigma, d_alpha * slope, d_sigma * slope)


@dataclass(frozen=True)
class Never:
    """alpha = 0, sigma = 1 at every t: the component carries no signal and is read out at the end."""

    def __call__(self, t: Tensor) -> Coefficients:
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return Coefficients(zero, one, zero, zero)
