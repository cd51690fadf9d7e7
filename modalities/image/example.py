"""A tiny instance of everything, for the contract that every modality is held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from modalities.image.denoiser import SiT
from modalities.image.modality import Image
from multigen.modality import Example
from multigen.process import Gaussian
from multigen.state import Batch, Features
from multigen.testing import Contract


class Noise:
    """Pictures of noise, each with a larger one for teachers and a caption."""

    fingerprint = "noise"

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Example:
        picture = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        return {"image": picture[::2, ::2], "raw": picture, "label": index % 3, "caption": "noise " * (1 + index)}


class Patches:
    """The mean colour of each quarter of the picture, as a teacher."""

    fingerprint = "patches"

    def __call__(self, batch: Batch) -> Features:
        value = batch.raw["image"].float().unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean((3, 5)) / 255  # (B, C, 2, 2)
        tokens = value.flatten(2).transpose(1, 2)  # (B, T, C)
        return Features(tokens, tokens.isfinite().all(-1))

    def to(self, device: Any) -> Patches:
        return self


def contract() -> Contract:
    """Pictures of 8 x 8 in three classes, and a network of four tokens."""
    modality = Image(size=8, classes=3, encoders={"patches": Patches()})
    denoiser = SiT(size=8, patch=4, width=32, depth=2, heads=2, classes=3, registers=1)
    return Contract(Noise(), modality, denoiser, {"image": Gaussian("clean", loss_on="velocity")}, denoiser.tap_names)
