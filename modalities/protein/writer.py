"""Writes prepared proteins, one by one, with memory for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import letters
from modalities.protein.layout import LAYOUT, checked
from multigen import store


class Writer(store.Writer):
    """Writes a folder protein by protein, as `multigen.store.Writer` does.

    >>> with Writer(folder, {"name": "mine", "licence": "CC0", "recipe": {}}) as writer:  # doctest: +SKIP
    ...     for example in examples:
    ...         writer.add(example, split="train", cluster=0)

    Args:
        folder: where the proteins shall lie.
        about: goes into the manifest: ``name``, ``licence``, ``recipe`` (everything that the data depend on), ...

    Raises:
        MultigenError: the disk is full or read-only; an example is malformed (the message names it); there is none at all.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        super().__init__(folder, LAYOUT, about)

    def add(self, example: Mapping[str, Any], split: str = "train", cluster: int | None = None) -> None:
        """Append one protein.

        Args:
            example: ``name`` str, ``sequence`` (L,), ``backbone`` (L, 4, 3) in Angstrom with NaN where missing, ``chain``
                (L,), ``index`` (L,), and perhaps ``free`` (L,): see `modalities.protein`.
            split: "train", "valid" or "test".
            cluster: number of its cluster; by default its own number.
        """
        number = len(self) if cluster is None else cluster
        super().add({**checked(example), "name": example["name"], "cluster": number}, split)

    def sequences(self) -> list[str]:
        """The sequences added so far, for clustering."""
        residues, start = self.column("sequence"), self.column("start")  # (M,), (N + 1,)
        return [letters(residues[a:b]) for a, b in pairwise(start)]

    def label(self, splits: Sequence[str], clusters: Sequence[int] | NDArray[np.int64]) -> None:
        """Set split and cluster of all proteins added so far, when they can only be known from all of them."""
        self.relabel(splits, cluster=clusters)


def prepare(folder: Path, about: Mapping[str, Any], fill: Callable[[Writer], None]) -> Path:
    """Let `fill` write a folder, unless it holds, unchanged, what was made by the same ``about["recipe"]``.

    Only one of several processes writes; the others wait and use what it made.
    """
    return store.prepare(Writer(folder, about), fill)
