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
EXTREME = 16
"""How many times as long as wide a picture may be to be resized as a whole before it is cropped."""
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
    means of four pixels while the shorter side is at least twice too long, then bicubic.

    Of a picture that is more than `EXTREME` times as long as wide only the square is interpolated: all of it could be larger
    than the memory, at 1 x 60,000 pixels 12 GB for a square of 256.
    """
    from PIL.Image import Resampling

    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(side // 2 for side in picture.size), Resampling.BOX)
    scale = size / min(picture.size)
    whole = tuple(round(side * scale) for side in picture.size)
    left, top = ((side - size) // 2 for side in whole)
    square = (left, top, left + size, top + size)
    if max(whole) > EXTREME * size:
        return np.asarray(_resized(picture, whole, square))
    return np.asarray(picture.resize(whole, Resampling.BICUBIC).crop(square))


def _resized(picture: Any, whole: tuple[int, ...], square: tuple[int, ...]) -> Any:
    """A square of what the picture would be if it were resized to `whole`; as there rows are interpolated before columns.

    A pixel is a mean of four on either side at most, since no side is reduced to less than half.
    """
    from PIL.Image import Resampling

    left, top, right, bottom = (at * picture.size[i % 2] / whole[i % 2] for i, at in enumerate(square))
    x, y = max(0, int(left) - 5), max(0, int(top) - 5)
    near = picture.crop((x, y, min(picture.width, int(right) + 6), min(picture.height, int(bottom) + 6)))
    size = square[2] - square[0]
    rows = near.resize((size, near.height), Resampling.BICUBIC, box=(left - x, 0, min(right - x, near.width), near.height))
    return rows.resize((size, size), Resampling.BICUBIC, box=(0, top - y, size, min(bottom - y, near.height)))


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
