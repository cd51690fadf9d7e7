"""Writes prepared proteins, one by one, with memory for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import letters
from modalities.protein.layout import COLUMNS, FORMAT, SPLITS, Column, checked, lock, plain, split_number, whole
from multigen import files
from multigen.state import MultigenError


class _Rows:
    """One ``.npy`` file that grows by rows; its header is written again when the number of rows is known."""

    def __init__(self, path: Path, column: Column) -> None:
        self.path, self.column, self.count = path, column, 0
        self._file = open(path, "wb+")  # noqa: SIM115 # closed by `close`
        self._header()

    def _header(self) -> None:
        """numpy pads a header so that the first dimension may grow in place."""
        shape = (self.count, *self.column.row)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"descr": self.column.dtype, "fortran_order": False, "shape": shape})

    def add(self, rows: Any) -> None:
        array = np.ascontiguousarray(rows, self.column.dtype).reshape(-1, *self.column.row)  # (n, *row)
        self._file.write(array.data if array.size else b"")
        self.count += len(array)

    def replace(self, rows: Any) -> None:
        """Begin anew with other rows."""
        self.count = 0
        self._file.truncate(0)
        self._header()
        self.add(rows)

    def array(self) -> NDArray[Any]:
        """What was added so far, by memory map."""
        self._header()
        self._file.seek(0, os.SEEK_END)
        self._file.flush()
        return np.load(self.path, mmap_mode="r" if self.count else None)

    def close(self) -> None:
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class Writer:
    """Writes a folder protein by protein, with memory for one.

    The files grow beside `folder` and take its place when the block ends well; whatever ends it otherwise, a folder that was
    there stays as it was, and what is left of a killed writer is removed by the next.

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
        self.folder, self.about = folder, dict(about)
        self._part = folder.with_name(f".{folder.name}.tmp")
        self._lock = lock(folder)

    def __enter__(self) -> Self:
        self._lock.acquire()
        with files.writing(self.folder):
            for left in (self._part, *self._part.parent.glob(f".{self.folder.name}.{'?' * 8}.tmp")):  # see `files.temporary`
                shutil.rmtree(left, ignore_errors=True)
            self._part.mkdir()
            self._rows = {name: _Rows(self._part / f"{name}.npy", column) for name, column in COLUMNS.items()}
            for name in ("start", "name_start"):
                self._rows[name].add([0])
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            with files.writing(self.folder):
                for rows in self._rows.values():
                    rows.close()
                if kind is None:
                    self._finish()
        finally:
            shutil.rmtree(self._part, ignore_errors=True)
            self._lock.release()

    def __len__(self) -> int:
        """Proteins added so far."""
        return self._rows["split"].count

    def add(self, example: Mapping[str, Any], split: str = "train", cluster: int | None = None) -> None:
        """Append one protein.

        Args:
            example: ``name`` str, ``sequence`` (L,), ``backbone`` (L, 4, 3) in Angstrom with NaN where missing, ``chain``
                (L,), ``index`` (L,), and perhaps ``free`` (L,): see `modalities.protein`.
            split: "train", "valid" or "test".
            cluster: number of its cluster; by default its own number.
        """
        residues = checked(example)
        with files.writing(self.folder):
            for name, values in residues.items():
                self._rows[name].add(values)
            self._rows["name"].add(np.frombuffer(example["name"].encode(), np.uint8))
            self._rows["split"].add([split_number(split)])
            self._rows["cluster"].add([len(self) - 1 if cluster is None else cluster])
            for name, of in (("start", "sequence"), ("name_start", "name")):
                self._rows[name].add([self._rows[of].count])

    def sequences(self) -> list[str]:
        """The sequences added so far, for clustering."""
        residues, start = self._rows["sequence"].array(), self._rows["start"].array()  # (M,), (N + 1,)
        return [letters(residues[a:b]) for a, b in pairwise(start)]

    def label(self, splits: Sequence[str], clusters: Sequence[int] | NDArray[np.int64]) -> None:
        """Set split and cluster of all proteins added so far, when they can only be known from all of them."""
        if not len(splits) == len(clusters) == len(self):
            raise MultigenError(f"{len(splits)} splits and {len(clusters)} clusters for {len(self)} proteins")
        self._rows["split"].replace([split_number(split) for split in splits])
        self._rows["cluster"].replace(clusters)

    def _finish(self) -> None:
        if not len(self):
            raise MultigenError(f"nothing to store in {self.folder}: there is no protein")
        split = np.bincount(np.load(self._part / "split.npy"), minlength=len(SPLITS))  # (3,)
        count = {name: int(n) for name, n in zip(SPLITS, split, strict=True) if n}
        checksums = {f"{name}.npy": files.sha256(self._part / f"{name}.npy") for name in COLUMNS}
        own = {"format": FORMAT, "count": count, "residues": self._rows["sequence"].count, "files": checksums}
        files.write_json(self._part / "manifest.json", {**self.about, **own})
        self._replace()

    def _replace(self) -> None:
        """Put the new folder in the old one's place; a folder cannot be renamed over another one."""
        old = files.temporary(self.folder)
        if self.folder.exists():
            os.replace(self.folder, old)
        os.replace(self._part, self.folder)
        files.sync_folder(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def prepare(folder: Path, about: Mapping[str, Any], fill: Callable[[Writer], None]) -> Path:
    """Let `fill` write a folder, unless it holds, unchanged, what was made by the same ``about["recipe"]``.

    Only one of several processes writes; the others wait and use what it made.
    """
    with lock(folder):
        if whole(folder) and files.read_json(folder / "manifest.json").get("recipe") == plain(about["recipe"]):
            return folder
        with Writer(folder, about) as writer:
            fill(writer)
    return folder
