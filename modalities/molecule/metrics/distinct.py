"""Whether samples differ from one another, and from what the model was trained with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from modalities.molecule import chemistry
from modalities.molecule.metrics.sets import Chemical, Means, Sampled, Values, named, share
from multigen import describe
from multigen.cache.progress import bar
from multigen.modality import Dataset
from multigen.pool import shared

PARALLEL = 20_000
"""Training molecules from which on several processes write their SMILES."""


UNIQUENESS = {"uniqueness": "share of different molecules among the valid and connected samples; higher is better"}


class Uniqueness(Sampled):
    """How many different molecules there are among the valid and connected samples, by SMILES without stereochemistry.

    ``uniqueness`` is the number of different ones over the number of all; it falls with the number of samples.
    ``uniqueness_real`` is that of as many held-out molecules.
    """

    meaning = UNIQUENESS

    def compute(self) -> dict[str, float]:
        found = {"uniqueness": unique(self.found)}
        return found | ({"uniqueness_real": unique(self.real)} if self.held_out is not None and self.samples else {})

    def _reference(self) -> dict[str, str]:
        return {"": f"{sum(one.smiles is not None for one in self.found):,} valid and connected samples"}


NOVELTY = {
    "novelty": "share of the valid and connected samples that are no training molecule; best as in real data",
    "new": "share of all samples that are valid, connected, different from those before and novel; higher is better",
}


class Novelty(Means):
    """How many samples are not among the training molecules, by SMILES without stereochemistry.

    ``novelty`` is their share of the valid and connected samples; ``new`` the share of all samples that are valid, connected,
    different from those before and novel. Both with ``..._real``: of as many held-out molecules; ``novelty`` with ``..._std``.

    Args:
        train: what the model has seen; all of it is compared.
        held_out: what it has not.
        hydrogens, limit: see `modalities.molecule.metrics.sets.Sampled`.
        workers: processes that write the SMILES of large training sets; None for one on each processor.
    """

    meaning = NOVELTY

    def __init__(
        self,
        train: Dataset,
        held_out: Dataset | None = None,
        hydrogens: bool | None = None,
        limit: int | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(held_out, getattr(train, "hydrogens", None) if hydrogens is None else hydrogens, limit)
        self.train, self.workers = train, workers

    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        texts = [one.smiles for one in found]
        first = {text: i for i, text in reversed(list(enumerate(texts)))}
        return {
            "novelty": share([None if text is None else text not in self._train for text in texts]),
            "new": share([text is not None and text not in self._train and first[text] == i for i, text in enumerate(texts)]),
        }

    def compute(self) -> dict[str, float]:
        return {name: value for name, value in super().compute().items() if name != "new_std"}  # it depends on the number

    @cached_property
    def _train(self) -> frozenset[str]:
        return plain_smiles(self.train, self.workers)

    def about(self) -> dict[str, Any]:
        sets = {"train": describe.dataset(self.train)}
        return super().about() | {"reference": {"": named(self.train, "training")}, "sets": sets}

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def unique(found: Sequence[Chemical]) -> float:
    """Different ones over all that have a SMILES; NaN for none."""
    texts = [one.smiles for one in found if one.smiles is not None]
    return len(set(texts)) / len(texts) if texts else math.nan


def plain_smiles(dataset: Dataset, workers: int | None = None) -> frozenset[str]:
    """Of all molecules of a data set, canonical and without stereochemistry."""
    with bar("reading training molecules", len(dataset)) as progress:
        return frozenset(text for text in _plain(_texts(dataset, progress), len(dataset), workers) if text)


def _texts(dataset: Dataset, progress: Any) -> Iterable[str]:
    """Any SMILES of each molecule, "" if it has none."""
    hydrogens = getattr(dataset, "hydrogens", True)
    for i in range(len(dataset)):
        item = dataset[i]
        yield item.get("smiles") or Chemical(chemistry.molecule(item), hydrogens).smiles or ""
        progress(i + 1)


def _plain(texts: Iterable[str], count: int, workers: int | None) -> Iterable[str]:
    """Canonical and without stereochemistry."""
    with shared(count >= PARALLEL, 256, workers) as each:
        yield from each(without_stereo, texts)


def without_stereo(text: str) -> str:
    """
    >>> without_stereo("C[C@H](N)C(=O)O")
    'CC(N)C(=O)O'
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            return ""
        Chem.RemoveStereochemistry(mol)
        return Chem.MolToSmiles(mol)
