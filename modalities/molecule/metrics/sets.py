"""Samples and real molecules as metrics see them, and measures that are means over molecules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import chemistry, writing
from modalities.molecule.sample import Molecule
from multigen import describe
from multigen.cache.encode import spaced
from multigen.modality import Dataset
from multigen.state import Batch, at_least

if TYPE_CHECKING:
    from rdkit.Chem import Mol

REPLICATES = 3
"""Equal parts of the samples whose deviation is given, as papers repeat their evaluation three times."""


class Chemical:
    """A molecule and what RDKit makes of it, once for all metrics.

    Args:
        sample: None for what was not decided.
        hydrogens: whether all hydrogens are among the atoms.
    """

    def __init__(self, sample: Molecule | None, hydrogens: bool) -> None:
        self.sample, self.hydrogens = sample, hydrogens

    @cached_property
    def decoded(self) -> chemistry.Decoded:
        if self.sample is None or not len(self.sample.atoms):
            return chemistry.Decoded(None, "not decided")
        return chemistry.to_rdkit(self.sample, self.hydrogens)

    @property
    def mol(self) -> Mol | None:
        """Sanitised; None if RDKit refuses it. Not to be changed."""
        return self.decoded.mol

    @cached_property
    def connected(self) -> bool:
        return self.sample is not None and chemistry.largest_fragment(self.sample.bonds) == 1

    @property
    def whole(self) -> Mol | None:
        """The molecule if it is valid and connected."""
        return self.mol if self.connected else None

    @cached_property
    def smiles(self) -> str | None:
        """Canonical, without stereochemistry; None if the molecule is not whole."""
        return None if self.whole is None else chemistry.smiles(self.whole, stereo=False)


class _Same:
    """A key for one and the same object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(20_000)
def _chemical(sample: _Same, hydrogens: bool) -> Chemical:
    return Chemical(sample.value, hydrogens)


def chemicals(samples: Sequence[Molecule | None], hydrogens: bool) -> list[Chemical]:
    """Each sample's `Chemical`; metrics that are given the same objects share it."""
    return [_chemical(_Same(sample), hydrogens) for sample in samples]


@lru_cache(8)
def _real(fingerprint: str, dataset: _Same, count: int | None) -> list[Molecule]:
    return [chemistry.molecule(dataset.value[i]) for i in spaced(len(dataset.value), count)]


def of_dataset(dataset: Dataset, count: int | None = None) -> list[Molecule]:
    """The molecules of a data set, or so many evenly spaced ones."""
    return _real(dataset.fingerprint, _Same(dataset), count)


def named(dataset: Dataset, side: str) -> str:
    """A data set in a few words."""
    return f"{len(dataset):,} {side} molecules of {describe.dataset(dataset).get('name', 'the data')}"


class Values(NamedTuple):
    """A measure of each molecule."""

    value: NDArray[np.float64]
    """(N,), NaN for a molecule that does not count."""
    weight: NDArray[np.float64] | None = None
    """(N,), by default 1 each."""
    median: bool = False
    """Take the median in place of the mean."""

    def mean(self, part: NDArray[np.intp] | slice = slice(None)) -> float:
        value = self.value[part]  # (n,)
        weight = np.ones(len(value)) if self.weight is None else self.weight[part]  # (n,)
        some = np.isfinite(value) & (weight > 0)  # (n,)
        if not some.any():
            return math.nan
        return float(np.median(value[some]) if self.median else value[some] @ weight[some] / weight[some].sum())

    def deviation(self) -> float:
        """Of the means of `REPLICATES` parts; NaN where a part has none."""
        parts = np.array_split(np.arange(len(self.value)), REPLICATES)
        return float(np.std([self.mean(part) for part in parts], ddof=1))


def share(found: Sequence[Any]) -> Values:
    """Of what is true; NaN for None."""
    return Values(np.array([math.nan if x is None else float(x) for x in found], np.float64))  # (N,)


class Sampled:
    """Keeps samples, and knows real molecules to compare them with: what metrics begin with.

    Args:
        held_out: real molecules to compare with; without them nothing is compared.
        hydrogens: whether all hydrogens are among the atoms; by default as in `held_out`, else if any sample has one.
        limit: measure so many samples, the first ones; by default all.
    """

    meaning: Mapping[str, str] = MappingProxyType({})
    """Measure -> one line."""

    def __init__(self, held_out: Dataset | None = None, hydrogens: bool | None = None, limit: int | None = None) -> None:
        at_least(1, limit=1 if limit is None else limit)
        self.held_out, self.limit = held_out, limit
        self.hydrogens = getattr(held_out, "hydrogens", None) if hydrogens is None else hydrogens
        self.samples: list[Molecule | None] = []

    def update(self, samples: Sequence[Molecule | None], template: Batch) -> None:
        room = None if self.limit is None else max(self.limit - len(self.samples), 0)
        self.samples += list(samples)[:room]

    @property
    def found(self) -> list[Chemical]:
        """The samples."""
        have = writing.explicit(self.samples) if self.hydrogens is None else self.hydrogens
        return chemicals(self.samples, have)

    @property
    def real(self) -> list[Chemical]:
        """As many real molecules, if there are as many."""
        if self.held_out is None:
            return []
        molecules = of_dataset(self.held_out, len(self.samples))
        return chemicals(molecules, writing.explicit(molecules) if self.hydrogens is None else self.hydrogens)

    def about(self) -> dict[str, Any]:
        return {"meaning": dict(self.meaning), "reference": self._reference(), "settings": {"limit": self.limit}}

    def _reference(self) -> dict[str, str]:
        return {"": f"the first {len(self.samples):,} samples" if self.limit else f"{len(self.samples):,} samples"}

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


class Means(Sampled, ABC):
    """A metric whose measures are means over molecules, of samples and of as many real ones. Arguments: see `Sampled`.

    Each measure comes with ``..._std``, the deviation of its means over three equal parts of the samples, and with
    ``..._real``, the same of evenly spaced molecules of `held_out`.
    """

    def compute(self) -> dict[str, float]:
        if not self.samples:
            return dict.fromkeys(self.meaning, math.nan)
        found: dict[str, float] = {}
        for name, values in self.values(self.found).items():
            found |= {name: values.mean(), f"{name}_std": values.deviation()}
        real = {} if self.held_out is None else self.values(self.real)
        return found | {f"{name}_real": values.mean() for name, values in real.items()}

    @abstractmethod
    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        """Measures of each of N molecules."""


def wasserstein(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The 1-Wasserstein distance of two sets of numbers; NaN if one is empty."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b)) if len(a) and len(b) else math.nan


def jensen_shannon(a: NDArray[Any], b: NDArray[Any], bins: int, low: float, high: float) -> float:
    """Jensen-Shannon divergence in bits, 0 to 1, of two sets of numbers in equal bins; the ends take in what lies beyond."""
    if not len(a) or not len(b):
        return math.nan
    p, q = (np.histogram(np.clip(x, low, high), bins, (low, high))[0] / len(x) for x in (a, b))  # (bins,) each
    return float(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: NDArray[np.float64]) -> float:
    some = p[p > 0]
    return float(-(some * np.log2(some)).sum())


def tally(words: Sequence[str]) -> dict[str, int]:
    """How often each is said, the commonest first."""
    return dict(Counter(words).most_common())


def each(found: Sequence[Chemical], measure: Callable[[Chemical], Any]) -> Values:
    return share([measure(one) for one in found])
