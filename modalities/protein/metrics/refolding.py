"""Whether a designed sequence is predicted to fold into the backbone that it was designed for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein.folding import BREAK, Fold, Folded
from modalities.protein.geometry import CA
from modalities.protein.sample import Designed
from multigen import describe
from multigen.state import Batch, MultigenError


class Score(NamedTuple):
    """One folded sequence."""

    rmsd: float
    """Of all backbone atoms after superposition, in Angstrom; NaN without a backbone to compare with."""
    tm: float
    """TM-score (Zhang and Skolnick 2004) of residue i with residue i, normalised by the known residues; 0 to 1."""
    plddt: float
    """Mean over residues, 0 to 100."""


class Refolding:
    """Designs are folded by a structure predictor and compared with the backbone that they were designed for.

    ======================  =========================================================================================
    ``refolding_rmsd``      RMSD of N, CA, C and O after superposition (Kabsch 1976), in Angstrom: mean; ``_median``
    ``refolding_success``   share of designs below the threshold
    ``refolding_tm``        mean TM-score
    ``plddt``               mean over designs of the predictor's own confidence; ``plddt_median``
    ``plddt_success``       share of designs above the threshold
    ======================  =========================================================================================

    Each comes with ``..._real``: the same of the native sequences. Sequences without a backbone have the last three alone.

    Args:
        fold: ``sequence -> Folded``, see `modalities.protein.folding`. Unknown residues (X) are folded as alanine; several
            chains are folded together.
        threshold_rmsd: in Angstrom.
        threshold_plddt: 0 to 100.
        native: fold the native sequences too.
        limit: fold this many samples, the first ones; by default all.
    """

    def __init__(
        self,
        fold: Fold,
        threshold_rmsd: float = 2.0,
        threshold_plddt: float = 80.0,
        native: bool = True,
        limit: int | None = None,
    ) -> None:
        self.fold, self.native, self.limit = fold, native, limit
        self.threshold_rmsd, self.threshold_plddt = threshold_rmsd, threshold_plddt
        self._done: dict[str, Folded] = {}
        self._scores: list[Score] = []
        self._real: dict[str, Score] = {}

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        for sample in samples:
            if sample is not None and (self.limit is None or len(self._scores) < self.limit):
                self._scores.append(self._score(sample, sample.sequence))
                if self.native and sample.native:
                    self._real[sample.native] = self._score(sample, sample.native)

    def _score(self, sample: Designed, sequence: str) -> Score:
        return score(self._folded(chains(sequence, sample.chain)), sample.backbone)

    def _folded(self, sequence: str) -> Folded:
        if sequence not in self._done:
            folded, length = self.fold(sequence), len(sequence) - sequence.count(BREAK)
            if folded.backbone.shape != (length, 4, 3) or folded.plddt.shape != (length,):
                raise MultigenError(
                    f"the folding program made {folded.backbone.shape} and {folded.plddt.shape} of {length} residues, "
                    f"expected {(length, 4, 3)} and {(length,)}"
                )
            self._done[sequence] = folded
        return self._done[sequence]

    def compute(self) -> dict[str, float]:
        return self._measures(self._scores) | {f"{k}_real": v for k, v in self._measures([*self._real.values()]).items()}

    def _measures(self, scores: Sequence[Score]) -> dict[str, float]:
        if not scores:
            return {}
        plddt = np.array([score.plddt for score in scores])  # (N,)
        found = {
            "plddt": float(plddt.mean()),
            "plddt_median": float(np.median(plddt)),
            "plddt_success": float((plddt > self.threshold_plddt).mean()),
        }
        compared = [score for score in scores if math.isfinite(score.rmsd)]
        rmsd = np.array([score.rmsd for score in compared])  # (M,)
        if not compared:
            return found
        return {
            "refolding_rmsd": float(rmsd.mean()),
            "refolding_rmsd_std": float(rmsd.std()),
            "refolding_rmsd_median": float(np.median(rmsd)),
            "refolding_success": float((rmsd < self.threshold_rmsd).mean()),
            "refolding_tm": float(np.nanmean([score.tm for score in compared])),
            **found,
        }

    def about(self) -> dict[str, Any]:
        program = describe.plain(self.fold)
        meaning = {
            "refolding_rmsd": "RMSD of the backbone of the folded design, in Angstrom; mean and deviation; lower is better",
            "refolding_rmsd_median": "the same; median",
            "refolding_success": f"share of designs with an RMSD below {self.threshold_rmsd:g} Angstrom; higher is better",
            "refolding_tm": "TM-score of the folded design, residue by residue; 0 to 1, higher is better",
            "plddt": "confidence of the folding program in its structure; 0 to 100, mean over designs; higher is better",
            "plddt_median": "the same; median",
            "plddt_success": f"share of designs with a pLDDT above {self.threshold_plddt:g}; higher is better",
        }
        return {
            "meaning": meaning,
            "reference": {"": f"structures predicted of {len(self._scores):,} designs"},
            "folding": program,
            "settings": {"threshold_rmsd": self.threshold_rmsd, "threshold_plddt": self.threshold_plddt, "limit": self.limit},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def chains(sequence: str, chain: NDArray[Any]) -> str:
    """What a folding program is given: chains apart, alanine for residues that are unknown."""
    breaks = set((np.flatnonzero(np.diff(chain)) + 1).tolist())
    return "".join((BREAK if i in breaks else "") + ("A" if a == "X" else a) for i, a in enumerate(sequence))


def score(folded: Folded, backbone: NDArray[Any] | None) -> Score:
    """Compare a predicted structure with a backbone (L, 4, 3) in Angstrom, over the residues whose four atoms are known."""
    plddt = float(folded.plddt.mean())
    if backbone is None:
        return Score(math.nan, math.nan, plddt)
    known = np.isfinite(backbone).all((1, 2))  # (L,)
    made, wanted = folded.backbone[known].astype(np.float64), backbone[known].astype(np.float64)  # (M, 4, 3) each
    return Score(rmsd(made.reshape(-1, 3), wanted.reshape(-1, 3)), tm_score(made[:, CA], wanted[:, CA]), plddt)


def rmsd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Root mean square distance of points (M, 3) and (M, 3) after the best rotation and translation (Kabsch 1976).

    |a|^2 + |b|^2 - 2 (s1 + s2 + d s3) over M, with s the singular values of the covariance of the centred points and d the
    sign of its determinant, which keeps mirror images apart. NaN for no points.
    """
    if not len(a):
        return math.nan
    a, b = a - a.mean(0), b - b.mean(0)  # (M, 3) each
    left, s, right = np.linalg.svd(a.T @ b)  # (3, 3), (3,), (3, 3)
    s[-1] *= np.sign(np.linalg.det(left @ right))
    return math.sqrt(max(float((a**2).sum() + (b**2).sum() - 2 * s.sum()), 0.0) / len(a))


def tm_score(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """TM-score of alpha carbons (M, 3) and (M, 3), the i-th with the i-th, by the search of TM-align. NaN below 3 points.

    Raises:
        MultigenError: the package tmtools is not installed.
    """
    try:
        from tmtools import tm_align
    except ModuleNotFoundError:
        raise MultigenError("TM-scores need the package tmtools: pip install 'multigen[protein]'") from None
    if len(a) < 3:
        return math.nan
    letters = "A" * len(a)
    return float(tm_align(a, b, letters, letters, alignment=(letters, letters)).tm_norm_chain2)
