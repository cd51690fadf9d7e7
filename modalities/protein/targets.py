"""What a batch needs for its targets: names that files are found by, and sizes that cached ones are padded to."""

from __future__ import annotations

from collections.abc import Sequence

from multigen.modality import Example


def target_sites(examples: Sequence[Example], length: int, neighbours: int) -> dict[str, tuple[int, ...]]:
    """Sizes to pad the targets of a batch to: (L,) of residues, (L, K) of pairs, told apart by their dimensions.

    A cache keeps of each example the smallest box of sites that holds its real ones: it is shorter where the last residue
    has no structure, and narrower where a protein has fewer residues than neighbours are wanted.
    """
    found = examples[0].get("target", {}) if examples else {}
    arrays = {name: x[0] if isinstance(x, tuple) else x for name, x in found.items()}
    return {name: (length, neighbours)[: array.ndim - 1] for name, array in arrays.items()}
