"""The layout in which prepared examples lie on the disk.

A folder holds one ``.npy`` file for each column. The rows of all examples follow one another; where those of each example
begin is in a column of its own: ``start`` for the main table, ``<name>_start`` for another table or a text. ``manifest.json``
is written last and vouches for the others by checksum and count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from multigen import files
from multigen.files import nearest
from multigen.state import MultigenError

SPLITS = ("train", "valid", "test")


class Column(NamedTuple):
    """Type of an array in numpy's letters, and the shape of one row."""

    dtype: str
    row: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What an example consists of.

    Args:
        tables: table -> its columns. An example has any number of rows in a table, the same in all its columns. The main
            table is named "" and says how large an example is.
        items: columns with one row for each example, besides ``split``.
        texts: names of the texts that an example has.
        version: changes when files of an older version cannot be read.
    """

    tables: Mapping[str, Mapping[str, Column]]
    items: Mapping[str, Column] = field(default_factory=dict)
    texts: tuple[str, ...] = ("name",)
    version: int = 1

    @cached_property
    def columns(self) -> dict[str, Column]:
        """All files, by name."""
        starts = {start(part): Column("<i8") for part in (*self.tables, *self.texts)}
        rows = {name: column for table in self.tables.values() for name, column in table.items()}
        return {**rows, **starts, "split": Column("<i1"), **self.items, **{text: Column("|u1") for text in self.texts}}


def start(part: str) -> str:
    """The column that says where the rows of each example begin."""
    return f"{part}_start" if part else "start"


def whole(folder: Path) -> bool:
    """Whether every file that the manifest lists is there, unchanged. Reads them all."""
    if not (folder / "manifest.json").is_file():
        return False
    checksums = files.read_json(folder / "manifest.json").get("files", {})
    return all((folder / name).is_file() and files.sha256(folder / name) == sha for name, sha in checksums.items())


def plain(value: Any) -> Any:
    """As it is after a round through JSON."""
    return json.loads(files.to_json(value))


def split_number(split: str) -> int:
    if split not in SPLITS:
        raise MultigenError(f"no split {split!r}: {nearest(split, SPLITS)}")
    return SPLITS.index(split)


def digest(folder: Path, found: Sequence[Path], *options: Any) -> str:
    """Changes when one of the files `found` below `folder` is added, removed or changed, or an option is."""
    listing = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in found]
    return hashlib.sha256(json.dumps([listing, *options]).encode()).hexdigest()[:16]
