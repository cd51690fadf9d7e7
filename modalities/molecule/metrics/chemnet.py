"""The Frechet ChemNet Distance of samples to real molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.molecule import chemnet
from modalities.molecule.metrics.sets import Chemical, Sampled, chemicals, named, of_dataset
from multigen import describe, distances
from multigen.distributed import resolve
from multigen.modality import Dataset
from multigen.state import MultigenError, at_least


class FCD(Sampled):
    """Frechet ChemNet Distance (Preuer et al. 2018), of the SMILES without stereochemistry, in ChemNet's last hidden layer.

    It falls with the number of molecules: it is always of `count` valid and connected samples, the first ones, and of as many
    evenly spaced held-out molecules. With fewer samples there is none (NaN). ``fcd_real`` is that of training molecules.

    Args:
        train: training molecules, the control.
        held_out: molecules that the model has not seen, the reference.
        count: molecules of each set; fewer, if the data hold fewer.
        hydrogens: see `modalities.molecule.metrics.sets.Sampled`.
        batch_size: molecules a call of the network.
        device: where it runs.

    Raises:
        MultigenError: the package fcd_torch is not installed, or there are no real molecules.
    """

    def __init__(
        self,
        train: Dataset,
        held_out: Dataset,
        count: int = 1000,
        hydrogens: bool | None = None,
        batch_size: int = 128,
        device: str = "auto",
    ) -> None:
        if train is None or held_out is None:  # as where samples of another program are measured
            raise MultigenError("the Frechet ChemNet Distance compares with real molecules: give train and held_out")
        super().__init__(held_out, hydrogens)
        chemnet.needed_by("the Frechet ChemNet Distance")
        at_least(2, count=count)
        self.train, self.batch_size, self.device = train, batch_size, str(resolve(device))
        self.count = min(count, len(train), len(held_out))
        self.meaning = {"fcd": f"Frechet ChemNet Distance of {self.count:,} valid and connected samples; lower is better"}

    def compute(self) -> dict[str, float]:
        texts = [one.smiles for one in self.found if one.smiles is not None][: self.count]
        if len(texts) < self.count:
            return {"fcd": math.nan, "fcd_real": self._control if self.samples else math.nan}
        return {"fcd": self._distance(texts), "fcd_real": self._control}

    @cached_property
    def _control(self) -> float:
        return self._distance(self._of(self.train))

    @cached_property
    def _reference_moments(self) -> distances.Gaussian:
        assert self.held_out is not None
        return distances.moments(self._features(self._of(self.held_out)))

    def _distance(self, texts: Sequence[str]) -> float:
        return distances.frechet(distances.moments(self._features(texts)), self._reference_moments)

    def _of(self, dataset: Dataset) -> list[str]:
        found: list[Chemical] = chemicals(of_dataset(dataset, self.count), getattr(dataset, "hydrogens", True))
        return [one.smiles for one in found if one.smiles is not None]

    def _features(self, texts: Sequence[str]) -> Tensor:
        """(B, 512)."""
        parts = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        return torch.cat([torch.zeros(0, chemnet.WIDTH), *(chemnet.activations(part, self.device) for part in parts)])

    def about(self) -> dict[str, Any]:
        assert self.held_out is not None
        valid = sum(one.smiles is not None for one in self.found)
        short = f"; only {valid:,} valid and connected samples" if valid < self.count else ""
        return super().about() | {
            "reference": {"": f"{self.count:,} of {named(self.held_out, 'held-out')}{short}"},
            "sets": {"held out": describe.dataset(self.held_out), "train": describe.dataset(self.train)},
            "settings": {"count": self.count},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}
