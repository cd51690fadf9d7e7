"""Whether samples are as drug-like, as easy to make and as greasy as real molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.metrics import figures
from modalities.molecule.metrics.figures import Panel
from modalities.molecule.metrics.sets import Chemical, Sampled, chemicals, named, of_dataset, wasserstein
from multigen import describe
from multigen.modality import Dataset

if TYPE_CHECKING:
    from rdkit.Chem import Mol

RANGES = {"qed": (0.0, 1.0), "sa": (1.0, 8.0), "logp": (-6.0, 8.0)}
WORDS = {
    "qed": "quantitative estimate of drug-likeness (Bickerton et al. 2012), 0 to 1",
    "sa": "synthetic accessibility (Ertl and Schuffenhauer 2009), 1 easy to 10 hard",
    "logp": "octanol-water partition coefficient (Wildman and Crippen 1999)",
}


class Properties(Sampled):
    """QED, SA and logP of the valid and connected samples.

    ``qed``, ``sa``, ``logp`` are means, with ``..._std``, the deviation over molecules, and ``..._real`` of held-out ones;
    ``qed_w1``, ... are 1-Wasserstein distances to held-out molecules, with ``..._real`` of as many training molecules.

    Args:
        train: training molecules, the control.
        held_out: molecules that the model has not seen, the reference.
        hydrogens, limit: see `modalities.molecule.metrics.sets.Sampled`.
        reference: evenly spaced molecules that are read of each set.
    """

    def __init__(
        self,
        train: Dataset,
        held_out: Dataset,
        hydrogens: bool | None = None,
        limit: int | None = None,
        reference: int = 2000,
    ) -> None:
        super().__init__(held_out, hydrogens, limit)
        self.train, self.reference = train, reference

    def compute(self) -> dict[str, float]:
        made = properties(self.found)  # (N,) each
        if not len(made["qed"]):
            return dict.fromkeys(self.about()["meaning"], math.nan)
        control = properties(self._of(self.train, len(made["qed"])))  # (N,) each
        found: dict[str, float] = {}
        for name, real in self._held_out.items():
            found |= {name: float(made[name].mean()), f"{name}_std": float(made[name].std())}
            found |= {f"{name}_real": float(real.mean()) if len(real) else math.nan}
            found |= {f"{name}_w1": wasserstein(made[name], real), f"{name}_w1_real": wasserstein(control[name], real)}
        return found

    @cached_property
    def _held_out(self) -> dict[str, NDArray[np.float64]]:
        assert self.held_out is not None
        return properties(self._of(self.held_out, self.reference))

    def _of(self, dataset: Dataset, count: int) -> list[Chemical]:
        return chemicals(of_dataset(dataset, min(count, self.reference)), getattr(dataset, "hydrogens", True))

    def about(self) -> dict[str, Any]:
        assert self.held_out is not None
        meaning = {name: f"{words}; mean and deviation; best as in real data" for name, words in WORDS.items()}
        distances = {f"{name}_w1": f"1-Wasserstein distance of {name} to real molecules; lower is better" for name in WORDS}
        return super().about() | {
            "meaning": meaning | distances,
            "reference": {"": named(self.held_out, "held-out")},
            "sets": {"held out": describe.dataset(self.held_out), "train": describe.dataset(self.train)},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        made = properties(self.found)
        if not len(made["qed"]):
            return {}
        panels = [
            Panel(name.upper().replace("LOGP", "logP"), made[name], real, *RANGES[name])
            for name, real in self._held_out.items()
        ]
        title = "QED, SA and logP of valid and connected samples and of held-out molecules"
        return {title: figures.histograms({"": panels}, "Properties", folder / "properties.png", 40)}


def properties(found: Sequence[Chemical]) -> dict[str, NDArray[np.float64]]:
    """Of the valid and connected ones: name -> (N,)."""
    rows = np.array([_of(one.whole) for one in found if one.whole is not None]).reshape(-1, len(RANGES))  # (N, 3)
    return dict(zip(RANGES, rows.T, strict=True))


def _of(mol: Mol) -> tuple[float, float, float]:
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, rdMolDescriptors
    from rdkit.Contrib.SA_Score import sascorer  # type: ignore[import-untyped]

    with rdBase.BlockLogs():
        plain = Chem.RemoveHs(mol)
        logp, _ = rdMolDescriptors.CalcCrippenDescriptors(plain)
        return float(QED.qed(plain)), float(sascorer.calculateScore(plain)), logp
