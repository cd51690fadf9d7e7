"""Which kind of source a path is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modalities.image.sources.archive import Shards, Zip
from modalities.image.sources.base import Source
from modalities.image.sources.folder import Folder
from modalities.image.sources.prepared import Prepared
from modalities.image.sources.tables import Tables
from multigen.state import MultigenError

_FILES: dict[str, Callable[[Path], Source]] = {".zip": Zip, ".tar": Shards, ".parquet": Tables, ".arrow": Tables}


def open_source(path: str | Path) -> Source:
    """The pictures at a path, whatever holds them.

    Raises:
        MultigenError: there is nothing, or nothing of a known kind.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise MultigenError(f"{path} does not exist: give a folder, {', '.join(_FILES)}")
    if path.suffix.lower() not in _FILES:
        raise MultigenError(f"{path} holds no pictures that can be read: choices are a folder, {', '.join(_FILES)}")
    return _FILES[path.suffix.lower()](path)


def _folder(path: Path) -> Source:
    if (path / "manifest.json").is_file() and (path / "table.json").is_file():
        return Prepared(path)
    if any(path.glob("*.tar")):
        return Shards(path)
    datasets = any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json"))
    return Tables(path) if datasets or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")) else Folder(path)
