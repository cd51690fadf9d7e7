"""Weights of the denoising loss over time. Each is published for the noise-prediction loss and is applied in that space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from multigen.interpolation import Coefficients

Weighting = Callable[[Coefficients], Tensor]
"""Coefficients at t -> (B,), multiplying the squared error of the noise."""


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) / SNR (Hang et al. 2023, section 3.4)."""

    gamma: float = 5.0

    def __call__(self, c: Coefficients) -> Tensor:
        return (self.gamma / c.snr.clamp(min=1e-8)).clamp(max=1)  # (B,)


@dataclass(frozen=True)
class P2:
    """1 / (k + SNR)^gamma (Choi et al. 2022, eq. 8, over the constant weight of the noise loss)."""

    gamma: float = 1.0
    k: float = 1.0

    def __call__(self, c: Coefficients) -> Tensor:
        return (self.k + c.snr) ** -self.gamma  # (B,)


@dataclass(frozen=True)
class SigmoidSNR:
    """sigmoid(bias - log SNR) (Hoogeboom et al. 2024, "Simpler diffusion", eq. 6)."""

    bias: float = 0.0

    def __call__(self, c: Coefficients) -> Tensor:
        return torch.sigmoid(self.bias - torch.log(c.snr.clamp(min=1e-8)))  # (B,)
