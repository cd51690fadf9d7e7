"""How much samples differ from one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modalities.protein import cluster
from modalities.protein.drawing import grouped
from modalities.protein.metrics import sequences
from modalities.protein.sample import Designed
from multigen.modality import Dataset
from multigen.state import Batch


class Diversity:
    """Designs of one backbone against one another, position by position; sequences without a backbone by clustering.

    ================  ===============================================================================================
    ``diversity``     1 - mean identity of two designs of one backbone, over residues that were made; over backbones
    ``distinct``      share of samples that differ from all before
    ``cluster_share`` clusters of similar sequences (`modalities.protein.cluster`), as a share of the samples; of sequences
                      that had no backbone. ``..._real`` is that of as many held-out sequences.
    ================  ===============================================================================================

    Args:
        held_out: real sequences to compare with, for sequences without a backbone.
    """

    def __init__(self, held_out: Dataset | None = None) -> None:
        self.held_out = held_out
        self.samples: list[Designed] = []

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        self.samples += [sample for sample in samples if sample is not None]

    def compute(self) -> dict[str, float]:
        if not self.samples:
            return {}
        found = {"distinct": len({(s.name, s.sequence) for s in self.samples}) / len(self.samples)}
        groups = [group for group in self._designs if len(group) > 1 and group[0].free.any()]
        if groups:
            each = np.array([1 - mean_identity(group) for group in groups])  # (backbones,)
            found |= {"diversity": float(each.mean()), "diversity_std": float(each.std())}
        if self._free:
            found["cluster_share"] = cluster_share(self._free)
        if self._free and self.held_out is not None:
            found["cluster_share_real"] = cluster_share(sequences.of_dataset(self.held_out, len(self._free)))
        return found

    @cached_property
    def _designs(self) -> list[list[Designed]]:
        return grouped([sample for sample in self.samples if sample.native])

    @property
    def _free(self) -> list[str]:
        return [sample.sequence for sample in self.samples if not sample.native]

    def about(self) -> dict[str, Any]:
        least = f"{cluster.IDENTITY:.0%} identity over {cluster.COVERAGE:.0%} of the shorter one"
        meaning = {
            "distinct": "share of samples that differ from all before",
            "diversity": "1 - mean identity of two designs of one backbone; mean and deviation over backbones",
            "cluster_share": f"clusters at {least}, as a share of the samples; best as in real data",
        }
        several = sum(len(group) > 1 for group in self._designs)
        reference = {"diversity": f"{several:,} backbones with several designs", "distinct": f"{len(self.samples):,} samples"}
        if self.held_out is not None:
            reference["cluster_share"] = sequences.named(self.held_out, "held-out")
        return {"meaning": meaning, "reference": reference}

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def mean_identity(designs: Sequence[Designed]) -> float:
    """Of all pairs of designs of one backbone, over the residues that were made in the first one."""
    free = designs[0].free  # (L,)
    rows = np.array([list(design.sequence) for design in designs])[:, free]  # (N, made)
    return float(np.mean([(a == b).mean() for a, b in combinations(rows, 2)]))


def cluster_share(some: Sequence[str]) -> float:
    """Number of clusters over number of sequences."""
    return len(np.unique(cluster.clusters(some))) / len(some)
