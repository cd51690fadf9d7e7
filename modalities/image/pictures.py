"""The pictures of any source at one size: listed once on the disk (`modalities.image.index`), decoded when asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.image.sources import Source, open_source
from multigen import describe, files
from multigen.modality import Example
from multigen.state import MultigenError
from multigen.store import Column, Layout, Store

FORMAT = 1
CROP = "adm"
"""The way of cropping, for fingerprints."""
LAYOUT = Layout({}, {"label": Column("<i4")}, ("name", "place", "caption"))


class Pictures:
    """Every picture of an index, on either side. An item holds ``image`` and ``raw``, both uint8 (size, size, 3), and is
    ``readable`` or black; its ``label``, ``caption`` and ``name``.

    Args:
        folder: of the index.
        size: pixels of the side, after `crop`.
        path: where the pictures are now, if they have been moved.
        strict: stop at one that cannot be read.
    """

    def __init__(self, folder: Path, size: int, path: str | Path | None = None, strict: bool = False) -> None:
        self.store = Store(folder, LAYOUT, "pictures")
        self.size, self.strict = size, strict
        self.fingerprint = self.store.fingerprint(size, CROP)
        self.path = Path(path or self.store.manifest["path"])

    @cached_property
    def source(self) -> Source:
        return open_source(self.path)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Example:
        item = self.store[index]
        try:
            image, readable = self.picture(item), True  # (size, size, 3)
        except MultigenError:
            if self.strict:
                raise
            image, readable = np.zeros((self.size, self.size, 3), np.uint8), False  # (size, size, 3)
        told = {"label": int(item["label"]), "caption": item["caption"], "name": item["name"]}
        return {"image": image, "raw": image, "readable": readable, **told}

    def picture(self, item: dict[str, Any]) -> NDArray[np.uint8]:
        """Of a row of the index: (size, size, 3)."""
        return crop(self.source.picture(item["name"], item["place"], self.size), self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "source"}


class Some:
    """Some of the pictures, by their rows."""

    def __init__(self, pictures: Pictures, rows: NDArray[np.int64]) -> None:
        self.pictures, self.rows = pictures, rows
        self.fingerprint = describe.digest(pictures.fingerprint, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.pictures[int(self.rows[index])]


def crop(picture: Any, size: int) -> NDArray[np.uint8]:
    """The central square of a picture of Pillow, uint8 (size, size, 3), as ADM crops (Dhariwal and Nichol 2021): halved by
    means of four pixels while the shorter side is at least twice too long, then bicubic."""
    from PIL.Image import Resampling

    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(side // 2 for side in picture.size), Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize(tuple(round(side * scale) for side in picture.size), Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def check_path(path: str | Path | None, folder: Path) -> Path:
    """Where the pictures are: as given, or as the index remembers.

    Raises:
        MultigenError: it is neither given nor remembered.
    """
    if path is not None:
        return Path(path).expanduser().absolute()
    if not (folder / "manifest.json").is_file():
        raise MultigenError("which pictures? give data.path=FOLDER or a .zip, .tar or .parquet file")
    return Path(files.read_json(folder / "manifest.json")["path"])
