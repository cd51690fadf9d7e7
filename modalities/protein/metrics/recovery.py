"""How much of the native sequence a design finds again, where, and whether the model knows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein import backbones, figures
from modalities.protein.alphabet import UNKNOWN, tokens
from modalities.protein.drawing import grouped
from modalities.protein.geometry import CA
from modalities.protein.palette import GROUPS
from modalities.protein.sample import Designed
from multigen.state import Batch

RADIUS = 10.0
"""Angstrom: alpha carbons within this distance of a residue's own say how buried it is."""
BURIAL = {"exposed": (0, 13), "intermediate": (13, 18), "buried": (18, 10_000)}
"""From, and below, this many: about a third each of the residues of chains of 20 to 100 residues."""
FLOOR = 1e-6
"""Least confidence that is told apart from none in a logarithm."""


class Residues(NamedTuple):
    """The residues of all designs that were made and are known in the native sequence, one after another."""

    made: NDArray[np.int64]
    """(M,) tokens 0..20."""
    native: NDArray[np.int64]
    """(M,) tokens 0..19."""
    confidence: NDArray[np.float64]
    """(M,), NaN where it was not recorded."""
    near: NDArray[np.int64]
    """(M,): alpha carbons within `RADIUS`, -1 where the residue has none."""
    design: NDArray[np.int64]
    """(M,): number of the design."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,)."""
        return self.made == self.native


class Recovery:
    """Designed residues against native ones, over those that were made and whose native residue is known.

    ==============================  =================================================================================
    ``recovery``                    share of all residues that are the native ones (micro average)
    ``recovery_mean``, ``_median``  the same for each protein, its designs together, over proteins
    ``recovery_chance``             what the compositions of designs and native sequences alone would give
    ``recovery_<group>``            over native residues of one chemistry (`modalities.protein.palette.GROUPS`)
    ``recovery_exposed``, ...       by the number of alpha carbons within 10 Angstrom
    ``design_log_likelihood``       mean log probability of a made residue when it was chosen, if recorded
    ``confidence``                  mean of that probability
    ``calibration_error``           mean over residues of |confidence - recovery| of ten bins of confidence
    ==============================  =================================================================================

    Args:
        shown: backbones that the report shows, in colours of the first design's confidence.
        logos: backbones with several designs that are drawn as a sequence logo.
    """

    def __init__(self, shown: int = 3, logos: int = 2) -> None:
        self.shown, self.logos = shown, logos
        self.samples: list[Designed] = []

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        self.samples += [sample for sample in samples if sample is not None and sample.native]

    def compute(self) -> dict[str, float]:
        r = residues(self.samples)
        found = {"recovery": _mean(r.right), **self._by_protein(r), "recovery_chance": chance(r)}
        for name, group in GROUPS.items():
            found[f"recovery_{name}"] = _mean(r.right[np.isin(r.native, tokens(group.letters))])
        for name, (low, high) in BURIAL.items():
            found[f"recovery_{name}"] = _mean(r.right[(low <= r.near) & (r.near < high)])
        if r.confidence.size and np.isfinite(r.confidence).all():
            found |= self._confidence(r)
        return found

    def _by_protein(self, r: Residues) -> dict[str, float]:
        place = {id(sample): i for i, sample in enumerate(self.samples)}
        groups = [[place[id(sample)] for sample in group] for group in grouped(self.samples)]
        shares = [_mean(r.right[np.isin(r.design, group)]) for group in groups]
        some = np.array([share for share in shares if math.isfinite(share)])  # (proteins,)
        if not len(some):
            return dict.fromkeys(("recovery_mean", "recovery_mean_std", "recovery_median"), math.nan)
        return {
            "recovery_mean": float(some.mean()),
            "recovery_mean_std": float(some.std()),
            "recovery_median": float(np.median(some)),
        }

    @staticmethod
    def _confidence(r: Residues) -> dict[str, float]:
        return {
            "design_log_likelihood": float(np.log(np.maximum(r.confidence, FLOOR)).mean()),
            "confidence": float(r.confidence.mean()),
            "calibration_error": calibration_error(r.confidence, r.right),
        }

    def about(self) -> dict[str, Any]:
        proteins = len(grouped(self.samples))
        meaning = {
            "recovery": "share of designed residues that are the native ones; higher is better",
            "recovery_mean": "the same for each protein; mean and deviation over proteins",
            "recovery_median": "the same for each protein; median",
            "recovery_chance": "recovery that the compositions alone would give",
            **{f"recovery_{name}": f"where the native residue is one of {group.letters}" for name, group in GROUPS.items()},
            **{f"recovery_{name}": f"where the residue has {_within(*BURIAL[name])} within 10 A" for name in BURIAL},
            "design_log_likelihood": "mean log probability that the model gave a residue when it chose it",
            "confidence": "mean of that probability; the recovery, if it is calibrated",
            "calibration_error": "mean distance between confidence and recovery in ten bins of confidence; lower is better",
        }
        return {"meaning": meaning, "reference": {"": f"the native sequences of {proteins:,} backbones"}}

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Substitutions, calibration, logos; also the backbones that `modalities.protein.backbones.parts` shows."""
        backbones.write([group[0] for group in grouped(self.samples)][: self.shown], folder)
        r = residues(self.samples)
        if not len(r.made):
            return {}
        counts = np.zeros((UNKNOWN + 1, UNKNOWN + 1), np.int64)  # (21, 21)
        np.add.at(counts, (r.native, r.made), 1)
        said = "Share of designed residues (columns) in the place of each native one (rows), and how frequent each is"
        drawn = {said: figures.substitutions(counts[:UNKNOWN, :UNKNOWN], folder / "substitutions.png")}
        if np.isfinite(r.confidence).all():
            said = "Designed residues by their confidence: share that is native (above) and how many there are (below)"
            drawn[said] = figures.calibration(r.confidence, r.right, folder / "calibration.png")
        return {**drawn, **self._logos(folder)}

    def _logos(self, folder: Path) -> dict[str, Path]:
        several = [group for group in grouped(self.samples) if len(group) > 1][: self.logos]
        return {
            f"{len(group)} designs for {group[0].name or 'one backbone'}": figures.logo(group, folder / f"logo_{i}.png")
            for i, group in enumerate(several, 1)
        }


def residues(samples: Sequence[Designed]) -> Residues:
    """What counts in each design that has a native sequence."""
    rows = [_residues(i, sample) for i, sample in enumerate(samples)]
    return Residues._make(np.concatenate(column) for column in zip(_nothing(), *rows, strict=True))


def _residues(number: int, sample: Designed) -> Residues:
    made, native = tokens(sample.sequence).astype(np.int64), tokens(sample.native).astype(np.int64)  # (L,), (L,)
    counted = sample.free & (native < UNKNOWN)  # (L,)
    sure = np.full(len(made), np.nan) if sample.confidence is None else sample.confidence.astype(np.float64)  # (L,)
    each = Residues(made, native, sure, burial(sample.backbone, len(made)), np.full(len(made), number))
    return Residues._make(column[counted] for column in each)


def _nothing() -> Residues:
    none = np.zeros(0, np.int64)
    return Residues(none, none, np.zeros(0), none, none)


def burial(backbone: NDArray[Any] | None, length: int) -> NDArray[np.int64]:
    """(L,): known alpha carbons within `RADIUS` of each residue's own, -1 where that is not known. Backbone (L, 4, 3)."""
    if backbone is None:
        return np.full(length, -1)
    ca = backbone[:, CA].astype(np.float64)  # (L, 3)
    distance = np.linalg.norm(ca[:, None] - ca, axis=-1)  # (L, L)
    return np.where(np.isnan(ca).any(-1), -1, (distance < RADIUS).sum(1) - 1)


def chance(r: Residues) -> float:
    """Recovery if every residue were drawn from the designs' composition, whatever the native one is."""
    if not len(r.made):
        return math.nan
    made, native = (np.bincount(x, minlength=UNKNOWN + 1) / len(x) for x in (r.made, r.native))  # (21,), (21,)
    return float(made @ native)


def calibration_error(confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error (Naeini, Cooper and Hauskrecht 2015): confidence (M,) in 0..1, right (M,)."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)  # (M,)
    gap = np.bincount(place, confidence, bins) - np.bincount(place, right, bins)  # (bins,)
    return float(np.abs(gap).sum() / len(confidence))


def _within(low: int, high: int) -> str:
    """Words for a bin of `BURIAL`."""
    if not low:
        return f"fewer than {high} alpha carbons"
    return f"{low} to {high - 1} alpha carbons" if high < 1000 else f"{low} or more alpha carbons"


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan
