"""Prepared latents on the disk, and the data set that reads them by memory map.

A folder below the data root holds

- ``pictures/``, the index of all pictures (`modalities.image.pictures`): labels, sides, names, captions, where they are;
- ``cache/``, the moments of each picture's posterior, (h, w, 2 C): a cache of `multigen.cache` in float16, one row a picture;
- ``manifest.json``, written last: what latents these are and of which autoencoder, their scale, which pictures were left out.

`modalities.image.latent_prepare` writes it. What teachers say about the pictures lies in the data root's own cache, as for any
data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.image.pictures import LAYOUT, Pictures
from multigen import describe, files
from multigen.cache.read import Reader
from multigen.cache.spec import prepared
from multigen.files import nearest
from multigen.modality import Example
from multigen.state import MultigenError
from multigen.store import Store, kept

COMMAND = "multigen prepare data=NAME data.path=PICTURES"


def place(name: str | Path, root: str | Path | None = None) -> Path:
    """The folder of prepared latents: a name below the data root, or a path."""
    return (Path(root) if root else files.data_root()) / Path(name).expanduser()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What prepared latents say about themselves.

    Raises:
        MultigenError: they are not prepared, or not to the end.
    """
    if not (folder / "manifest.json").is_file():
        raise MultigenError(f"latents {folder.name} are not prepared in {folder}; run `{COMMAND}`")
    found = files.read_json(folder / "manifest.json")
    if not isinstance(found, dict) or {"latent", "moments", "autoencoder", "scale", "shift"} - found.keys():
        raise MultigenError(f"{folder / 'manifest.json'} is not of prepared latents; run `{COMMAND}`")
    return found


class LatentData:
    """The pictures of a prepared folder as latents. An item holds ``latent_mean`` and ``latent_std``, float32 (C, size, size),
    ``label``, ``name``, and the representations in ``target``.

    Args:
        name: of the folder below the data root, or its path.
        size: side of the latents.
        split: "train", "valid", "test" or "all".
        targets: names of representations to read, which were cached by any encoder: no teacher is needed to train on them.
        limit: keep this many, drawn by a fixed hash.
        raw_size: pixels of the side of the picture that teachers see; None for what the latents were made of.
        path: where the pictures are that teachers see, if they have been moved.
        root: the data root; by default `multigen.files.data_root()`.

    Raises:
        MultigenError: the folder is not prepared, is of another size, is damaged, or lacks the split or a representation.
    """

    def __init__(
        self,
        name: str | Path,
        size: int = 32,
        split: str = "train",
        targets: Sequence[str] = (),
        limit: int | None = None,
        raw_size: int | None = None,
        path: str | Path | None = None,
        root: str | Path | None = None,
    ) -> None:
        self.folder, self.root = place(name, root).absolute(), Path(root) if root else None
        self.manifest = read_manifest(self.folder)
        if (shape := self.manifest["latent"])[-1] != size:
            raise MultigenError(f"latents {self.folder.name} are of shape {shape}, not of side {size}")
        self.store = Store(self.folder / "pictures", LAYOUT, f"latents {self.folder.name}", COMMAND)
        self.split, self.targets = split, list(targets)
        self._raw_size, self._path = raw_size or self.manifest["pixels"], path
        keep = self.store.in_split(split)  # (all,)
        keep[[left["row"] for left in self.manifest["skipped"]]] = False
        self.rows = kept(keep, limit)  # (N,)
        self.limit = limit
        self.classes: tuple[str, ...] = tuple(self.store.manifest["groups"])

    @cached_property
    def moments(self) -> Reader:
        """Of all pictures of the index.

        Raises:
            MultigenError: they are of other pictures, whose index has been replaced since; or they are damaged.
        """
        found = Reader(self.folder / self.manifest["moments"], command=COMMAND)
        if found.spec.dataset != Pictures(self.folder / "pictures", self.manifest["pixels"]).fingerprint:
            told = f"latents {self.folder.name} are of other pictures than {self.store.folder} lists"
            raise MultigenError(f"{told}; run `{COMMAND}`")
        return found

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""
        return self.store.column("label")[self.rows].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Of the latents, and of the representations that are read with them."""
        own = self.store.fingerprint(self.moments.fingerprint, self.split, self.limit, self._raw_size)
        return f"{own}-{describe.digest(self._readers)[:16]}" if self.targets else own

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        bare = self.whole().fingerprint
        known = {path: spec for path, spec in prepared(self.root).items() if spec["dataset"] == bare}
        return {target: self._reader(target, known) for target in self.targets}

    def _reader(self, target: str, known: dict[Path, dict[str, Any]]) -> Reader:
        what = f"latents {self.folder.name} ({self.split})"
        found = [path for path, spec in known.items() if spec["name"] == target]
        if not found:
            raise MultigenError(f"{what} have no target {target!r}: {nearest(target, {s['name'] for s in known.values()})}")
        if len(found) > 1:
            raise MultigenError(f"{what} have several targets {target!r}: keep one of {', '.join(map(str, found))}")
        return Reader(found[0], command=COMMAND)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        item = self.store[row]
        both = np.asarray(self.moments[row], np.float32).transpose(2, 0, 1)  # (2 C, size, size)
        mean, std = np.split(both, 2)  # (C, size, size) each
        target = {name: reader[index] for name, reader in self._readers.items()} if self.targets else {}
        found = {"latent_mean": mean, "latent_std": std, "label": int(item["label"]), "name": item["name"]}
        return found | ({"target": target} if target else {})

    def whole(self) -> Whole:
        """The same pictures as teachers see them."""
        return Whole(self)

    def pictures(self) -> Pictures:
        """Of the whole index, at the size for teachers."""
        return Pictures(self.folder / "pictures", self._raw_size, self._path, strict=True)


class Whole:
    """Prepared latents together with what teachers see: ``raw``, the picture, uint8 (R, R, 3), and ``caption``."""

    def __init__(self, data: LatentData) -> None:
        size, raw_size = data.manifest["latent"][-1], data._raw_size
        bare = LatentData(data.folder, size, data.split, limit=data.limit, raw_size=raw_size, path=data._path)
        self.data, self.pictures = bare, data.pictures()
        self.fingerprint, self.manifest = bare.fingerprint, bare.manifest

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        item = self.pictures[int(self.data.rows[index])]
        return {**self.data[index], "raw": item["raw"], "caption": item["caption"]}
