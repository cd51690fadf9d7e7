"""The pictures of any source at one size: listed once on the disk, decoded when they are asked for.

An index is a folder of `multigen.store` with the label, the side and the place of each picture. Its manifest lists the classes
in label order (``groups``) and says where the pictures are (``path``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.image.sources import Entry, Source, open_source
from multigen import describe, files, store
from multigen.modality import Example
from multigen.random import hash64
from multigen.state import MultigenError
from multigen.store import Column, Layout, Store, Writer

FORMAT = 1
CROP = "adm"
"""The way of cropping, for fingerprints."""
LAYOUT = Layout({}, {"label": Column("<i4")}, ("name", "place", "caption"))


def make_index(source: Source, folder: Path, share: float = 10.0, classed: bool = True) -> Path:
    """List the pictures of a source, unless that was done and nothing has changed since.

    Args:
        source: where they are.
        folder: where the index shall lie.
        share: per cent of the pictures that are held out, by a hash of their names, where the source holds out none.
        classed: whether folders, and numbers that the source has, are classes.

    Raises:
        MultigenError: there is no picture, a class has none, or pictures lie both inside and outside of class folders.
    """
    found = source.files()
    base = source.path if source.path.is_dir() else source.path.parent
    recipe = {"format": FORMAT, "files": store.digest(base, found), "share": share, "classed": classed}
    about = {
        "name": source.path.name,
        "path": str(source.path),
        **source.about(),
        "recipe": {"kind": type(source).__name__, **recipe},
    }
    return store.prepare(Writer(folder, LAYOUT, about), lambda writer: _fill(writer, source, share, classed))


def _fill(writer: Writer, source: Source, share: float, classed: bool) -> None:
    groups, sides, names = list[str | int](), list[str](), list[str]()
    for entry in source.entries():
        group = entry.group if classed else ""
        _check_group(entry, group, groups, source)
        groups.append(group)
        sides.append(entry.split)
        names.append(entry.name)
        writer.add({**entry._asdict(), "label": 0})
    if not names:
        raise MultigenError(f"{source.path} holds no picture")
    classes, labels = numbered(groups, source.classes())
    # a source whose only side is train has nothing held out yet
    splits = [side or "train" for side in sides] if {*sides} - {"", "train"} else divided(names, share)
    writer.relabel(splits, label=labels)
    writer.about = {**writer.about, "groups": classes}


def _check_group(entry: Entry, group: str | int, groups: Sequence[str | int], source: Source) -> None:
    if groups and (group == "") != (groups[0] == ""):
        advice = "put all of them into folders of their class, or give data.classed=false"
        raise MultigenError(f"{source.path}: {entry.name} has {'no' if group == '' else 'a'} class, unlike others; {advice}")


def numbered(groups: Sequence[str | int], names: Sequence[str] = ()) -> tuple[list[str], list[int]]:
    """The classes in label order, and the label of each picture. Numbers are labels as they are; names count in their order.

    >>> numbered(["cat", "ant", "cat"]), numbered([2, 0]), numbered(["", ""])
    ((['ant', 'cat'], [1, 0, 1]), (['0', '1', '2'], [2, 0]), ([], [0, 0]))
    """
    if all(isinstance(group, int) for group in groups):
        labels = [int(group) for group in groups]
        return list(names) or [str(i) for i in range(max(labels) + 1)], labels
    classes = sorted({str(group) for group in groups} - {""})
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number.get(str(group), 0) for group in groups]


def divided(names: Iterable[str], share: float) -> list[str]:
    """The side of each picture: about `share` per cent are held out, by a hash of the name, and at least one."""
    place = [hash64("pictures", name) % 1_000_000 for name in names]
    bound = max(10_000 * share, min(place) + 1)
    return ["valid" if at < bound else "train" for at in place]


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
