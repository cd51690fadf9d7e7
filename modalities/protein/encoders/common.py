"""What the teachers of proteins share: what they see of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modalities.protein.modality import structure_of
from multigen.state import Batch, MultigenError, State


def sequence(batch: Batch) -> tuple[Tensor, Tensor]:
    """Tokens Long (B, L) and which of them are residues, Bool (B, L)."""
    return batch.clean["sequence"], batch.mask["sequence"]


def structure(batch: Batch, encoder: Any) -> State:
    """backbone (B, L, 4, 3), known (B, L), chain, index (B, L), neighbours (B, L, K); `MultigenError` without a backbone."""
    found = structure_of(batch)
    if "backbone" not in found:
        needs = f"{type(encoder).__name__} needs a backbone, the batch has {sorted(found)}"
        raise MultigenError(f"{needs}: is the encoder one of the modality's, and does the data set offer it?")
    return found


def visible(batch: Batch) -> Tensor:
    """The residues that have a target, Bool (B, L): those whose backbone is known; all, where there is no structure."""
    return structure_of(batch).get("known", batch.mask["sequence"])


def neighbours(batch: Batch, encoder: Any, wanted: int) -> Tensor:
    """Long (B, L, K); `MultigenError` if K is not the number that the encoder was made (and is cached) for."""
    found = structure(batch, encoder)["neighbours"]  # (B, L, K)
    if found.shape[-1] != wanted:
        name, hint = type(encoder).__name__, "give it neighbours: ${modality.neighbours}"
        raise MultigenError(f"{name} is for {wanted} neighbours, the batch has {found.shape[-1]}: {hint}")
    return found
