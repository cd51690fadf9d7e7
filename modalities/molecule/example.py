"""A tiny instance of everything, for the contract that every modality is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modalities.molecule.modality import Molecules
from modalities.molecule.semla import Semla
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen.interpolation import Never
from multigen.modality import Example
from multigen.process import Gaussian, Masked, Process, Uniform, symmetric
from multigen.state import Batch, Features, pool
from multigen.testing import Contract


class Chains:
    """Zigzags of random elements, of four to eleven atoms."""

    fingerprint = "chains"
    sizes = np.arange(4, 12)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Example:
        n, random = int(self.sizes[index]), np.random.default_rng(index)
        zigzag = np.stack([1.3 * np.arange(n), 0.5 * (np.arange(n) % 2), np.zeros(n)], -1)  # (N, 3)
        bonds = np.zeros((n, n), np.int8)  # (N, N)
        bonds[np.arange(n - 1), np.arange(1, n)] = random.integers(1, 5, n - 1)
        return {
            "name": f"chain{index}",
            "coords": (zigzag + random.normal(0, 0.1, (n, 3))).astype(np.float32),
            "atoms": random.integers(0, 8, n).astype(np.int8),
            "charges": random.integers(0, 3, n).astype(np.int8),
            "bonds": bonds + bonds.T,
        }


class Composition:
    """The share of each element, as a teacher."""

    fingerprint = "composition"

    def __call__(self, batch: Batch) -> Features:
        atoms = torch.nn.functional.one_hot(batch.clean["atoms"], ATOMS).float()  # (B, N, K)
        return pool(Features(atoms, batch.mask["atoms"]))  # (B, K), (B,)

    def to(self, device: Any) -> Composition:
        return self


def contract() -> Contract:
    """Chains of four to eleven atoms and a network of three layers."""
    dataset = Chains()
    modality = Molecules(source=dataset, rotate=False, encoders={"composition": Composition()})
    torch.manual_seed(0)
    denoiser = Semla(width=32, sets=8, edges=16, message=16, layers=3, heads=4)
    processes: dict[str, Process] = {
        "coords": Gaussian("clean"),
        "atoms": Uniform(ATOMS),
        "bonds": Uniform(len(BONDS), project=symmetric),
        "charges": Masked(len(CHARGES), Never()),
    }
    return Contract(dataset, modality, denoiser, processes, denoiser.tap_names)
