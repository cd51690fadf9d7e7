"""The layout in which prepared pictures lie on the disk, and the data set that reads it by memory map.

A folder holds ``images_<size>.npy`` (uint8 (N, size, size, 3)), ``table.json`` (one row per picture: name, group, split, ...)
and ``manifest.json``, which is written last, vouches for the others by checksum and lists the groups in label order.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigen import files
from multigen.state import MultigenError

Rows = list[dict[str, Any]]
Pictures = Mapping[int, NDArray[np.uint8]]
"""Size -> uint8 (N, size, size, 3)."""


def store(folder: Path, pictures: Pictures, rows: Rows, about: Mapping[str, Any]) -> Path:
    """Write arrays and table, and last the manifest. `about` must hold ``groups``; it may hold anything else."""
    for size, array in pictures.items():
        with files.atomic_write(folder / f"images_{size}.npy") as file:
            np.save(file, array)
    files.write_json(folder / "table.json", rows)
    written = [*(f"images_{size}.npy" for size in pictures), "table.json"]
    count = dict(Counter(row["split"] for row in rows))
    checksums = {name: files.sha256(folder / name) for name in written}
    files.write_json(folder / "manifest.json", {**about, "count": count, "sizes": list(pictures), "files": checksums})
    return folder


def whole(folder: Path) -> bool:
    """Whether every file that the manifest lists is there, unchanged. Reads them all."""
    if not (folder / "manifest.json").is_file():
        return False
    checksums = files.read_json(folder / "manifest.json").get("files", {})
    return all((folder / name).is_file() and files.sha256(folder / name) == sha for name, sha in checksums.items())


class Stored:
    """The pictures of a prepared folder. An item holds

    - ``image``: uint8 (size, size, 3), RGB, and ``raw``: the same at `raw_size` pixels, for teachers;
    - ``label``: the index of its group in `classes`; ``caption``: its name.

    Args:
        folder: where they lie.
        size: pixels of the side.
        split: "train", "valid", or "all".
        raw_size: pixels of the side of the picture that teachers see; None leaves it out.
        what: the data's name in messages.
        command: what prepares them, for messages.

    Raises:
        MultigenError: the folder is not prepared, or lacks the size or the split.
    """

    def __init__(self, folder: Path, size: int, split: str, raw_size: int | None, what: str, command: str) -> None:
        if not (folder / "manifest.json").is_file():
            raise MultigenError(f"{what} are not prepared in {folder}; run `{command}`")
        self.folder, self.size, self.raw_size, self.split = folder, size, raw_size, split
        self.what, self.command = what, command
        self.manifest: dict[str, Any] = files.read_json(folder / "manifest.json")
        self._check_sizes()
        rows: Rows = files.read_json(folder / "table.json")
        self.index = np.array([i for i, row in enumerate(rows) if split in (row["split"], "all")], np.int64)  # (N,)
        if not len(self.index):
            raise MultigenError(f"{what} have no split {split!r}: choices are {[*self.manifest['count'], 'all']}")
        self.classes: tuple[str, ...] = tuple(self.manifest["groups"])
        number = {name: i for i, name in enumerate(self.classes)}
        self.rows = [rows[i] for i in self.index]
        self.labels = np.array([number[row["group"]] for row in self.rows], np.int64)  # (N,)

    def _check_sizes(self) -> None:
        known: Sequence[int] = self.manifest["sizes"]
        for size in {self.size, self.raw_size} - {None}:
            if size not in known:
                raise MultigenError(f"{self.what} are prepared at {list(known)} pixels, not {size}")

    @cached_property
    def fingerprint(self) -> str:
        parts = [self.manifest["files"], self.size, self.raw_size, self.split]
        return f"{self.what.replace(' ', '_')}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"

    @cached_property
    def _images(self) -> NDArray[np.uint8]:
        return self._open(self.size)

    @cached_property
    def _raw(self) -> NDArray[np.uint8] | None:
        return None if self.raw_size is None else self._open(self.raw_size)

    def _open(self, size: int) -> NDArray[np.uint8]:
        """(N, size, size, 3), on the disk until it is read."""
        path = self.folder / f"images_{size}.npy"
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise MultigenError(f"{path} is damaged ({error}); run `{self.command}`") from None

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers open the files for themselves: a memory map would be pickled as the whole array."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_images", "_raw")}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = self.index[index]
        item = {"image": self._images[at], "label": int(self.labels[index]), "caption": self.rows[index]["name"]}
        return item if self._raw is None else {**item, "raw": self._raw[at]}
