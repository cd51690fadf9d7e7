"""What every kind of source offers: its pictures in a fixed order, and any one of them at random."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from modalities.image.data import SUFFIXES, open_image
from multigen.state import MultigenError

SIDES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
"""Names of folders, shards and files -> the split that they hold."""
_STAMP = re.compile("//[0-9a-f-]+")


class Entry(NamedTuple):
    """One picture of a source."""

    name: str
    """What it is called, for people."""
    place: str
    """Where the source finds it again, and what changes when its content does: a checksum, or a stamp (see `stamped`)."""
    group: str | int = ""
    """Its class: a name, or a number where the source numbers classes itself; "" where there is none."""
    split: str = ""
    """The side that the source puts it on, or ""."""
    caption: str = ""


class Source(Protocol):
    """Pictures that lie somewhere. What is pickled is small: everything is opened again where it is read."""

    path: Path

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All pictures, in an order that depends on the content alone."""

    @abstractmethod
    def picture(self, name: str, place: str, size: int) -> Any:
        """A picture of Pillow, RGB, at least as large as `size` if there is one.

        Raises:
            MultigenError: it cannot be read; the message names it.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """What the content depends on."""

    def classes(self) -> Sequence[str]:
        """Names of the classes in label order, as far as the source has them."""
        return ()

    def unreadable(self) -> Sequence[str]:
        """Why files and folders of the source are left out, one line for each."""
        return ()

    def about(self) -> dict[str, Any]:
        """Licence and attribution, as far as the source states them."""
        return {}


class Listed(Source):
    """A source that is a list of files with names, whose folders are classes: what folders and archives share."""

    @abstractmethod
    def members(self) -> dict[str, str]:
        """Name of each file, folders between "/", in order -> its place."""

    @abstractmethod
    def read(self, place: str) -> bytes: ...

    def folders(self) -> list[str]:
        """Names of all folders, also of those that are empty or cannot be read."""
        return []

    def entries(self) -> Iterator[Entry]:
        members = self.members()
        pictures = [name for name in members if is_picture(name)]
        sided = has_sides(pictures)
        self._check_folders(pictures, sided)
        for name in pictures:
            side, group = side_and_group(name, sided)
            text = members.get(str(PurePosixPath(name).with_suffix(".txt")))
            caption = "" if text is None else " ".join(self.read(text).decode(errors="replace").split())
            yield Entry(name, members[name], group, side, caption)

    def _check_folders(self, pictures: Sequence[str], sided: bool) -> None:
        """Refuse a side or a class without pictures: nearly always a copy that was interrupted, or may not be read."""
        held = {name.rpartition("/")[0] for name in pictures}
        held |= {str(parent) for folder in held for parent in PurePosixPath(folder).parents}
        depth = 2 if sided else 1
        for folder in self.folders():
            if len(PurePosixPath(folder).parts) <= depth and folder not in held:
                raise MultigenError(f"folder {self.path / folder} holds no picture that can be read: fill it, or remove it")

    def picture(self, name: str, place: str, size: int) -> Any:
        return open_image(f"{self.path}/{name}", self.read(place))


def is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def has_sides(names: Iterable[str]) -> bool:
    """Whether the outermost folders are train, val, ..., and nothing else: then they are splits and not classes."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    return "train" in tops and tops <= set(SIDES)


def stamped(name: str, size: int, time: int) -> str:
    """A place in a file, together with the file's bytes and its time of modification in nanoseconds.

    Two slashes are in no name that a walk through folders finds, so that `bare` takes the stamp away again.
    """
    return f"{name}//{size}-{time}"


def stamped_file(name: str, path: Path) -> str:
    """`stamped`, of a file as it is now."""
    told = path.stat()
    return stamped(name, told.st_size, told.st_mtime_ns)


def bare(place: str) -> str:
    """A place without its stamp.

    >>> bare(stamped("train.parquet", 7, 12) + ":0:5")
    'train.parquet:0:5'
    """
    return _STAMP.sub("", place)


def side_and_group(name: str, sided: bool) -> tuple[str, str]:
    """The split and the class that folders give."""
    *folders, _ = name.split("/")
    side = SIDES[folders.pop(0)] if sided else ""
    return side, folders[0] if folders else ""


def side_of_file(name: str) -> str:
    """The split that a shard's name begins with, as in ``train-00003-of-00040.parquet``; "" if it is none."""
    found = re.match(r"(?:.*[-_.])?(train|validation|valid|val|test)(?:[-_.]|$)", name)
    return SIDES[found[1]] if found else ""
