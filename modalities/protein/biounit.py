"""The training layout of ProteinMPNN (Dauparas et al. 2022), of which pdb_2021aug02 is the published set.

A folder holds ``list.csv`` (CHAINID, DEPOSITION, RESOLUTION, HASH, CLUSTER, SEQUENCE), ``valid_clusters.txt`` and
``test_clusters.txt`` (a number a line), and the chains: ``pdb/na/5naf_A.pt`` for the chain 5naf_A, a dict with ``seq``
(letters), ``xyz`` (L, 14, 3) in Angstrom and ``mask`` (L, 14). What lies beside them (``5naf.pt``: assemblies, dates) is not
needed here.
"""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import re
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modalities.protein import alphabet
from multigen import files
from multigen.files import nearest
from multigen.random import keys
from multigen.state import MultigenError, at_least

COLUMNS = ("CHAINID", "RESOLUTION", "CLUSTER", "SEQUENCE")
"""The columns of the list that are used."""
MEMBERS = ("first", "all")
SPLITS = ("train", "valid", "test", "all")
TAG = re.compile(r"^.{0,4}?H{6,}|H{6,}.{0,4}$")
"""A run of at least six His within four residues of an end, with what lies beyond it."""

csv.field_size_limit(1 << 30)  # titin


class Row(NamedTuple):
    """A line of the list."""

    chain: str
    resolution: float
    cluster: int
    sequence: str


class Biounit:
    """Single chains in ProteinMPNN's layout; an item is an example as in `modalities.protein`, read when it is asked for.

    His tags at the ends are cut off, so lengths are what is left of the listed sequence. A residue without coordinates is NaN.
    Of the list, names, lengths and clusters of the chains that are kept stay in memory (about 30 bytes each), nothing more.

    Args:
        path: the folder.
        split: "train", "valid", "test" or "all", by cluster.
        min_length, max_length: residues, both included, after cutting.
        resolution: Angstrom; chains that are resolved worse are left out.
        member: "first" keeps the first chain of each cluster, of those within the bounds; "all" keeps all of them.
        limit: keep this many, drawn by a fixed hash.
        partial: leave out chains whose file is not there, as in a copy of a part. Otherwise reading such a one is an error.

    Attributes:
        sizes: int64 (N,), lengths.
        clusters: int64 (N,), clusters of the list.
        names: bytes (N,), chains.

    Raises:
        MultigenError: a file is missing, or not laid out as above; the message names it and the line. Nothing is left.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        min_length: int = 1,
        max_length: int | None = None,
        resolution: float = 3.5,
        member: str = "first",
        limit: int | None = None,
        partial: bool = False,
    ) -> None:
        for name, value, choices in (("split", split, SPLITS), ("member", member, MEMBERS)):
            if value not in choices:
                raise MultigenError(f"unknown {name} {value!r}: {nearest(value, choices)}")
        at_least(1, min_length=min_length, limit=1 if limit is None else limit)
        self.path = Path(path).expanduser()
        self._options = [split, min_length, max_length, resolution, member, limit, partial]
        wanted = _wanted(self.path, split)
        kept = (
            row
            for row in read_list(self.path / "list.csv")
            if row.resolution <= resolution
            and wanted(row.cluster)
            and min_length <= len(row.sequence) <= (max_length or len(row.sequence))
            and (not partial or self._file(row.chain).is_file())
        )
        self.names, self.sizes, self.clusters = _table(kept if member == "all" else _first(kept), limit)  # (N,) each
        if not len(self.names):
            raise MultigenError(f"nothing is left of {self.path / 'list.csv'} in split {split!r}")

    def _file(self, chain: str) -> Path:
        return self.path / "pdb" / chain[1:3] / f"{chain}.pt"

    @cached_property
    def fingerprint(self) -> str:
        lists = [files.sha256(self.path / name) for name in ("list.csv", "valid_clusters.txt", "test_clusters.txt")]
        return f"biounit-{hashlib.sha256(json.dumps([lists, self._options]).encode()).hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index].decode()
        example = read_chain(self._file(name))
        if (count := len(example["sequence"])) != self.sizes[index]:
            raise MultigenError(f"{self.path / 'list.csv'} has {self.sizes[index]} residues of {name}, its file has {count}")
        return example


def _first(rows: Iterator[Row]) -> Iterator[Row]:
    """The first row of each cluster."""
    seen: set[int] = set()
    for row in rows:
        if row.cluster not in seen:
            seen.add(row.cluster)
            yield row


def _table(rows: Iterator[Row], limit: int | None) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """Names, lengths and clusters, without the sequences: (N,) each."""
    names: list[bytes] = []
    numbers = array("q")
    for row in rows:
        names.append(row.chain.encode())
        numbers.extend((len(row.sequence), row.cluster))
    order = keys(0, range(len(names)), "limit").argsort(stable=True).numpy()  # (all,)
    kept = np.sort(order[:limit])  # (N,)
    sizes, clusters = np.array(numbers, np.int64).reshape(-1, 2).T  # (all,) each
    return np.array(names)[kept], sizes[kept], clusters[kept]


def _wanted(path: Path, split: str) -> Callable[[int], bool]:
    """Cluster -> whether it belongs to a split."""
    held = {name: read_clusters(path / f"{name}_clusters.txt") for name in ("valid", "test")}
    if split in held:
        return held[split].__contains__
    others: set[int] = set() if split == "all" else held["valid"] | held["test"]
    return lambda cluster: cluster not in others


def read_clusters(path: Path) -> set[int]:
    """The numbers of a cluster file."""
    try:
        return {int(line) for line in files.read_text(path).split()}
    except ValueError as error:
        raise MultigenError(f"{path} is not a list of cluster numbers: {error}") from None


def read_list(path: Path) -> Iterator[Row]:
    """The lines of ``list.csv``, one by one, sequences without tags.

    Raises:
        MultigenError: the file is missing, lacks a column, or a line is malformed.
    """
    if not path.is_file():
        raise MultigenError(f"{path} does not exist")
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        head = next(lines, [])
        if missing := [name for name in COLUMNS if name not in head]:
            raise MultigenError(f"{path} has no column {missing[0]!r}: its first line is {','.join(head)[:80]!r}")
        places = [head.index(name) for name in COLUMNS]
        for line in lines:
            try:
                chain, resolution, cluster, sequence = (line[place] for place in places)
                yield Row(chain, float(resolution or "nan"), int(cluster), trimmed(sequence)[1])
            except (ValueError, IndexError) as error:
                raise MultigenError(f"line {lines.line_num} of {path} is malformed: {error}") from None


def trimmed(sequence: str) -> tuple[int, str]:
    """Where the sequence begins behind a His tag, and what is left of it without tags at either end."""
    start, end = 0, len(sequence)
    for tag in TAG.finditer(sequence):
        start, end = (tag.end(), end) if tag.start() == 0 else (start, tag.start())
    return start, sequence[start:end]


def read_chain(path: Path) -> dict[str, Any]:
    """One chain's file -> an example. No code in the file is run.

    Raises:
        MultigenError: the file is missing or damaged, or its arrays have another shape.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        letters, positions, mask = content["seq"], content["xyz"].float(), content["mask"] > 0  # (L, 14, 3), (L, 14)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
        what = str(error).partition("\n")[0]
        raise MultigenError(f"{path} is not a readable chain: {type(error).__name__}: {what}") from None
    shapes = tuple(positions.shape), tuple(mask.shape)
    if shapes != ((len(letters), 14, 3), (len(letters), 14)):
        raise MultigenError(
            f"{path} has xyz {shapes[0]} and mask {shapes[1]} for {len(letters)} residues, expected (L, 14, ...)"
        )
    start, sequence = trimmed(letters)
    here = slice(start, start + len(sequence))
    known = torch.where(mask[..., None], positions, torch.nan)[here, :4]  # (L, 4, 3)
    return {
        "name": path.stem,
        "sequence": np.minimum(alphabet.tokens(sequence), alphabet.UNKNOWN),  # (L,)
        "backbone": known.numpy(),
        "chain": np.zeros(len(sequence), np.int16),  # (L,)
        "index": np.arange(here.start, here.stop, dtype=np.int32),  # (L,)
    }
