"""CATH 4.2 and 4.3 in the layout of Ingraham et al. 2019: ``chain_set.jsonl`` and ``chain_set_splits.json`` in one folder.

A line of the first is a chain, {"name": "12as.A", "seq": "MK...", "coords": {"N": [[x, y, z], ...], "CA": ..., "C": ..., "O":
...}}, with NaN where an atom is missing. The second file is {"train": [name, ...], "validation": [...], "test": [...]}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modalities.protein import alphabet, stored
from modalities.protein.stored import Stored, Writer
from multigen import files
from multigen.state import MultigenError

CHAINS, SPLITS = "chain_set.jsonl", "chain_set_splits.json"
NAMES = {"train": "train", "validation": "valid", "test": "test"}
"""What the splits are called in the file, and here."""
ATOMS = ("N", "CA", "C", "O")
EXPECTED = '{"name": ..., "seq": ..., "coords": {"N": [[x, y, z], ...], "CA": ..., "C": ..., "O": ...}}'


class Cath(Stored):
    """The chains that the splits name. The lines are read once, one by one, when the data set is first made, and from then on
    by memory map.

    Args:
        path: the folder with both files.
        split: "train", "valid", "test" or "all".
        min_length, max_length: residues, both included.
        limit: keep this many.
        root: the data root, below which the arrays are kept.

    Raises:
        MultigenError: a file is missing or is not laid out as above; the message names the line.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        min_length: int = 1,
        max_length: int | None = 500,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        source = Path(path).expanduser()
        sides = read_splits(source / SPLITS)
        recipe = {"format": 1, "chains": _state(source / CHAINS), "splits": files.sha256(source / SPLITS)}
        name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
        folder = (Path(root) if root else files.data_root()) / "cath" / name
        if not (folder / "manifest.json").is_file():
            about = {"name": "CATH", "licence": "CC BY 4.0", "recipe": recipe}
            stored.prepare(folder, about, lambda writer: _fill(writer, source / CHAINS, sides))
        super().__init__(folder, split, min_length, max_length, limit, "CATH chains", f"rm -r {folder}")


def _state(path: Path) -> list[Any]:
    """Changes when a file is replaced; reading it all would take as long as using it."""
    try:
        state = path.stat()
    except OSError as error:
        raise MultigenError(f"cannot read {path}: {error.strerror}") from None
    return [path.resolve().as_posix(), state.st_size, state.st_mtime_ns]


def read_splits(path: Path) -> dict[str, str]:
    """Name -> "train", "valid" or "test"."""
    content = files.read_json(path)
    lists = content if isinstance(content, dict) else {}
    if not all(isinstance(lists.get(name), list) for name in NAMES):
        raise MultigenError(f"{path} is not laid out as expected: lists of names under {list(NAMES)}")
    return {str(name): side for split, side in NAMES.items() for name in lists[split]}


def _fill(writer: Writer, path: Path, sides: dict[str, str]) -> None:
    from rich.progress import track

    for example in track(examples(path), description=f"reading {path.name}", transient=True):
        if side := sides.get(example["name"]):
            writer.add(example, side)
    if not len(writer):
        raise MultigenError(f"{path} holds none of the {len(sides)} chains that {SPLITS} names")


def examples(path: Path) -> Iterator[dict[str, Any]]:
    """The chains of a file, line by line.

    Raises:
        MultigenError: naming the line and what was expected.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse(line)
            except (ValueError, KeyError, TypeError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise MultigenError(f"line {number} of {path}: {what}; expected {EXPECTED}") from None


def parse(line: bytes | str) -> dict[str, Any]:
    """One line -> an example. `KeyError`, `TypeError` or `ValueError` if it is none."""
    entry = json.loads(line)
    sequence, name = str(entry["seq"]), str(entry["name"])
    atoms = [np.array(entry["coords"][atom], np.float32) for atom in ATOMS]  # (L, 3) each
    for atom, positions in zip(ATOMS, atoms, strict=True):
        if positions.shape != (len(sequence), 3):
            raise ValueError(f"{atom} of {name} has shape {positions.shape}, expected {(len(sequence), 3)}")
    if not sequence:
        raise ValueError(f"{name} has no residue")
    return {
        "name": name,
        "sequence": np.minimum(alphabet.tokens(sequence), alphabet.UNKNOWN),  # (L,); a gap is no mask
        "backbone": np.stack(atoms, 1),  # (L, 4, 3)
        "chain": np.zeros(len(sequence), np.int16),  # (L,)
        "index": np.arange(len(sequence), dtype=np.int32),  # (L,)
    }
