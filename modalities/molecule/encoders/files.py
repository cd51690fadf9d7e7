"""Representations that another program computed: a folder with one file for each molecule, by its name."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.encoders.common import atom_level, graph_level
from multigen.files import nearest
from multigen.modality import decode_text
from multigen.state import Batch, Features, MultigenError
from multigen.teachers import arrays
from multigen.teachers.common import raw

VERSION = 1
"""Raise it when the same files give other features."""
LEVELS = ("graph", "atoms")
MISSING = ("error", "mask")


class Files:
    """Arrays (D,) of molecules, or (N, D) of atoms in the data's order: ``multigen prepare`` reads and checks each once.

    Args:
        path: the folder.
        level: "graph" or "atoms".
        file: path below the folder, with ``{name}`` where the molecule's stands; ``.npz`` or ``.npy``.
        key: of the array in a ``.npz`` file; by default the level.
        width: D; by default that of the first file.
        missing: "error", or "mask" for molecules without a file: they get no target.

    Raises:
        MultigenError: there is no such folder, level or file at all; when read, a molecule has no file (unless masked), or one
            that is damaged, lacks the key, or holds another shape or a number that is not finite.
    """

    def __init__(
        self,
        path: str | Path,
        level: str = "graph",
        file: str = "{name}.npz",
        key: str | None = None,
        width: int | None = None,
        missing: str = "error",
    ) -> None:
        for what, value, choices in (("level", level, LEVELS), ("missing", missing, MISSING)):
            if value not in choices:
                raise MultigenError(f"{what} is {value!r}: {nearest(value, choices)}")
        if "{name}" not in file:
            raise MultigenError(f"file is {file!r}: it needs {{name}}, where the molecule's name is to stand")
        self.path, self.level, self.file, self.key, self.missing = Path(path), level, file, key or level, missing
        if not self.path.is_dir():
            raise MultigenError(f"there is no folder of embeddings {path}")
        first = min(self._all(), default=None)
        if first is None:
            raise MultigenError(f"no embedding at all in {path}: expected files {self._at('NAME')}")
        self.width = width or arrays.load(first, self.key).shape[-1]

    def _all(self) -> list[Path]:
        return sorted(self.path.glob(self._at("*")))

    def _at(self, name: str) -> str:
        """Below the folder, whatever the name is: titles in SDF files may begin like an absolute path."""
        return self.file.replace("{name}", name).lstrip("/")

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and checksums of all arrays."""
        digest = hashlib.sha256(repr((VERSION, self.level, self.key, self.file, self.missing, self.width)).encode())
        for path in self._all():
            digest.update(f"{path.relative_to(self.path).as_posix()} {arrays.checksum(path, self.key)}\n".encode())
        return f"Files-{self.level}-{digest.hexdigest()[:16]}"

    def to(self, device: Any) -> Files:
        return self

    def __call__(self, batch: Batch) -> Features:
        names, counts = decode_text(raw(batch, "name", self)), batch.mask["atoms"].sum(1).tolist()
        found = [self.read(name, count) for name, count in zip(names, counts, strict=True)]
        return (graph_level if self.level == "graph" else atom_level)(found, self.width, batch)

    def read(self, name: str, count: int) -> NDArray[np.floating] | None:
        """The checked array of a molecule of `count` atoms; None where it is missing and that is allowed."""
        path = self.path / self._at(name)
        if not path.is_file():
            if self.missing == "mask":
                return None
            raise MultigenError(f"no embedding of molecule {name!r}: expected {path}; missing=mask goes on without")
        sites = [] if self.level == "graph" else [count]
        return arrays.checked(arrays.load(path, self.key), path, self.key, sites, self.width)
