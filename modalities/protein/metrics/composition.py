"""Whether samples use amino acids as real sequences do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein import figures
from modalities.protein.alphabet import UNKNOWN, tokens
from modalities.protein.metrics import sequences
from modalities.protein.sample import Designed
from multigen import describe
from multigen.modality import Dataset
from multigen.state import Batch

WINDOW, BITS = 12, 2.2
"""A residue is of low complexity if it lies in a window of so many whose letters have less entropy than this: what triggers
SEG (Wootton and Federhen 1993)."""


class Composition:
    """Frequencies of amino acids and of neighbours in samples and held-out sequences; residues that were given do not count.

    =======================  ========================================================================================
    ``composition_kl``       Kullback-Leibler divergence of the samples' frequencies from the reference's, in nats
    ``composition_tv``       total variation between the two, 0 to 1
    ``dipeptide_tv``         the same of pairs of neighbours
    ``low_complexity``       share of residues in windows of 12 with an entropy below 2.2 bits
    ``longest_run``          mean over sequences of the longest run of one amino acid
    ``length_distance``      mean difference of sorted lengths, in residues; of sequences that had no backbone to fit
    ``unigram_nll``          what knowing the training set's frequencies alone gives for held-out residues, in nats each:
                             the bound on -log p of a model that has learnt anything else is lower
    =======================  ========================================================================================

    Each but the last comes with ``..._real``: the same of training sequences, as many as there are samples.

    Args:
        train: training sequences, the control.
        held_out: sequences that the model has not seen, the reference.
        limit: evenly spaced sequences that are read of each.
    """

    def __init__(self, train: Dataset, held_out: Dataset, limit: int = 2000) -> None:
        self.train, self.held_out, self.limit = train, held_out, limit
        self.samples: list[str] = []
        self._free = True

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        found = [sample for sample in samples if sample is not None]
        self.samples += [sequences.made(sample) for sample in found]
        self._free &= not any(sample.native for sample in found)

    def compute(self) -> dict[str, float]:
        if not any(set(sample) - {"X"} for sample in self.samples):
            return dict.fromkeys(self.about()["meaning"], math.nan)
        control = sequences.fitting(self._train, len(self.samples))
        found = self._measures(self.samples) | {f"{k}_real": v for k, v in self._measures(control).items()}
        found["unigram_nll"] = cross_entropy(frequencies(self._held_out), frequencies(self._train))
        return {k: v for k, v in found.items() if self._free or not k.startswith("length")}

    def _measures(self, some: Sequence[str]) -> dict[str, float]:
        ours, theirs = frequencies(some), frequencies(self._held_out)  # (20,), (20,)
        return {
            "composition_kl": divergence(ours, theirs),
            "composition_tv": variation(ours, theirs),
            "dipeptide_tv": variation(neighbours(some), neighbours(self._held_out)),
            "low_complexity": float(np.concatenate([low_complexity(s) for s in some]).mean()),
            "longest_run": float(np.mean([longest_run(s) for s in some])),
            "length_distance": length_distance([len(s) for s in some], [len(s) for s in self._held_out]),
        }

    @cached_property
    def _train(self) -> list[str]:
        return sequences.of_dataset(self.train, self.limit)

    @cached_property
    def _held_out(self) -> list[str]:
        return sequences.of_dataset(self.held_out, self.limit)

    def about(self) -> dict[str, Any]:
        meaning = {
            "composition_kl": "Kullback-Leibler divergence of amino-acid frequencies, in nats; lower is better",
            "composition_tv": "total variation between amino-acid frequencies; lower is better",
            "dipeptide_tv": "total variation between frequencies of neighbours; falls with more residues; lower is better",
            "low_complexity": f"share of residues in windows of {WINDOW} with less than {BITS} bits; best as in real data",
            "longest_run": "longest run of one amino acid, mean over sequences; best as in real data",
            **({"length_distance": "mean difference of sorted lengths, in residues; lower is better"} if self._free else {}),
            "unigram_nll": "of held-out residues by training frequencies alone, in nats; to be undercut by loss/recall/nll",
        }
        return {
            "meaning": meaning,
            "reference": {"": sequences.named(self.held_out, "held-out")},
            "sets": {"held out": describe.dataset(self.held_out), "train": describe.dataset(self.train)},
            "settings": {"limit": self.limit},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Frequencies of samples beside those of held-out sequences."""
        if not any(set(sample) - {"X"} for sample in self.samples):
            return {}
        drawn = figures.composition(frequencies(self.samples), frequencies(self._held_out), folder / "composition.png")
        return {"Amino acids in samples and in held-out sequences": drawn}


def frequencies(some: Sequence[str]) -> NDArray[np.float64]:
    """(20,): share of each amino acid; letters that are none do not count."""
    all_tokens = tokens("".join(some)).astype(np.int64)  # (M,)
    count = np.bincount(all_tokens[all_tokens < UNKNOWN], minlength=UNKNOWN)  # (20,)
    return count / max(count.sum(), 1)


def neighbours(some: Sequence[str]) -> NDArray[np.float64]:
    """(400,): share of each ordered pair of neighbours."""
    row = tokens("X".join(some)).astype(np.int64)  # (M,)
    pair = row[:-1] * UNKNOWN + row[1:]  # (M - 1,)
    count = np.bincount(pair[(row[:-1] < UNKNOWN) & (row[1:] < UNKNOWN)], minlength=UNKNOWN**2)  # (400,)
    return count / max(count.sum(), 1)


def variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Total variation of two distributions (K,)."""
    return float(np.abs(p - q).sum() / 2)


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """sum p log(p / q) of two distributions (K,); infinite where p holds what q lacks."""
    return cross_entropy(p, q) - cross_entropy(p, p)


def cross_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """-sum p log q of two distributions (K,), in nats; infinite where p holds what q lacks."""
    some = p > 0  # (K,)
    with np.errstate(divide="ignore"):
        return float(-(p[some] * np.log(q[some])).sum())


def low_complexity(sequence: str) -> NDArray[np.bool_]:
    """(L,): residues that lie in a window of low entropy; shorter sequences are one window."""
    row = tokens(sequence).astype(np.int64)  # (L,)
    found = np.zeros(len(row), bool)  # (L,)
    for start in range(max(len(row) - WINDOW, 0) + 1):
        part = slice(start, start + WINDOW)
        found[part] |= (row[part] < UNKNOWN).all() and _entropy(row[part]) < BITS
    return found


def _entropy(row: NDArray[np.int64]) -> float:
    """In bits, of the letters (L,)."""
    share = np.bincount(row) / max(len(row), 1)  # (K,)
    share = share[share > 0]  # (letters,)
    return float(-(share * np.log2(share)).sum())


def longest_run(sequence: str) -> int:
    """Length of the longest run of one amino acid."""
    return max((sum(1 for _ in run) for letter, run in groupby(sequence) if letter != "X"), default=0)


def length_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """The 1-Wasserstein distance of two sets of lengths."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b))
