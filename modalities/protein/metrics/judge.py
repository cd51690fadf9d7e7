"""An independent opinion: how likely another network finds a design on its backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.protein.alphabet import UNKNOWN, tokens
from modalities.protein.modality import structure_of
from modalities.protein.sample import Designed
from multigen.distributed import resolve
from multigen.random import Noise, keys
from multigen.state import Batch, State, at_least

_NAME = "sequence"


class Judge:
    """Mean log-likelihood of designed residues, in nats, under ProteinMPNN (Dauparas et al. 2022) and the design's backbone.

    =============================  ==================================================================================
    ``judge_<variant>``            of the designs; ``..._std`` over designs
    ``judge_<variant>_real``       of the native sequences: what a perfect model would be given
    ``judge_<variant>_shuffled``   of the native sequences with the designed residues in random order: what composition alone
                                   is given
    =============================  ==================================================================================

    The residues of a sequence are read in `orders` random orders, the same for the design, its native sequence and the
    shuffled one.

    Args:
        variant: of the published weights, see `modalities.protein.proteinmpnn.load_proteinmpnn`.
        teacher: the model was aligned to these weights, so their opinion is not independent: the report says so.
        orders: over which the likelihood is averaged.
        sites: residues that are judged at a time: it changes rounding and memory alone.
        device: where it runs.
        model: the network itself, in place of published weights; then `variant` only names it.
    """

    def __init__(
        self,
        variant: str = "v_48_020",
        teacher: bool = False,
        orders: int = 4,
        seed: int = 0,
        sites: int = 2048,
        device: str = "auto",
        model: Any = None,
    ) -> None:
        at_least(1, orders=orders, sites=sites)
        self.variant, self.teacher, self.orders, self.seed = variant, teacher, orders, seed
        self.sites, self.device = sites, device
        self._given = model
        self._scores: dict[str, list[tuple[float, int]]] = {"": [], "real": [], "shuffled": []}
        self._seen: set[tuple[str, str]] = set()

    @property
    def _measure(self) -> str:
        return f"judge_{self.variant}"

    def update(self, samples: Sequence[Designed | None], template: Batch) -> None:
        rows = [(i, s) for i, s in enumerate(samples) if s is not None and s.native and s.backbone is not None]
        new = [(i, s) for i, s in rows if (s.name, s.native) not in self._seen]
        new = list({(s.name, s.native): (i, s) for i, s in reversed(new)}.values())[::-1]
        self._seen |= {(s.name, s.native) for _, s in new}
        size = max(1, self.sites // max([1, *(len(s.native) for _, s in rows)]))
        for kind, some in (("", rows), ("real", new), ("shuffled", new)):
            for start in range(0, len(some), size):
                self._judge(kind, some[start : start + size], template)

    def _judge(self, kind: str, rows: Sequence[tuple[int, Designed]], template: Batch) -> None:
        index, names = torch.tensor([i for i, _ in rows]), [s.name for _, s in rows]  # (B,)
        native, free = (x[_NAME].cpu()[index] for x in (template.clean, template.free))  # (B, L), (B, L)
        counted = free & (native < UNKNOWN)  # (B, L)
        sequence = native  # (B, L)
        if kind == "":
            sequence = _stack([s.sequence for _, s in rows], native)  # (B, L)
        if kind == "shuffled":
            sequence = shuffled(native, counted, names, self.seed)  # (B, L)
        structure = {name: x.cpu()[index] for name, x in structure_of(template).items()}
        log_p = self._log_likelihood(structure, sequence, named_keys("judge", names, self.seed), free)  # (B, L)
        for row, real in zip(log_p, counted, strict=True):
            if real.any():
                self._scores[kind].append((float(row[real].sum()), int(real.sum())))

    def _log_likelihood(self, structure: State, sequence: Tensor, key: Tensor, free: Tensor) -> Tensor:
        """Float64 (B, L): of each residue of Long (B, L), mean over the orders that Long (B,) stands for."""
        device = resolve(self.device)
        there = {name: x.to(device) for name, x in structure.items()}
        given = (x.to(device) for x in (sequence, key, free))
        with torch.no_grad():
            return self._model.log_likelihood(there, *given, orders=self.orders).double().cpu()

    @cached_property
    def _model(self) -> Any:
        if self._given is not None:
            return self._given.to(resolve(self.device))
        from modalities.protein.proteinmpnn import load_proteinmpnn

        return load_proteinmpnn(self.variant).to(resolve(self.device))

    def compute(self) -> dict[str, float]:
        found = {"_".join([self._measure, *kind.split()]): _mean(scores) for kind, scores in self._scores.items()}
        each = [total / count for total, count in self._scores[""]]
        return found | {f"{self._measure}_std": float(np.std(each)) if each else math.nan}

    def about(self) -> dict[str, Any]:
        said = f"mean log-likelihood of designed residues under ProteinMPNN {self.variant}, in nats"
        meaning = {
            self._measure: f"{said}; real: of the native sequences",
            f"{self._measure}_shuffled": "of the native sequences with the designed residues in random order; a lower bound",
        }
        warned = f"{self._measure}: the model was aligned to these very weights, so it is judged by its own teacher."
        return {
            "meaning": meaning,
            "reference": {"": f"the native sequences of {len(self._seen):,} backbones"},
            "settings": {"variant": self.variant, "orders": self.orders, "seed": self.seed, "teacher": self.teacher},
            **({"note": warned} if self.teacher else {}),
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def named_keys(stream: str, names: Sequence[str], seed: int) -> Tensor:
    """Long (B,): keys that are functions of a name, so that they do not depend on the batch."""
    return torch.cat([keys(seed, [0], f"{stream} {name}") for name in names])  # (B,)


def shuffled(sequence: Tensor, some: Tensor, names: Sequence[str], seed: int = 0) -> Tensor:
    """The marked residues of each row in a random order, a function of the name: Long and Bool (B, L) -> Long (B, L)."""
    key = named_keys("shuffle", names, seed)  # (B,)
    rank = Noise(key).uniform(sequence.shape[1:], torch.float64) + (~some) * 2  # (B, L)
    found = sequence.clone()  # (B, L)
    for row, order, marked in zip(found, rank.argsort(1), some, strict=True):
        row[marked] = row[order[: int(marked.sum())]]
    return found


def _stack(sequences: Sequence[str], like: Tensor) -> Tensor:
    """Letters -> Long (B, L), the rest as in `like`."""
    found = like.clone()  # (B, L)
    for row, sequence in zip(found, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(tokens(sequence).astype(np.int64))
    return found


def _mean(scores: Sequence[tuple[float, int]]) -> float:
    """Over the residues of all sequences, from sums and counts."""
    return sum(total for total, _ in scores) / sum(count for _, count in scores) if scores else math.nan
