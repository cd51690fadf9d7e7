"""The Frechet ChemNet Distance of samples to real molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.molecule.metrics.sets import Chemical, Means, chemicals, named, of_dataset
from multigen import describe, distances
from multigen.distributed import resolve
from multigen.modality import Dataset
from multigen.state import MultigenError, at_least

WIDTH = 512


class FCD(Means):
    """Frechet ChemNet Distance (Preuer et al. 2018), of the SMILES without stereochemistry, in ChemNet's last hidden layer.

    It falls with the number of molecules: it is always of `count` valid and connected samples, the first ones, and of as many
    evenly spaced held-out molecules. With fewer samples there is none (NaN). ``fcd_real`` is that of training molecules.

    Args:
        train: training molecules, the control.
        held_out: molecules that the model has not seen, the reference.
        count: molecules of each set; fewer, if the data hold fewer.
        hydrogens: see `modalities.molecule.metrics.sets.Means`.
        batch_size: molecules a call of the network.
        device: where it runs.

    Raises:
        MultigenError: the package fcd_torch is not installed.
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
        super().__init__(held_out, hydrogens)
        if find_spec("fcd_torch") is None:
            raise MultigenError("the Frechet ChemNet Distance needs the package fcd_torch: pip install 'multigen[molecule]'")
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
        return torch.cat([torch.zeros(0, WIDTH), *(activations(part, self.device) for part in parts)])

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


def activations(texts: Sequence[str], device: str = "cpu") -> Tensor:
    """ChemNet's last hidden layer of canonical SMILES, which are read up to 350 characters: (B, 512)."""
    from fcd_torch.utils import SmilesDataset  # type: ignore[import-untyped]

    rows = SmilesDataset(texts, canonize=False)
    letters = torch.stack([torch.from_numpy(rows[i]) for i in range(len(texts))])  # (B, 350, 35)
    with torch.no_grad():
        return _chemnet(device)(letters.transpose(1, 2).float().to(device)).cpu()  # (B, 512)


@lru_cache(1)
def _chemnet(device: str) -> torch.nn.Module:
    import fcd_torch  # type: ignore[import-untyped]
    from fcd_torch.utils import load_imported_model

    path = Path(fcd_torch.__file__).parent / "ChemNet_v0.13_pretrained.pt"
    return load_imported_model(torch.load(path, weights_only=True)).eval().to(device)
