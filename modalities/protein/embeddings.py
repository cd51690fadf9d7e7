"""Representations that another program computed: a folder with one ``.npz`` for each protein, by name.

Programs whose files are known (L residues; of a complex, the residues of all chains one after another):

| format | file of protein NAME | made by | single (L, D) | pair (L, L, D) | structure (L, D) |
|---|---|---|---|---|---|
| alphafold3 | NAME/seed-*_embeddings/*embeddings.npz | --save_embeddings | single_embeddings, 384 | pair_embeddings, 128 | |
| boltz | NAME/embeddings_NAME.npz | --write_embeddings | s, 384 | z, 128 | |
| protenix | NAME.npz | saving the trunk's s and z | s, 384 | z, 128 | |
| plain | NAME.npz | anything | single | pair | structure |

REED's own targets are ``plain`` with widths 384, 128 and 768: the structure is the token activation of AlphaFold 3's diffusion
module at its last step, which no program writes by itself. A leading dimension of one sample is dropped. Of several seeds the
first in the order of their names is taken. One token is one residue: proteins with modified residues or ligands, which these
programs split into atoms, have another length and are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modalities.protein.features import nearest as neighbours_of
from multigen.files import nearest
from multigen.modality import Dataset, Example
from multigen.state import MultigenError
from multigen.teachers import arrays

VERSION = 1
"""Raise it when the same files give other features."""


@dataclass(frozen=True)
class Format:
    """How a program names what it writes.

    Args:
        file: path below the folder; ``{name}`` is the protein's, ``*`` anything.
        keys: representation -> name of the array.
        widths: representation -> D, where the program always has the same.
    """

    file: str
    keys: Mapping[str, str]
    widths: Mapping[str, int]


_TRUNK = {"single": 384, "pair": 128}
FORMATS = {
    "alphafold3": Format(
        "{name}/seed-*_embeddings/*embeddings.npz", {"single": "single_embeddings", "pair": "pair_embeddings"}, _TRUNK
    ),
    "boltz": Format("{name}/embeddings_{name}.npz", {"single": "s", "pair": "z"}, _TRUNK),
    "protenix": Format("{name}.npz", {"single": "s", "pair": "z"}, _TRUNK),
    "plain": Format("{name}.npz", {"single": "single", "pair": "pair", "structure": "structure"}, {}),
}


class Folder:
    """One representation of each protein of a folder.

    Args:
        path: the folder.
        what: "single", "pair" or "structure"; a pair is stored for all (L, L) and read at neighbours only.
        format: a name of `FORMATS`.
        file, key, width: in place of the format's; a width is checked where it is known.
        missing: "error", or "mask" for proteins without a file: they get no target.

    Raises:
        MultigenError: there is no such folder, format or representation; when read, a protein has no file (unless masked), or
            one that is damaged, lacks the key, or holds another length or width or a number that is not finite.
    """

    def __init__(
        self,
        path: str | Path,
        what: str = "single",
        format: str = "plain",
        file: str | None = None,
        key: str | None = None,
        width: int | None = None,
        missing: str = "error",
    ) -> None:
        if format not in FORMATS:
            raise MultigenError(f"unknown format of embeddings {format!r}: {nearest(format, FORMATS)}")
        found = FORMATS[format]
        if what not in found.keys:
            raise MultigenError(f"format {format!r} has no embedding {what!r}: {nearest(what, found.keys)}")
        if missing not in ("error", "mask"):
            raise MultigenError(f"missing is {missing!r}: {nearest(missing, ('error', 'mask'))}")
        self.path, self.what, self.file = Path(path), what, file or found.file
        self.key, self.width, self.missing = key or found.keys[what], width or found.widths.get(what), missing
        if not self.path.is_dir():
            raise MultigenError(f"there is no folder of embeddings {path}")

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and checksums of all arrays, which stand in the files' directories: nothing large is read."""
        digest = hashlib.sha256(repr((VERSION, self.what, self.key, self.file, self.missing)).encode())
        for path in sorted(self.path.glob(self.file.format(name="*"))):
            digest.update(f"{path.relative_to(self.path).as_posix()} {arrays.checksum(path, self.key)}\n".encode())
        return f"{self.what}-{digest.hexdigest()[:16]}"

    def find(self, name: str) -> Path | None:
        """The file of a protein; None where there is none and that is allowed."""
        pattern = self.file.format(name=escape(name))
        found = min(self.path.glob(pattern), default=None)
        if found is None and self.missing == "error":
            wanted = self.path / self.file.format(name=name)
            raise MultigenError(f"no embedding of protein {name!r}: expected {wanted}; missing=mask goes on without")
        return found

    def read(self, name: str, length: int) -> NDArray[np.floating] | None:
        """The checked array of a protein of `length` residues: (L, D), or (L, L, D) for pairs; None where it is missing."""
        path = self.find(name)
        if path is None:
            return None
        sites = (length,) * (2 if self.what == "pair" else 1)
        return arrays.checked(arrays.load(path, self.key), path, self.key, sites, self.width)

    def target(self, name: str, length: int, neighbours: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """What is aligned with a protein.

        Args:
            name, length: of the protein; L residues.
            neighbours: (L, K) of each residue, -1 where there are fewer. Only pairs read it.

        Returns:
            (L, D) or, of pairs, (L, K, D), and which sites have a value: Bool (L,) or (L, K).
        """
        value = self.read(name, length)
        sites = neighbours.shape if self.what == "pair" else (length,)
        if value is None:
            return np.zeros((*sites, self.guess), np.float32), np.zeros(sites, np.bool_)
        if self.what != "pair":
            return value, np.ones(sites, np.bool_)
        return value[np.arange(length)[:, None], neighbours.clip(min=0)], neighbours >= 0  # (L, K, D), (L, K)

    @cached_property
    def guess(self) -> int:
        """D, of the format or of the first file."""
        first = min(self.path.glob(self.file.format(name="*")), default=None)
        if self.width is None and first is None:
            raise MultigenError(f"no embedding at all in {self.path}: expected files {self.file.format(name='NAME')}")
        return self.width or arrays.load(first, self.key).shape[-1]  # type: ignore[arg-type]


class WithEmbeddings:
    """A data set whose items carry representations from a folder as they are: ``item["target"][name]``, read on every visit.

    For small sets: `modalities.protein.encoders.Files` reads every file once and keeps what is used. In a configuration:

        data.train: {_target_: modalities.protein.embeddings.WithEmbeddings, dataset: {...}, path: ..., format: boltz,
                     targets: [single, pair], neighbours: "${modality.neighbours}"}

    Args:
        dataset: of proteins.
        path, format, missing: as in `Folder`.
        targets: representations, which are also the targets' names.
        neighbours: K of the modality.
    """

    def __init__(
        self,
        dataset: Dataset,
        path: str | Path,
        targets: Sequence[str] = ("single", "pair"),
        format: str = "plain",
        neighbours: int = 30,
        missing: str = "error",
    ) -> None:
        self.dataset, self.neighbours = dataset, neighbours
        self.folders = {what: Folder(path, what, format, missing=missing) for what in targets}

    @cached_property
    def fingerprint(self) -> str:
        parts = [self.dataset.fingerprint, self.neighbours, *(f.fingerprint for f in self.folders.values())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,): lengths."""
        return self.dataset.sizes  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        example = self.dataset[index]
        near = self._neighbours(example)  # (L, K)
        found = {what: f.target(example["name"], len(near), near) for what, f in self.folders.items()}
        return {**example, "target": {**example.get("target", {}), **found}}

    def _neighbours(self, example: Example) -> NDArray[np.int64]:
        if "pair" not in self.folders:
            return np.zeros((len(example["sequence"]), 0), np.int64)  # (L, 0)
        atoms = torch.from_numpy(np.asarray(example["backbone"], np.float32))[None]  # (1, L, 4, 3)
        known = atoms.isfinite().flatten(2).all(-1)  # (1, L)
        return neighbours_of(atoms[:, :, 1], known, self.neighbours)[0].numpy()  # (L, K)
