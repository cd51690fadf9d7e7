"""How near samples come to training sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalities.protein import cluster, seeds
from modalities.protein.alphabet import tokens
from modalities.protein.metrics import sequences
from modalities.protein.sample import Designed
from multigen import describe
from multigen.modality import Dataset
from multigen.state import Batch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COPY = 0.9
"""Identity, over as much of the shorter sequence, from which a sample counts as a copy."""
WORDS = (seeds.Seed("111"), seeds.Seed("11011", seeds.TWELVE), seeds.Seed("1101011", seeds.MURPHY))
"""What training sequences are looked up by. Of 12 held-out chains with a relative among 1,800 short ones, the nearest was
among the first 100 that share most of these words 12 times; by words of three letters alone, 8 times."""


class Novelty:
    """Each sample against the training sequence that is nearest to it by local alignment (`modalities.protein.cluster`).

    ==================  =============================================================================================
    ``nearest_train``   mean over samples of identity x coverage of the best alignment, 0 where none is significant
    ``near_copies``     share of samples with a training sequence of 90 % identity over 90 % of the shorter one
    ``novel``           share of samples without one of 30 % identity over 80 %: such as share no cluster with training
    ==================  =============================================================================================

    Each comes with ``..._real``: the same of as many held-out sequences. Of the training sequences, those that share most
    words with the sample, rare words counting more, are aligned.

    Args:
        train: what the model has seen.
        held_out: what it has not.
        aligned: training sequences that are aligned with each sample.
        limit: training sequences that are looked through, evenly spaced; by default all.
    """

    def __init__(self, train: Dataset, held_out: Dataset, aligned: int = 100, limit: int | None = None) -> None:
        self.train, self.held_out, self.aligned, self.limit = train, held_out, aligned, limit
        self.samples: list[str] = []

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        self.samples += [sample.sequence for sample in samples if sample is not None]

    def compute(self) -> dict[str, float]:
        if not self.samples:
            return dict.fromkeys(self.about()["meaning"], math.nan)
        real = sequences.of_dataset(self.held_out, len(self.samples))
        return self._measures(self.samples) | {f"{k}_real": v for k, v in self._measures(real).items()}

    def _measures(self, some: Sequence[str]) -> dict[str, float]:
        unique = {sequence: self._near(sequence) for sequence in dict.fromkeys(some)}
        near = [unique[sequence] for sequence in some]
        return {
            "nearest_train": float(np.mean([max((n.identity * n.coverage for n in found), default=0) for found in near])),
            "near_copies": float(np.mean([any(n.reaches(COPY, COPY) for n in found) for found in near])),
            "novel": float(np.mean([not any(n.reaches(cluster.IDENTITY, cluster.COVERAGE) for n in found) for found in near])),
        }

    def _near(self, sequence: str) -> list[cluster.Similarity]:
        """The alignments with the training sequences that share most words with it."""
        shared = self._index.dot(words([sequence]).T).toarray()[:, 0]  # (N,)
        best = np.argsort(-shared, kind="stable")[: self.aligned]  # (aligned,)
        return [cluster.similarity(sequence, self._train[i], self._aligner) for i in best if shared[i] > 0]

    @cached_property
    def _train(self) -> list[str]:
        return sorted(set(sequences.of_dataset(self.train, self.limit)))

    @cached_property
    def _aligner(self) -> Any:
        return cluster.make_aligner()

    @cached_property
    def _index(self) -> csr_matrix:
        """(N, words): log(N / n) where a training sequence has a word that n of them have."""
        has = words(self._train)  # (N, words)
        times = np.asarray(has.sum(0)).ravel()  # (words,)
        return has.multiply(np.log1p(has.shape[0] / np.maximum(times, 1))).tocsr()

    def about(self) -> dict[str, Any]:
        least = f"{cluster.IDENTITY:.0%} identity over {cluster.COVERAGE:.0%}"
        meaning = {
            "nearest_train": "identity x coverage of the best alignment with a training sequence; far above real: copies",
            "near_copies": f"share with a training sequence of {COPY:.0%} identity over {COPY:.0%} of the shorter one",
            "novel": f"share without a training sequence of {least} of the shorter one",
        }
        return {
            "meaning": meaning,
            "reference": {"": sequences.named(self.train, "training")},
            "sets": {"held out": describe.dataset(self.held_out), "train": describe.dataset(self.train)},
            "settings": {"aligned": self.aligned, "limit": self.limit},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def words(some: Sequence[str]) -> csr_matrix:
    """(N, words): 1 where a sequence has a word, of any of `WORDS`."""
    from scipy.sparse import csr_matrix, hstack

    kinds = []
    for seed in WORDS:
        found = [seeds.words(tokens(sequence), seed) for sequence in some]  # (L,) each
        each = [np.unique(number[number >= 0]) for number in found]  # (words of it,) each
        start = np.cumsum([0, *map(len, each)])  # (N + 1,)
        size = len(seed.groups.split()) ** seed.pattern.count("1")
        column = np.concatenate([np.zeros(0, np.int64), *each])  # (W,)
        kinds.append(csr_matrix((np.ones(len(column)), column, start), shape=(len(some), size)))
    return hstack(kinds).tocsr()
