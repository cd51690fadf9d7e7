"""Reads prepared examples by memory map."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigen import files
from multigen.random import keys
from multigen.state import MultigenError, at_least
from multigen.store.layout import SPLITS, Layout, start


class Store:
    """A prepared folder, open for reading; what a data set reads from.

    Args:
        folder: where the examples lie.
        layout: what they consist of.
        what: the data's name in messages.
        command: what prepares them, for messages; None where no command does.

    Raises:
        MultigenError: the folder is not prepared, or damaged.
    """

    def __init__(self, folder: str | Path, layout: Layout, what: str, command: str | None = "multigen prepare") -> None:
        self.folder, self.layout, self.what, self.advice = Path(folder), layout, what, f"; run `{command}`" if command else ""
        if not (self.folder / "manifest.json").is_file():
            raise MultigenError(f"{what} are not prepared in {folder}{self.advice}")
        self.manifest: dict[str, Any] = files.read_json(self.folder / "manifest.json")

    def fingerprint(self, *options: Any) -> str:
        """Changes whenever the files or `options` do."""
        parts = [self.manifest["files"], list(options)]
        return f"{self.what.replace(' ', '_')}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"

    def column(self, name: str) -> NDArray[Any]:
        """A whole column, on the disk until it is read."""
        path = self.folder / f"{name}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode="r"))  # a plain array: slicing a memmap object is slow
        except (OSError, ValueError, EOFError) as error:
            raise MultigenError(f"{path} is damaged ({error}){self.advice}") from None

    def sizes(self) -> NDArray[np.int64]:
        """(all,), rows of the main table of each example."""
        return np.diff(self.column(start("")))

    def in_split(self, split: str) -> NDArray[np.bool_]:
        """(all,), whether each example is in "train", "valid", "test" or "all".

        Raises:
            MultigenError: the data have no such split.
        """
        if split not in (choices := [*self.manifest["count"], "all"]):
            raise MultigenError(f"{self.what} have no split {split!r}: choices are {choices}")
        sides = self.column("split")  # (all,)
        return np.ones(len(sides), np.bool_) if split == "all" else sides == SPLITS.index(split)

    def __len__(self) -> int:
        return len(self.column("split"))

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One example: copies of its arrays, its texts, and its row of the items' columns."""
        columns, item = self._columns, dict[str, Any]()
        for table, names in self.layout.tables.items():
            here = slice(*columns[start(table)][row : row + 2])
            item |= {name: np.array(columns[name][here]) for name in names}  # (n, *row) each
        for text in self.layout.texts:
            here = slice(*columns[start(text)][row : row + 2])
            item[text] = columns[text][here].tobytes().decode()
        return item | {name: columns[name][row] for name in self.layout.items}

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {name: self.column(name) for name in self.layout.columns}

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers open the files for themselves: a memory map would be pickled as the whole array."""
        return {k: v for k, v in self.__dict__.items() if k != "_columns"}


def kept(keep: NDArray[np.bool_], limit: int | None = None) -> NDArray[np.int64]:
    """The rows (N,) that are kept: all of them, or `limit`, drawn by a fixed hash, a smaller one a subset of a larger one."""
    at_least(1, limit=1 if limit is None else limit)
    rows = np.flatnonzero(keep)  # (N,)
    order = keys(0, range(len(rows)), "limit").argsort(stable=True).numpy()  # (N,)
    return np.sort(rows[order[:limit]])
