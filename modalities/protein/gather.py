"""Reads many structure files, in parts that are kept until the whole is done, so that an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.protein.structure import SUFFIXES, Structure, read_structure, stem
from multigen import files
from multigen.cache.progress import bar
from multigen.state import MultigenError

PART = 256
"""Files of a part: at 300 residues each, 4 MB of memory."""
CHAINS = ("all", "first", "each")
_ARRAYS = ("sequence", "backbone", "chain", "index")


class Gathered(NamedTuple):
    """What came of one file."""

    file: str
    """Path below the folder."""
    examples: list[dict[str, Any]]
    why: str = ""
    """If it could not be read, the reason."""


def find_structures(folder: Path) -> list[Path]:
    """The files below `folder` with the name of a structure, in a fixed order."""
    if not folder.is_dir():
        raise MultigenError(f"{folder} is not a folder of structures")
    found = sorted(path for path in folder.rglob("*") if _is_structure(path.relative_to(folder)) and path.is_file())
    if not found:
        raise MultigenError(f"{folder} holds no structure: the names end in {list(SUFFIXES)}, or so and in .gz")
    return found


def _is_structure(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def gather(folder: Path, found: Sequence[Path], chains: str, parts: Path) -> Iterator[Gathered]:
    """What came of each file, one part in memory at a time.

    Args:
        folder: above all files.
        found: the files.
        chains: "all" makes one example of a file, "first" one of its first chain, "each" one of each chain.
        parts: a folder for what was read, which `forget` removes.
    """
    named = list(_names(folder, found).items())
    with bar(f"reading {folder.name}", len(found)) as progress:
        for start in range(0, len(found), PART):
            yield from _part(parts / f"{start:08d}.npz", folder, named[start : start + PART], chains)
            progress(min(start + PART, len(found)))


def forget(parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)


def _names(folder: Path, found: Sequence[Path]) -> dict[str, str]:
    """Path below the folder -> name of the example: that of the file, or the path where files have equal names."""
    paths = {path.relative_to(folder).as_posix(): stem(path) for path in found}
    count = Counter(paths.values())
    return {path: name if count[name] == 1 else path for path, name in paths.items()}


def _part(path: Path, folder: Path, named: Sequence[tuple[str, str]], chains: str) -> list[Gathered]:
    """One part, read from its files or read back. Parts are written atomically: one that is there is whole."""
    if path.is_file():
        return _unpack(path)
    gathered = [_read(folder / file, file, name, chains) for file, name in named]
    packed = _pack(gathered)
    with files.atomic_write(path) as part:
        np.savez(part, **packed)
    return gathered


def _read(path: Path, file: str, name: str, chains: str) -> Gathered:
    try:
        structure = replace(read_structure(path), name=name)
    except MultigenError as error:
        return Gathered(file, [], str(error).removeprefix(str(path)).lstrip(" :"))
    return Gathered(file, [part.example() for part in _divide(structure, chains)])


def _divide(structure: Structure, chains: str) -> list[Structure]:
    if chains == "all":
        return [structure]
    wanted = structure.chains[:1] if chains == "first" else structure.chains
    return [replace(structure.select([chain]), name=f"{structure.name}_{chain}") for chain in wanted]


def _pack(gathered: Sequence[Gathered]) -> dict[str, Any]:
    """Arrays of all examples one after another, and a text that says whose they are."""
    examples = [example for one in gathered for example in one.examples]
    text = json.dumps([[one.file, [example["name"] for example in one.examples], one.why] for one in gathered])
    sizes = [len(example["sequence"]) for example in examples]
    arrays = {key: np.concatenate([example[key] for example in examples]) for key in _ARRAYS if examples}
    return {**arrays, "start": np.cumsum([0, *sizes]), "text": np.frombuffer(text.encode(), np.uint8)}


def _unpack(path: Path) -> list[Gathered]:
    with np.load(path) as packed:
        arrays = {key: packed[key] for key in packed.files}
    rows = (slice(*ends) for ends in pairwise(arrays["start"]))
    return [
        Gathered(file, [{"name": name, **_cut(arrays, next(rows))} for name in names], why)
        for file, names, why in json.loads(arrays["text"].tobytes())
    ]


def _cut(arrays: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {key: arrays[key][rows] for key in _ARRAYS}
