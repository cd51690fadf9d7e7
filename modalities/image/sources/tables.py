"""Pictures in Parquet files, and in the folders that Hugging Face's `datasets` writes (``save_to_disk``: Arrow files)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from modalities.image.data import open_image
from modalities.image.sources.base import SIDES, Entry, Source, bare, side_of_file, stamped_file
from multigen.state import MultigenError

_PICTURE, _LABEL, _CAPTION = ("image", "img", "picture", "jpg", "png"), ("label", "cls", "fine_label"), ("caption", "text")
"""What columns are called."""


class Tables(Source):
    """Rows with a column of encoded pictures (bytes, or `datasets`' struct of bytes and path), of classes, of captions.

    A file whose name begins with train, validation or test, or lies in a folder of that name, holds that split.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: tuple[str, Any] = ("", None)

    def files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return sorted(
            p for p in self.path.rglob("*") if p.suffix in (".parquet", ".arrow") and not p.name.startswith("cache-")
        )

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix() if self.path.is_dir() else file.name

    def entries(self) -> Iterator[Entry]:
        for file in self.files():
            name, side = self._name(file), side_of_file(file.stem) or SIDES.get(file.parent.name, "")
            where = stamped_file(name, file)
            wanted = [column for column in (self._label, self._caption) if column]
            for chunk, rows in enumerate(_chunks(file, wanted or [self._picture])):
                labels = rows[self._label].to_pylist() if self._label else [""] * len(rows)
                captions = rows[self._caption].to_pylist() if self._caption else [""] * len(rows)
                for row, (label, caption) in enumerate(zip(labels, captions, strict=True)):
                    group = "" if label in (None, -1) else label  # some mark with -1 what they keep secret
                    text = " ".join(str(caption or "").split())
                    yield Entry(f"{name}:{chunk}:{row}", f"{where}:{chunk}:{row}", group, side, text)

    def classes(self) -> Sequence[str]:
        told = json.loads((self._schema.metadata or {}).get(b"huggingface", b"{}"))
        return (told.get("info", {}).get("features", {}).get(self._label) or {}).get("names") or ()

    def picture(self, name: str, place: str, size: int) -> Any:
        file, chunk, row = bare(place).rsplit(":", 2)
        if self._last[0] != f"{file}:{chunk}":  # rows are asked for in order: one chunk is decoded once
            path = self.path / file if self.path.is_dir() else self.path
            self._last = (f"{file}:{chunk}", _chunk(path, int(chunk), [self._picture]))
        cell = self._last[1][self._picture][int(row)].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None and isinstance(cell, dict) and cell.get("path"):
            return open_image(Path(cell["path"]))
        return open_image(f"{self.path}/{name}", content or b"")

    @cached_property
    def _schema(self) -> Any:
        return _schema(self.files()[0])

    @cached_property
    def _picture(self) -> str:
        if found := self._column(_PICTURE):
            return found
        raise MultigenError(f"{self.path} has no column of pictures: expected {list(_PICTURE)}, found {self._schema.names}")

    @property
    def _label(self) -> str | None:
        return self._column(_LABEL)

    @property
    def _caption(self) -> str | None:
        return self._column(_CAPTION)

    def _column(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in self._schema.names), None)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_last": ("", None)}


@contextmanager
def _readable(file: Path, kind: str) -> Iterator[Any]:
    """The package that reads it; that it is missing, or what it says of a damaged file, becomes one line."""
    try:
        import pyarrow
    except ImportError:
        raise MultigenError(f"reading {file} needs the package 'pyarrow', which is not installed") from None
    try:
        yield pyarrow
    except (OSError, pyarrow.ArrowException) as error:
        raise MultigenError(f"{file} is no readable {kind} file ({str(error).splitlines()[0]})") from None


@contextmanager
def _parquet(file: Path) -> Iterator[Any]:
    with _readable(file, "Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(file) as opened:
            yield opened


def _arrow(file: Path) -> Any:
    """All of a file, by memory map. `datasets` writes the stream format."""
    with _readable(file, "Arrow") as pyarrow:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()


def _schema(file: Path) -> Any:
    if file.suffix != ".parquet":
        return _arrow(file).schema
    with _parquet(file) as opened:
        return opened.schema_arrow


def _chunks(file: Path, columns: list[str]) -> Iterator[Any]:
    """Some columns of all row groups of a Parquet file, which is opened once; of an Arrow file at once."""
    if file.suffix != ".parquet":
        yield _arrow(file).select(columns)
        return
    with _parquet(file) as opened:
        for number in range(opened.num_row_groups):
            yield opened.read_row_group(number, columns)


def _chunk(file: Path, number: int, columns: list[str]) -> Any:
    if file.suffix != ".parquet":
        return _arrow(file).select(columns)
    with _parquet(file) as opened:
        return opened.read_row_group(number, columns)
