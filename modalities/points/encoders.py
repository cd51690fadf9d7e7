"""A teacher: frozen features of the clean point."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from multigen.random import Noise, keys
from multigen.state import Batch, Features


class RandomFeatures:
    """Waves of random direction, sqrt(2) cos(w x + b): a kernel in `width` numbers (Rahimi and Recht 2007).

    Each feature has a mean square of about 1, so that it can be denoised as it is.

    Args:
        width: number of features D.
        frequency: standard deviation of w; higher ones see finer detail.
        seed: chooses w and b.
    """

    def __init__(self, width: int = 8, frequency: float = 1.0, seed: int = 0) -> None:
        noise = Noise(keys(seed, range(width), "random features"))
        self.direction = frequency * noise.fold("direction").normal([2])  # (D, 2)
        self.phase = 2 * math.pi * noise.fold("phase").uniform()  # (D,)
        self.fingerprint = f"random-features-{width}-{frequency}-{seed}"

    def __call__(self, batch: Batch) -> Features:
        """Value (B, D), mask (B,)."""
        return Features(self.features(batch.clean["point"]), batch.mask["point"])

    def features(self, point: Tensor) -> Tensor:
        """(B, 2) -> (B, D)."""
        angle = point @ self.direction.T.to(point.device) + self.phase.to(point.device)  # (B, D)
        return math.sqrt(2) * torch.cos(angle)

    def to(self, device: Any) -> RandomFeatures:
        return self
