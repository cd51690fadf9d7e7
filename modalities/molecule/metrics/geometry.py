"""Whether bonds, angles and torsions of samples are as long, wide and turned as in real molecules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.chemistry import HYDROGEN
from modalities.molecule.metrics import figures
from modalities.molecule.metrics.figures import Panel
from modalities.molecule.metrics.sets import jensen_shannon, named, of_dataset, wasserstein
from modalities.molecule.sample import Molecule
from modalities.molecule.vocabulary import BONDS, ELEMENTS
from multigen import describe
from multigen.modality import Dataset
from multigen.state import Batch

SIGNS = dict(zip(BONDS[1:], "-=#:", strict=True))
LONGEST = 5.0
"""Angstrom: longer bonds count as so long, so that one molecule that flew apart is not the whole distance."""


class Kind(NamedTuple):
    """A quantity and how it is compared."""

    unit: str
    low: float
    high: float
    """Ends of the bins of the Jensen-Shannon divergence."""
    bins: int


KINDS = {
    "bond_length": Kind("Angstrom", 0.7, 2.7, 100),
    "angle": Kind("degrees", 0.0, 180.0, 90),
    "torsion": Kind("degrees", 0.0, 180.0, 36),
}
WORDS = {"bond_length": "bond length, Angstrom", "angle": "angle, degrees", "torsion": "torsion without sign, degrees"}
Measured = dict[str, NDArray[np.float64]]
"""Type -> numbers (n,)."""


class Geometry:
    """Bond lengths, angles and torsions of samples against those of held-out molecules, type by type.

    A bond's type is its elements and order, an angle's those along its two bonds, a torsion's those along its three; torsions
    are those of four heavy atoms, and have no sign, since mirror images are equally good. Per type two distances:

    ===========================================================  ===================================================
    ``bond_length_w1``, ``angle_w1``, ``torsion_w1``             1-Wasserstein distance, in Angstrom and degrees
    ``bond_length_jsd``, ``angle_jsd``, ``torsion_jsd``          Jensen-Shannon divergence of histograms, in bits
    ``bond_length_known``, ``angle_known``, ``torsion_known``    share of the samples' bonds, ... of a type in the data
    ===========================================================  ===================================================

    Distances are means over types by their frequency in the data, over types with at least `least` occurrences in both. Each
    comes with ``..._real``: the same of as many training molecules. Samples need not be valid.

    Args:
        train: training molecules, the control.
        held_out: molecules that the model has not seen, the reference.
        least: occurrences of a type in samples and in the data that make it count.
        limit: evenly spaced molecules that are read of each set.
        shown: types of each kind in the picture, the commonest.
    """

    def __init__(self, train: Dataset, held_out: Dataset, least: int = 30, limit: int = 2000, shown: int = 4) -> None:
        self.train, self.held_out = train, held_out
        self.least, self.limit, self.shown = least, limit, shown
        self.samples: list[Molecule] = []

    def update(self, samples: Sequence[Molecule | None], template: Batch) -> None:
        self.samples += [sample for sample in samples if sample is not None]

    def compute(self) -> dict[str, float]:
        if not self.samples:
            return dict.fromkeys(self.about()["meaning"], math.nan)
        control = gathered(of_dataset(self.train, min(self.limit, len(self.samples))))
        return self._measures(self._made) | {f"{k}_real": v for k, v in self._measures(control).items()}

    @property
    def _made(self) -> dict[str, Measured]:
        return gathered(self.samples)

    @cached_property
    def _real(self) -> dict[str, Measured]:
        return gathered(of_dataset(self.held_out, self.limit))

    def _measures(self, made: Mapping[str, Measured]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, kind in KINDS.items():
            ours, theirs = made[name], self._real[name]
            both = [t for t, x in theirs.items() if min(len(x), len(ours.get(t, ()))) >= self.least]
            weight = np.array([len(theirs[t]) for t in both], np.float64)  # (types,)
            w1 = [wasserstein(ours[t], theirs[t]) for t in both]
            jsd = [jensen_shannon(ours[t], theirs[t], kind.bins, kind.low, kind.high) for t in both]
            known = sum(len(x) for t, x in ours.items() if t in theirs), sum(map(len, ours.values()))
            found[f"{name}_w1"] = float(np.average(w1, weights=weight)) if both else math.nan
            found[f"{name}_jsd"] = float(np.average(jsd, weights=weight)) if both else math.nan
            found[f"{name}_known"] = known[0] / known[1] if known[1] else math.nan
        return found

    def about(self) -> dict[str, Any]:
        meaning: dict[str, str] = {}
        for name, kind in KINDS.items():
            words = name.replace("_", " ")
            meaning[f"{name}_w1"] = f"1-Wasserstein distance of {words}s, mean over types, in {kind.unit}; lower is better"
            meaning[f"{name}_jsd"] = f"Jensen-Shannon divergence of {words}s, mean over types, in bits; lower is better"
            meaning[f"{name}_known"] = f"share of {words}s of a type that the data have; best as in real data"
        return {
            "meaning": meaning,
            "reference": {"": named(self.held_out, "held-out")},
            "sets": {"held out": describe.dataset(self.held_out), "train": describe.dataset(self.train)},
            "settings": {"least": self.least, "limit": self.limit},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        """The commonest types of each kind."""
        made = self._made
        if not made["bond_length"]:
            return {}
        rows = {WORDS[name]: self._panels(name, made[name]) for name in KINDS}
        rows = {name: panels for name, panels in rows.items() if panels}
        title = "Bond lengths, angles and torsions of the commonest types, in samples and in held-out molecules"
        return {title: figures.histograms(rows, "Geometry, type by type", folder / "geometry.png")}

    def _panels(self, name: str, made: Measured) -> list[Panel]:
        commonest = sorted(self._real[name], key=lambda t: -len(self._real[name][t]))[: self.shown]
        return [self._panel(name, t, made.get(t, np.zeros(0))) for t in commonest]

    def _panel(self, name: str, of_type: str, made: NDArray[np.float64]) -> Panel:
        real = self._real[name][of_type]
        low, high = (0.0, 180.0) if name == "torsion" else np.percentile(real, (0.5, 99.5))
        margin = 0.0 if name == "torsion" else max((high - low) * 0.5, 0.04 if name == "bond_length" else 4.0)
        return Panel(of_type, made, real, low - margin, high + margin, f"{len(made):,} in samples")


def gathered(molecules: Iterable[Molecule]) -> dict[str, Measured]:
    """Bond lengths, angles and torsions of many molecules, by type."""
    parts: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in KINDS}
    for molecule in molecules:
        for name, part in measured(molecule).items():
            parts[name].append(part)
    return {name: _by_type(rows) for name, rows in parts.items()}


def measured(molecule: Molecule) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Of one molecule: kind -> types (n, steps), numbers that `_by_type` reads, and values (n,)."""
    places = np.asarray(molecule.coords, np.float64)  # (N, 3)
    atom = molecule.atoms.astype(np.int64)  # (N,)
    a, b = np.nonzero(molecule.bonds)  # (E,), (E,): each bond in both directions
    order = molecule.bonds[a, b].astype(np.int64)  # (E,)
    one = np.flatnonzero(a < b)  # (M,)
    along = places[b] - places[a]  # (E, 3)
    lengths = np.linalg.norm(along, axis=-1)  # (E,)
    i, j = np.nonzero((a[:, None] == a) & (b[:, None] < b))  # (A,), (A,): two bonds from one atom
    angles = _angle(along[i], along[j])  # (A,)
    first, middle, last = _chains(a, b, atom)  # (T,) each
    turns = _torsion(-along[first], along[middle], along[last])  # (T,)
    return {
        "bond_length": (np.stack([atom[a], order, atom[b]], -1)[one], np.minimum(lengths[one], LONGEST)),
        "angle": (np.stack([atom[b[i]], order[i], atom[a[i]], order[j], atom[b[j]]], -1), angles),
        "torsion": (
            np.stack(
                [atom[b[first]], order[first], atom[a[first]], order[middle], atom[a[last]], order[last], atom[b[last]]], -1
            ),
            turns,
        ),
    }


def _chains(a: NDArray[Any], b: NDArray[Any], atom: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Torsions of heavy atoms w-x-y-z as the bonds x->w, x->y and y->z: (T,) each."""
    heavy = (atom[a] != HYDROGEN) & (atom[b] != HYDROGEN)  # (E,)
    middle = np.flatnonzero(heavy & (a < b))  # (M,)
    out = np.flatnonzero(heavy)  # (H,)
    first = (a[out][None] == a[middle][:, None]) & (b[out][None] != b[middle][:, None])  # (M, H): x->w
    last = (a[out][None] == b[middle][:, None]) & (b[out][None] != a[middle][:, None])  # (M, H): y->z
    m, f, z = np.nonzero(first[:, :, None] & last[:, None] & (b[out][:, None] != b[out][None]))  # (T,) each
    return out[f], middle[m], out[z]


def _angle(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """In degrees, 0 to 180: (n, 3), (n, 3) -> (n,)."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1)))


def _torsion(u: NDArray[np.float64], v: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of three steps along a chain, without sign, in degrees: (n, 3) each -> (n,)."""
    return _angle(np.cross(u, v), np.cross(v, w))


def _by_type(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Measured:
    if not rows or not sum(len(values) for _, values in rows):
        return {}
    types = np.concatenate([t for t, _ in rows])  # (n, steps)
    values = np.concatenate([v for _, v in rows])  # (n,)
    types = np.where(_later(types)[:, None], types[:, ::-1], types)  # (n, steps), read from the end that comes first
    unique, place = np.unique(types, axis=0, return_inverse=True)  # (types, steps), (n,)
    order = np.argsort(place.ravel(), kind="stable")  # (n,)
    ends = np.cumsum(np.bincount(place.ravel()))[:-1]  # (types - 1,)
    return {_name(t): part for t, part in zip(unique.tolist(), np.split(values[order], ends), strict=True)}


def _later(types: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,): whether a row reads lower backwards, hydrogen being the highest."""
    types = np.where(types == HYDROGEN, 31, types)  # (n, steps); no bond has this number
    base = 32 ** np.arange(types.shape[1] - 1, -1, -1)  # (steps,)
    return types @ base > types[:, ::-1] @ base


def _name(row: Sequence[int]) -> str:
    """Elements and bonds in turn: "C-C", "H-C=O"."""
    return "".join(SIGNS[BONDS[x]] if i % 2 else ELEMENTS[x] for i, x in enumerate(row))
