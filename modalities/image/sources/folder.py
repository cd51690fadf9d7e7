"""A folder of pictures: folders in it are classes; or train, val, test and then classes. A ``.txt`` beside is a caption."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from modalities.image.sources.base import Listed
from multigen.state import MultigenError


class Folder(Listed):
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _found(self) -> tuple[list[str], list[str]]:
        """Names of files and of folders."""
        files, folders = list[str](), list[str]()
        for name, is_folder in _walk(self.path, ""):
            (folders if is_folder else files).append(name)
        return files, folders

    def members(self) -> dict[str, str]:
        return {name: name for name in self._found[0]}

    def folders(self) -> list[str]:
        return self._found[1]

    def read(self, place: str) -> bytes:
        if not self.path.is_dir():
            raise MultigenError(f"the pictures are no more in {self.path}: give data.path=FOLDER")
        try:
            return (self.path / place).read_bytes()
        except OSError as error:
            raise MultigenError(f"cannot read {self.path / place}: {error.strerror}") from None

    def files(self) -> list[Path]:
        return [self.path / name for name in self._found[0]]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}


def _walk(root: Path, below: str) -> Iterator[tuple[str, bool]]:
    """Every file and folder that is not hidden, by name, in order; links are followed."""
    for entry in sorted(os.scandir(root / below), key=lambda e: e.name):
        if not entry.name.startswith("."):
            yield below + entry.name, entry.is_dir()
            if entry.is_dir():
                yield from _walk(root, f"{below}{entry.name}/")
