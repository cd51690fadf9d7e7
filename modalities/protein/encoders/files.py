"""Representations of other programs as teachers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.protein.embeddings import Folder
from modalities.protein.encoders.common import neighbours, visible
from multigen.modality import decode_text
from multigen.state import Batch, Features, MultigenError


class Files(Folder):
    """A folder of representations as a teacher: ``multigen prepare`` reads and checks every file once and caches what is used.

    It reads ``raw["name"]``, the proteins' names (`multigen.modality.encode_text`).

    Args:
        neighbours: K of the modality; only pairs depend on it.
        path, what, format, file, key, width, missing: as in `Folder`.
    """

    def __init__(
        self,
        path: str | Path,
        what: str = "single",
        format: str = "plain",
        file: str | None = None,
        key: str | None = None,
        width: int | None = None,
        missing: str = "error",
        neighbours: int = 30,
    ) -> None:
        super().__init__(path, what, format, file, key, width, missing)
        self.neighbours = neighbours

    @cached_property
    def fingerprint(self) -> str:
        return super().fingerprint + (f"-{self.neighbours}" if self.what == "pair" else "")

    def to(self, device: Any) -> Files:
        return self

    def __call__(self, batch: Batch) -> Features:
        if "name" not in batch.raw:
            hint = "is the encoder one of the modality's?"
            raise MultigenError(f"Files needs raw 'name', the batch has {sorted(batch.raw)}: {hint}")
        lengths = batch.mask["sequence"].sum(1).tolist()  # (B,)
        near = self._neighbours(batch)  # (B, L, K)
        rows = zip(decode_text(batch.raw["name"]), lengths, near.cpu().numpy(), strict=True)
        found = [self.target(name, length, row[:length]) for name, length, row in rows]
        sites = near.shape if self.what == "pair" else near.shape[:2]
        return _stacked(found, visible(batch).view(*near.shape[:2], *[1] * (len(sites) - 2)), sites)

    def _neighbours(self, batch: Batch) -> Tensor:
        """Long (B, L, K); K is 0 where they are not read."""
        if self.what == "pair":
            return neighbours(batch, self, self.neighbours)
        return torch.zeros(*batch.mask["sequence"].shape, 0, dtype=torch.long)


def _stacked(found: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_]]], shown: Tensor, sites: Sequence[int]) -> Features:
    """Padded: (B, *sites, D), on the device of `shown`, Bool (B, L) or (B, L, 1), outside of which nothing is real."""
    value = np.zeros((*sites, found[0][0].shape[-1]), np.float32)  # (B, *sites, D)
    mask = np.zeros(sites, np.bool_)  # (B, *sites)
    for i, (array, real) in enumerate(found):
        value[i, : len(array)], mask[i, : len(array)] = array, real
    return Features(torch.from_numpy(value).to(shown.device), torch.from_numpy(mask).to(shown.device) & shown)
