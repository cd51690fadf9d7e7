"""The data set that reads prepared proteins (see `modalities.protein.layout`) by memory map."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein.layout import COLUMNS, RESIDUES, SPLITS, whole
from modalities.protein.writer import Writer, prepare
from multigen import files
from multigen.random import keys
from multigen.state import MultigenError, at_least

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
        at_least(1, limit=1 if limit is None else limit)
        self.folder, self.split, self.what, self.command = Path(folder), split, what, command
        if not (self.folder / "manifest.json").is_file():
            raise MultigenError(f"{what} are not prepared in {folder}; run `{command}`")
        self.manifest: dict[str, Any] = files.read_json(self.folder / "manifest.json")
        if split not in (choices := [*self.manifest["count"], "all"]):
            raise MultigenError(f"{what} have no split {split!r}: choices are {choices}")
        self._options = [split, min_length, max_length, limit]
        self.rows = self._select(split, min_length, max_length, limit)  # (N,)
        self.sizes = np.diff(self._column("start"))[self.rows]  # (N,)
        self.clusters = np.array(self._column("cluster")[self.rows])  # (N,)

    def _select(self, split: str, least: int, most: int | None, limit: int | None) -> NDArray[np.int64]:
        sizes = np.diff(self._column("start"))  # (all,)
        keep = (sizes >= least) & (sizes <= (most or sizes.max()))  # (all,)
        if split != "all":
            keep &= self._column("split") == SPLITS.index(split)
        rows = np.flatnonzero(keep)  # (N,)
        if not len(rows):
            raise MultigenError(f"{self.what} have none of {least} to {most} residues in split {split!r}")
        order = keys(0, range(len(rows)), "limit").argsort(stable=True).numpy()  # (N,)
        return np.sort(rows[order[:limit]])

    @cached_property
    def fingerprint(self) -> str:
        parts = [self.manifest["files"], self._options]
        return f"{self.what.replace(' ', '_')}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """On the disk until they are read. Plain arrays: slicing a memmap object is slow."""
        return {name: self._column(name) for name in COLUMNS}

    def _column(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise MultigenError(f"{path} is damaged ({error}); run `{self.command}`") from None

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers open the files for themselves: a memory map would be pickled as the whole array."""
        return {k: v for k, v in self.__dict__.items() if k != "_columns"}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, columns = self.rows[index], self._columns
        here = slice(*columns["start"][row : row + 2])
        name = slice(*columns["name_start"][row : row + 2])
        item = {key: np.array(columns[key][here]) for key in RESIDUES}  # (L, ...) each: copies
        return {"name": columns["name"][name].tobytes().decode(), **item}
