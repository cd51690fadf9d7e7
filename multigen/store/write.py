"""Writes prepared examples, one by one, with memory for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from multigen import files
from multigen.state import MultigenError
from multigen.store.layout import SPLITS, Column, Layout, plain, split_number, start, whole


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
    """Writes a folder example by example, with memory for one.

    The files grow beside `folder` and take its place when the block ends well; whatever ends it otherwise, a folder that was
    there stays as it was, and what is left of a killed writer is removed by the next.

    >>> with Writer(folder, layout, {"name": "mine", "licence": "CC0", "recipe": {}}) as writer:  # doctest: +SKIP
    ...     for example in examples:
    ...         writer.add(example, split="train")

    Args:
        folder: where the examples shall lie.
        layout: what they consist of.
        about: goes into the manifest as it is when the block ends: ``name``, ``licence``, ``recipe`` (everything that the
            data depend on), ...

    Raises:
        MultigenError: the disk is full or read-only; an example does not fit the layout (the message names it); there is none
            at all.
    """

    def __init__(self, folder: Path, layout: Layout, about: Mapping[str, Any]) -> None:
        self.folder, self.layout, self.about = folder, layout, about
        self._part = folder.with_name(f".{folder.name}.tmp")
        self._lock = files.lock(folder)

    def __enter__(self) -> Self:
        self._lock.acquire()
        with files.writing(self.folder):
            for left in (self._part, *self._part.parent.glob(f".{self.folder.name}.{'?' * 8}.tmp")):  # see `files.temporary`
                shutil.rmtree(left, ignore_errors=True)
            self._part.mkdir()
            self._rows = {name: _Rows(self._part / f"{name}.npy", column) for name, column in self.layout.columns.items()}
            for part in (*self.layout.tables, *self.layout.texts):
                self._rows[start(part)].add([0])
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
        """Examples added so far."""
        return self._rows["split"].count

    def add(self, example: Mapping[str, Any], split: str = "train") -> None:
        """Append one example.

        Args:
            example: an array for every column of every table, a value for every item's column, a str for every text.
            split: "train", "valid" or "test".
        """
        tables = [self._checked(example, table) for table in self.layout.tables]
        with files.writing(self.folder):
            for rows in tables:
                for name, values in rows.items():
                    self._rows[name].add(values)
            for text in self.layout.texts:
                self._rows[text].add(np.frombuffer(example.get(text, "").encode(), np.uint8))
            for name in self.layout.items:
                self._rows[name].add([example[name]])
            self._rows["split"].add([split_number(split)])
            self._end()

    def _end(self) -> None:
        """Note where the next example begins."""
        for table, columns in self.layout.tables.items():
            self._rows[start(table)].add([self._rows[next(iter(columns))].count])
        for text in self.layout.texts:
            self._rows[start(text)].add([self._rows[text].count])

    def _checked(self, example: Mapping[str, Any], table: str) -> dict[str, NDArray[Any]]:
        """The arrays of one table, if they are what they should be."""
        columns = self.layout.tables[table]
        if missing := [name for name in columns if name not in example]:
            raise MultigenError(f"{example.get('name')!r} is malformed: it has no {missing[0]!r}")
        arrays = {name: np.asarray(example[name]) for name in columns}
        count = len(next(iter(arrays.values())))
        for name, array in arrays.items():
            if array.shape != (expected := (count, *columns[name].row)):
                raise MultigenError(
                    f"{example.get('name')!r} is malformed: {name} has shape {array.shape}, expected {expected}"
                )
        if not table and not count:
            raise MultigenError(f"{example.get('name')!r} is malformed: it is empty")
        return arrays

    def column(self, name: str) -> NDArray[Any]:
        """What was added so far to one column, by memory map: for what can only be known from all examples."""
        return self._rows[name].array()

    def relabel(self, splits: Sequence[str], **items: Any) -> None:
        """Set the splits, and columns of the items, of all examples added so far.

        Args:
            splits: one name for each example.
            items: column -> (N,).
        """
        for name, values in {"split": [split_number(split) for split in splits], **items}.items():
            if len(values) != len(self):
                raise MultigenError(f"{len(values)} values of {name} for {len(self)} examples")
            self._rows[name].replace(values)

    def _finish(self) -> None:
        if not len(self):
            raise MultigenError(f"nothing to store in {self.folder}: there is no example")
        split = np.bincount(np.load(self._part / "split.npy"), minlength=len(SPLITS))  # (3,)
        count = {name: int(n) for name, n in zip(SPLITS, split, strict=True) if n}
        rows = {table or "main": self._rows[next(iter(columns))].count for table, columns in self.layout.tables.items()}
        checksums = {f"{name}.npy": files.sha256(self._part / f"{name}.npy") for name in self.layout.columns}
        own = {"format": self.layout.version, "count": count, "rows": rows, "files": checksums}
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


W = TypeVar("W", bound=Writer)


def prepare(writer: W, fill: Callable[[W], None]) -> Path:
    """Let `fill` write a folder, unless it holds, unchanged, what was made by the same ``about["recipe"]``; return it.

    Only one of several processes writes; the others wait and use what it made.
    """
    folder = writer.folder
    with files.lock(folder):
        if whole(folder) and files.read_json(folder / "manifest.json").get("recipe") == plain(writer.about["recipe"]):
            return folder
        with writer:
            fill(writer)
    return folder
