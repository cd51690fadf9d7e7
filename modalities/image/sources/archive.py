"""Pictures inside zip files and WebDataset's tar shards (Aizman et al. 2020), read where they lie: nothing is unpacked."""

from __future__ import annotations

import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from modalities.image.data import open_image
from modalities.image.sources.base import Entry, Listed, Source, bare, is_picture, side_of_file, stamped_file
from multigen.state import MultigenError

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Zip(Listed):
    """A zip file, with the layout of `modalities.image.sources.folder.Folder` inside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> dict[str, str]:
        return {info.filename: self._place(info) for info in self._infos() if not info.is_dir()}

    def folders(self) -> list[str]:
        return [info.filename.rstrip("/") for info in self._infos() if info.is_dir() and "__MACOSX" not in info.filename]

    def _infos(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return sorted(archive.infolist(), key=lambda info: info.filename)
        except (OSError, zipfile.BadZipFile) as error:
            raise MultigenError(f"{self.path} is no readable zip file ({error})") from None

    def _place(self, info: zipfile.ZipInfo) -> str:
        if info.compress_type not in (_STORED, _DEFLATED) or info.flag_bits & 1:
            raise MultigenError(f"{self.path}: {info.filename} is encrypted, or compressed in an unknown way")
        return f"{info.header_offset} {info.compress_size} {info.compress_type} {info.CRC}"

    def read(self, place: str) -> bytes:
        offset, size, kind, checksum = map(int, place.split())
        with open(self.path, "rb") as file:
            file.seek(offset + 26)  # the lengths of name and extra field, which lie between header and content
            lengths = file.read(4)
            file.seek(offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"))
            content = file.read(size)
        try:
            content = zlib.decompress(content, -15) if kind == _DEFLATED else content
        except zlib.error:
            content = b""
        if zlib.crc32(content) != checksum:
            raise MultigenError(f"{self.path} is damaged: a member's checksum does not match")
        return content

    def files(self) -> list[Path]:
        return [self.path]


class Shards(Source):
    """Tar files of samples: members whose names agree up to the first point, one after the other.

    ``.jpg``, ``.png``, ... is the picture; ``.cls`` the number of its class, ``.txt`` its caption; ``.json`` may hold
    ``label`` and ``caption``. A shard whose name begins with train, val or test holds that split.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.tar")) if self.path.is_dir() else [self.path]

    def _where(self, shard: str) -> Path:
        return self.path / shard if self.path.is_dir() else self.path

    def entries(self) -> Iterator[Entry]:
        for shard in self.files():
            where = stamped_file(shard.name, shard)
            for sample in _samples(shard):
                if picture := next((name for name in sample if is_picture(name)), None):
                    group, caption = self._said(sample, shard.name)
                    place = f"{where} {sample[picture]}"
                    yield Entry(f"{shard.name}/{picture}", place, group, side_of_file(shard.stem), caption)

    def _said(self, sample: dict[str, str], shard: str) -> tuple[str | int, str]:
        """Class and caption."""
        by_ending = {name.rpartition(".")[2].lower(): f"{shard} {place}" for name, place in sample.items()}
        texts = {k: self.read(by_ending[k]).decode(errors="replace") for k in ("cls", "txt", "json") if k in by_ending}
        try:
            told = json.loads(texts.get("json", "{}"))
            told = told if isinstance(told, dict) else {}
            label = texts.get("cls", told.get("label"))
            group = "" if label is None or int(label) == -1 else int(label)  # some mark with -1 what they keep secret
        except (ValueError, TypeError) as error:
            raise MultigenError(f"{shard}: the class of {next(iter(sample))} is no number ({error})") from None
        return group, " ".join(str(texts.get("txt", told.get("caption") or "")).split())

    def read(self, place: str) -> bytes:
        shard, offset, size = bare(place).rsplit(" ", 2)
        with open(self._where(shard), "rb") as file:
            file.seek(int(offset))
            return file.read(int(size))

    def picture(self, name: str, place: str, size: int) -> Any:
        return open_image(f"{self.path}/{name}", self.read(place))


def _samples(shard: Path) -> Iterator[dict[str, str]]:
    """Name -> offset and size, of the members of each sample."""
    try:
        with tarfile.open(shard, "r:") as archive:
            members = (member for member in archive if member.isfile())
            named = ((member.name.removeprefix("./"), f"{member.offset_data} {member.size}") for member in members)
            for _, sample in groupby(named, key=lambda member: _key(member[0])):
                yield dict(sample)
    except (OSError, tarfile.TarError) as error:
        raise MultigenError(f"{shard} is no readable tar file ({error}); compressed ones cannot be read at random") from None


def _key(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"
