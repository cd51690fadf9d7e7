"""Points of a known mixture, so that what a model learns can be checked against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from multigen.files import nearest
from multigen.random import Noise, keys
from multigen.state import MultigenError


def ring(label: Tensor, noise: Noise) -> Tensor:
    """Eight Gaussians on a circle, far enough apart to be told from one another."""
    angle = label * (2 * math.pi / 8)  # (N,)
    centre = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1)  # (N, 2)
    return centre + 0.15 * noise.normal([2])


def moons(label: Tensor, noise: Noise) -> Tensor:
    """Two half circles that reach into one another."""
    angle = math.pi * noise.fold("angle").uniform()  # (N,)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], -1)  # (N, 2)
    return 1.3 * torch.where(label[:, None] == 0, upper, -upper) + 0.1 * noise.normal([2])


def board(label: Tensor, noise: Noise) -> Tensor:
    """The eight dark squares of a board of four by four."""
    row = label // 2  # (N,)
    corner = torch.stack([2 * (label % 2) + row % 2, row], -1)  # (N, 2)
    return corner + noise.uniform([2]) - 2


SHAPES: dict[str, tuple[int, Callable[[Tensor, Noise], Tensor]]] = {
    "ring": (8, ring),
    "moons": (2, moons),
    "board": (8, board),
}
"""Name -> number of classes, and (label (N,), noise) -> points (N, 2), with a deviation of about 1."""


class Mixture:
    """Example i is a pure function of (seed, split, i).

    Args:
        shape: "ring", "moons" or "board".
        split: "train" or "valid", or any other name: each is a set of its own.
        count: number of examples.
        seed: chooses the examples.
    """

    def __init__(self, shape: str = "ring", split: str = "train", count: int = 8192, seed: int = 0) -> None:
        if shape not in SHAPES:
            raise MultigenError(f"shape {shape!r}: {nearest(shape, SHAPES)}")
        self.classes, place = SHAPES[shape]
        self.split = split
        self.fingerprint = f"points-{shape}-{split}-{count}-{seed}"
        noise = Noise(keys(seed, range(count), f"points {split}"))
        self.labels = noise.fold("label").integers(self.classes)  # (N,)
        self.points = place(self.labels, noise.fold("place"))  # (N, 2)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"point": self.points[index], "label": self.labels[index]}
