"""A tiny instance of everything, for the contract that every modality is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modalities.protein.denoiser import MPNN
from modalities.protein.modality import Protein, structure_of
from multigen.modality import Example
from multigen.process import Masked
from multigen.state import Batch, Features
from multigen.testing import Contract

_TURN, _RISE, _RADIUS = np.deg2rad(100.0), 1.5, 2.3
_STEP = np.array([[-0.35, -0.6, 0.1], [0.0, 0.0, 0.0], [0.4, 0.9, 0.5], [1.4, 1.2, 0.2]])  # (4, 3): N, CA, C, O about CA


def helix(length: int, seed: int = 0) -> NDArray[np.float32]:
    """A backbone of helical shape with a little noise: (length, 4, 3), in Angstrom."""
    i = np.arange(length)
    ca = np.stack([_RADIUS * np.cos(_TURN * i), _RADIUS * np.sin(_TURN * i), _RISE * i], -1)  # (L, 3)
    noise = np.random.default_rng(seed).normal(0, 0.3, (length, 1, 3))  # (L, 1, 3)
    return (ca[:, None] + _STEP + noise).astype(np.float32)  # (L, 4, 3)


class Helices:
    """Two chains of random sequence each, one residue unknown and one without all of its atoms."""

    fingerprint = "helices"
    sizes = np.array([9 + 3 * i for i in range(8)])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Example:
        length = int(self.sizes[index])
        sequence = np.random.default_rng(index).integers(0, 20, length).astype(np.int8)  # (L,)
        backbone, chain = helix(length, index), (np.arange(length) >= length // 2).astype(np.int16)  # (L, 4, 3), (L,)
        sequence[1], backbone[2, 3] = 20, np.nan
        return {
            "name": f"helix{index}",
            "sequence": sequence,
            "backbone": backbone,
            "chain": chain,
            "index": np.arange(length, dtype=np.int32),
        }


class Depth:
    """How many residues lie within 8 Angstrom, as a teacher."""

    fingerprint = "depth"

    def __call__(self, batch: Batch) -> Features:
        found = structure_of(batch)
        place, known = found["backbone"][:, :, 1], found["known"]  # (B, L, 3), (B, L)
        near = ((place[:, :, None] - place[:, None]).norm(dim=-1) < 8) & known[:, None]  # (B, L, L)
        return Features(near.sum(-1, keepdim=True).float() / 10, known)  # (B, L, 1), (B, L)

    def to(self, device: Any) -> Depth:
        return self


def contract() -> Contract:
    """Chains of 9 to 30 residues and a network of two layers."""
    dataset = Helices()
    modality = Protein(neighbours=6, source=dataset, encoders={"depth": Depth()})
    torch.manual_seed(0)
    denoiser = MPNN(width=32, encoder_layers=1, decoder_layers=2, dropout=0.0, noise=0.0)
    return Contract(dataset, modality, denoiser, {"sequence": Masked(21)}, denoiser.tap_names)
