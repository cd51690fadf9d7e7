"""The layout in which prepared proteins lie on the disk.

A folder holds, of all proteins one after the other, ``sequence.npy`` (int8 (M,)), ``backbone.npy`` (float32 (M, 4, 3)),
``chain.npy`` (int16 (M,)), ``index.npy`` (int32 (M,)) and ``free.npy`` (bool (M,)); of each protein, its first residue,
``start.npy`` (int64 (N + 1,)), ``split.npy`` (int8 (N,), into `SPLITS`) and ``cluster.npy`` (int64 (N,)); and the names,
``name.npy`` (uint8, UTF-8) with ``name_start.npy`` (int64 (N + 1,)). ``manifest.json`` is written last and vouches for the
others by checksum and count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from modalities.protein.alphabet import CLASSES
from multigen import files
from multigen.state import MultigenError

FORMAT = 1
SPLITS = ("train", "valid", "test")


class Column(NamedTuple):
    """Type of an array, and the shape of one row."""

    dtype: str
    row: tuple[int, ...] = ()


RESIDUES = {
    "sequence": Column("<i1"),
    "backbone": Column("<f4", (4, 3)),
    "chain": Column("<i2"),
    "index": Column("<i4"),
    "free": Column("|b1"),
}
PROTEINS = {"start": Column("<i8"), "split": Column("<i1"), "cluster": Column("<i8"), "name_start": Column("<i8")}
COLUMNS = RESIDUES | PROTEINS | {"name": Column("|u1")}


def lock(folder: Path) -> FileLock:
    """Held by whoever writes a folder; may be taken again by its holder."""
    files.make_folder(folder.parent)
    return FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True)


def whole(folder: Path) -> bool:
    """Whether every file that the manifest lists is there, unchanged. Reads them all."""
    if not (folder / "manifest.json").is_file():
        return False
    checksums = files.read_json(folder / "manifest.json").get("files", {})
    return all((folder / name).is_file() and files.sha256(folder / name) == sha for name, sha in checksums.items())


def plain(value: Any) -> Any:
    """As it is after a round through JSON."""
    return json.loads(files.to_json(value))


def split_number(split: str) -> int:
    if split not in SPLITS:
        raise MultigenError(f"no split {split!r}: choices are {list(SPLITS)}")
    return SPLITS.index(split)


def checked(example: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of an example, by column, if they are what they should be.

    Raises:
        MultigenError: naming the example and what is wrong with it.
    """
    count = len(example["sequence"])
    arrays = {name: np.asarray(example[name]) for name in RESIDUES if name in example}
    arrays.setdefault("free", np.ones(count, bool))  # (L,)
    for problem in _problems(arrays, count):
        raise MultigenError(f"protein {example.get('name')!r} is malformed: {problem}")
    return arrays


def _problems(arrays: Mapping[str, NDArray[Any]], count: int) -> Iterator[str]:
    if not count:
        yield "it has no residue"
    for name, column in RESIDUES.items():
        if name not in arrays:
            yield f"it has no {name!r}"
        if arrays[name].shape != (count, *column.row):
            yield f"{name} has shape {arrays[name].shape}, expected {(count, *column.row)}"
    sequence, chain, index = arrays["sequence"], arrays["chain"], arrays["index"]  # (L,) each
    if sequence.min() < 0 or sequence.max() >= CLASSES:
        yield f"tokens from {sequence.min()} to {sequence.max()}, expected 0 to {CLASSES - 1}"
    if np.isinf(arrays["backbone"]).any():
        yield "a coordinate is infinite"
    if not (np.diff(index.astype(np.int64)) > 0)[np.diff(chain) == 0].all():
        yield "index does not increase along a chain"
