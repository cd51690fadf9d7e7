"""Pictures to learn from: the prepared emoji, or a folder of one's own."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.image import stored
from modalities.image.stored import Stored
from multigen import files
from multigen.random import hash64
from multigen.state import MultigenError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class Emoji(Stored):
    """OpenMoji's named emoji: 3,953 drawings in nine groups, split by base emoji (see `modalities.image.emoji`).

    Args:
        size: 32, 64 or 128 pixels.
        split: "train", "valid" or "all".
        root: the data root; by default `multigen.files.data_root()`.
        raw_size: size of the picture for teachers, or None.
    """

    def __init__(
        self, size: int = 32, split: str = "train", root: str | Path | None = None, raw_size: int | None = 128
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / "emoji"
        super().__init__(folder, size, split, raw_size, "emoji", "multigen prepare data=emoji")


class ImageFolder(Stored):
    """One's own pictures. They are decoded once, when the data set is first made, and then read by memory map.

    Every picture below `path` counts; a picture in a sub-folder has the first folder's name as its class, and the file's name
    as its caption. Pictures are cropped to the central square and put on white where they are transparent.

    Args:
        path: the folder.
        size: pixels of the side.
        split: "train", "valid" or "all"; a picture's side is a hash of its path.
        raw_size: size of the picture for teachers, or None.
        share: per cent of the pictures in "valid".
        root: the data root, below which the decoded pictures are kept.

    Raises:
        MultigenError: there is no such folder, it holds no picture, or a file is not one (the message names it).
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        split: str = "train",
        raw_size: int | None = 128,
        share: int = 10,
        root: str | Path | None = None,
    ) -> None:
        source = Path(path).expanduser()
        sizes = sorted({size, raw_size or size})
        found = find_images(source)
        folder = (Path(root) if root else files.data_root()) / "folders" / _digest(source, found, sizes, share)
        if not (folder / "manifest.json").is_file():
            _decode_all(source, found, sizes, share, folder)
        super().__init__(folder, size, split, raw_size, f"pictures of {source.name}", f"rm -r {folder}")


def find_images(folder: Path) -> list[Path]:
    """The files below `folder` with the name of a picture, in a fixed order."""
    if not folder.is_dir():
        raise MultigenError(f"{folder} is not a folder of pictures")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise MultigenError(f"{folder} holds no picture: the names end in {sorted(SUFFIXES)}")
    return found


def _digest(folder: Path, found: Sequence[Path], sizes: Sequence[int], share: int) -> str:
    """Changes when a file is added, removed or changed."""
    listing = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in found]
    return hashlib.sha256(json.dumps([listing, list(sizes), share]).encode()).hexdigest()[:16]


def _decode_all(source: Path, found: Sequence[Path], sizes: Sequence[int], share: int, folder: Path) -> None:
    from rich.progress import track

    pictures = {s: np.empty((len(found), s, s, 3), np.uint8) for s in sizes}
    for i, path in enumerate(track(found, description=f"reading {source.name}", transient=True)):
        for size, picture in decode_image(path, sizes).items():
            pictures[size][i] = picture
    rows = _rows([path.relative_to(source) for path in found], share)
    stored.store(folder, pictures, rows, {"name": str(source), "groups": sorted({row["group"] for row in rows})})


def _rows(paths: Sequence[Path], share: int) -> list[dict[str, Any]]:
    """The table: about `share` percent are held out, by a hash of the name, and at least one."""
    place = [hash64("folder", path.as_posix()) % 10_000 for path in paths]
    bound = max(100 * share, min(place) + 1)
    return [
        {
            "code": path.as_posix(),
            "name": path.stem.replace("_", " "),
            "group": path.parts[0] if len(path.parts) > 1 else "",
            "split": "valid" if at < bound else "train",
        }
        for path, at in zip(paths, place, strict=True)
    ]


def decode_image(path: Path, sizes: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Size -> uint8 (size, size, 3) of one file.

    Raises:
        MultigenError: the file is not a picture, or is cut off.
    """
    from PIL import Image, ImageOps

    picture = open_image(path)
    return {s: np.asarray(ImageOps.fit(picture, (s, s), Image.Resampling.LANCZOS)) for s in sizes}


def open_image(path: Path | str, content: bytes | None = None) -> Any:
    """A picture of Pillow: RGB, upright, on white where it is transparent.

    Args:
        path: the file, or what it is called where it lies inside another one.
        content: its bytes, in the latter case.

    Raises:
        MultigenError: the file is not a picture, or is cut off.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception as error:  # each format fails in its own ways on a damaged file
        raise MultigenError(f"{path} is not a readable image ({error})") from None
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")
