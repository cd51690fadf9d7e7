"""What a batch needs for its targets: names that files are found by, and sizes that cached ones are padded to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multigen.modality import Example


def encode_names(names: Sequence[str]) -> Tensor:
    """Names as bytes, UTF-8 padded with zeros: uint8 (B, N). An encoder sees tensors only."""
    encoded = [name.encode() for name in names]
    width = max([1, *map(len, encoded)])
    return torch.tensor([list(e.ljust(width, b"\0")) for e in encoded], dtype=torch.uint8)  # (B, N)


def decode_names(names: Tensor) -> list[str]:
    """Uint8 (B, N) -> names."""
    return [bytes(row).rstrip(b"\0").decode() for row in names.cpu().numpy()]


def target_sites(examples: Sequence[Example], length: int, neighbours: int) -> dict[str, tuple[int, ...]]:
    """Sizes to pad the targets of a batch to: (L,) of residues, (L, K) of pairs, told apart by their dimensions.

    A cache keeps of each example the smallest box of sites that holds its real ones: it is shorter where the last residue
    has no structure, and narrower where a protein has fewer residues than neighbours are wanted.
    """
    found = examples[0].get("target", {}) if examples else {}
    arrays = {name: x[0] if isinstance(x, tuple) else x for name, x in found.items()}
    return {name: (length, neighbours)[: array.ndim - 1] for name, array in arrays.items()}
