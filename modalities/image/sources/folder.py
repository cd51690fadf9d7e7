"""A folder of pictures: folders in it are classes; or train, val, test and then classes. A ``.txt`` beside is a caption."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from stat import S_ISREG

from modalities.image.sources.base import Listed, bare, is_picture, stamped
from multigen.state import MultigenError


class Folder(Listed):
    """See the module. Hidden files are no part of it, links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _found(self) -> _Walk:
        walk = _Walk(self.path)
        walk.folder("", frozenset())
        return walk

    def members(self) -> dict[str, str]:
        return self._found.places

    def folders(self) -> list[str]:
        return self._found.folders

    def unreadable(self) -> Sequence[str]:
        return self._found.unreadable

    def read(self, place: str) -> bytes:
        path = self.path / bare(place)
        if not self.path.is_dir():
            raise MultigenError(f"the pictures are no more in {self.path}: give data.path=FOLDER")
        try:
            return path.read_bytes()
        except OSError as error:
            raise MultigenError(f"cannot read {path}: {error.strerror}") from None

    def files(self) -> list[Path]:
        return [self.path / name for name in self._found.places]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}


@dataclass(frozen=True)
class _Walk:
    """What a walk through a folder finds, in the order of names."""

    root: Path
    places: dict[str, str] = field(default_factory=dict)
    """Name of each file -> its place."""
    folders: list[str] = field(default_factory=list)
    """Names of folders, and of what cannot be read but may be one."""
    unreadable: list[str] = field(default_factory=list)
    """Reasons why something is left out."""

    def folder(self, name: str, above: frozenset[tuple[int, int]]) -> None:
        """Go through a folder. One that cannot be read is a folder without pictures.

        Args:
            name: "" for the root.
            above: device and number of the folders that lead here. One that is met again leads round in a circle.
        """
        try:
            own = (self.root / name).stat()
            if (here := (own.st_dev, own.st_ino)) in above:
                self.unreadable.append(f"{self.root / name} is a link to a folder above it")
                return
            self.folders.extend([name] if name else [])
            entries = sorted(os.scandir(self.root / name), key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append(f"cannot read {self.root / name}: {error.strerror}")
            return
        for entry in entries:
            if not entry.name.startswith("."):
                self._take(entry, f"{name}/{entry.name}".lstrip("/"), above | {here})

    def _take(self, entry: os.DirEntry[str], name: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            is_folder, told = entry.is_dir(), entry.stat()
        except OSError as error:  # a link to nothing, or to itself
            self.unreadable.append(f"cannot read {self.root / name}: {error.strerror}")
            if not is_picture(name) and not name.endswith(".txt"):
                self.folders.append(name)  # of a disk that is not there, most likely
            return
        if is_folder:
            self.folder(name, above)
        elif S_ISREG(told.st_mode):
            self.places[name] = stamped(name, told.st_size, told.st_mtime_ns)
        else:  # a pipe, which would be waited for
            self.unreadable.append(f"{self.root / name} is no plain file")
