"""The data set that reads prepared proteins (see `modalities.protein.layout`) by memory map."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from modalities.protein.layout import LAYOUT, RESIDUES
from modalities.protein.writer import Writer, prepare
from multigen.state import MultigenError
from multigen.store import Store, kept, whole

__all__ = ["Stored", "Writer", "prepare", "whole"]


class Stored:
    """The proteins of a prepared folder; an item is an example as in `modalities.protein`, read when it is asked for.

    Args:
        folder: where they lie.
        split: "train", "valid", "test" or "all".
        min_length, max_length: residues, both included; others are left out.
        limit: keep this many, drawn by a fixed hash: a smaller limit gives a subset of a larger one's.
        what: the data's name in messages.
        command: what prepares them, for messages.

    Attributes:
        sizes: int64 (N,), lengths.
        clusters: int64 (N,), numbers of the sequence clusters.

    Raises:
        MultigenError: the folder is not prepared or damaged, has no such split, or nothing is left of it.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        min_length: int = 1,
        max_length: int | None = None,
        limit: int | None = None,
        what: str = "proteins",
        command: str = "multigen prepare",
    ) -> None:
        self.store = Store(folder, LAYOUT, what, command)
        self._options = [split, min_length, max_length, limit]
        sizes = self.store.sizes()  # (all,)
        keep = self.store.in_split(split) & (sizes >= min_length) & (sizes <= (max_length or sizes.max()))  # (all,)
        self.rows = kept(keep, limit)  # (N,)
        if not len(self.rows):
            raise MultigenError(f"{what} have none of {min_length} to {max_length} residues in split {split!r}")
        self.sizes = sizes[self.rows]  # (N,)
        self.clusters = self.store.column("cluster")[self.rows]  # (N,)

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the folder: ``name``, ``licence``, ``recipe``, ``count``, ..."""
        return self.store.manifest

    @cached_property
    def fingerprint(self) -> str:
        return self.store.fingerprint(*self._options)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.store[self.rows[index]]
        return {name: item[name] for name in ("name", *RESIDUES)}
