"""The larger real set: gap-free segments of PDB chains, out of Debian's `promod3-data` (Studer et al. 2021).

The package's structure database has no published layout; what is read here was found by looking. At byte 77 stands the number
of segments; for each follow its PDB code and chain (strings with a 4-byte length), where its residues begin, how many there
are, the first one's number, and a shift. Then come the sequences of all segments, one letter a residue, and their atoms N, CA,
C and O, three 2-byte numbers each, in hundredths of an Angstrom after the shift. All of it is checked against what proteins
look like.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from modalities.protein import alphabet, cgdms, cluster, stored
from modalities.protein.cgdms import Cgdms
from modalities.protein.geometry import CA, N
from modalities.protein.packages import PROMOD3
from modalities.protein.stored import Stored, Writer
from multigen import assets, files
from multigen.state import MultigenError, at_least

MEMBER = "usr/share/promod3/loop_data/structure_db.dat"
START = 0x4D
"""Byte at which the number of segments stands."""
SCALE = 100
"""Units of a stored coordinate in an Angstrom."""
ATOMS = 24
"""Bytes of a residue's atoms."""
SHARE = 5
"""Per cent of the clusters that are held out besides those of cgdms' held-out chains."""


class Segment(NamedTuple):
    """One entry of the database's list."""

    name: str
    start: int
    size: int
    first: int
    shift: tuple[float, float, float]


class Promod3(Stored):
    """Segments; the held-out ones share no sequence cluster with the others (see `modalities.protein.cluster`).

    All segments that share a cluster with a chain that `Cgdms` holds out are held out here too, so that what was trained on
    these may be evaluated on those. The reverse does not hold: `Cgdms` trains on relatives of chains that are held out here.

    Args:
        split: "train", "valid" or "all".
        min_length, max_length: residues, both included; they are what was prepared.
        limit: keep this many.
        root: the data root; by default `multigen.files.data_root()`.
    """

    def __init__(
        self,
        split: str = "train",
        min_length: int = 32,
        max_length: int = 256,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = place(Path(root) if root else files.data_root(), min_length, max_length)
        lengths = f"data.train.min_length={min_length} data.train.max_length={max_length}"
        command = f"multigen prepare data=promod3 {lengths}"
        super().__init__(folder, split, limit=limit, what="promod3 segments", command=command)


def place(root: Path, min_length: int, max_length: int) -> Path:
    """Where segments of some lengths lie."""
    return root / f"promod3_{min_length}_{max_length}"


def prepare(root: str | Path | None = None, min_length: int = 32, max_length: int = 256) -> Path:
    """Make the segments of some lengths, or verify what is there. Returns their folder.

    Raises:
        MultigenError: the package cannot be fetched, is not the pinned one, or the disk is full.
    """
    at_least(1, min_length=min_length, max_length=max_length)
    base = Path(root) if root else files.data_root()
    own = {"format": 1, "source": PROMOD3.describe(), "share": SHARE, "lengths": [min_length, max_length]}
    recipe = {**own, "clusters": cluster.recipe(), "held_out_with": cgdms.recipe()}
    about = {"name": "promod3", "licence": f"{PROMOD3.licence} (coordinates: PDB, CC0)", "recipe": recipe}
    folder = place(base, min_length, max_length)
    return stored.prepare(folder, about, lambda writer: _fill(writer, base, min_length, max_length))


def _fill(writer: Writer, root: Path, min_length: int, max_length: int) -> None:
    from rich.progress import track

    cgdms.prepare(root)
    seen: set[str] = set()
    with assets.opened(PROMOD3, root) as archive, archive.open(MEMBER) as file:
        for example in track(examples(file), description="reading promod3", transient=True):
            sequence = alphabet.letters(example["sequence"])
            if min_length <= len(sequence) <= max_length and sequence not in seen:
                seen.add(sequence)
                writer.add(example)
    own, other = writer.sequences(), held_out(root)
    numbers = cluster.clusters([*own, *other])  # (N + others,)
    taken = set(numbers[len(own) :].tolist())
    numbers = numbers[: len(own)]  # (N,)
    sides = cluster.splits(own, numbers, SHARE)
    writer.label(["valid" if n in taken else side for n, side in zip(numbers.tolist(), sides, strict=True)], numbers)


def held_out(root: Path) -> list[str]:
    """The sequences that `Cgdms` holds out."""
    data = Cgdms("valid", root=root)
    return [alphabet.letters(data[i]["sequence"]) for i in range(len(data))]


def examples(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The segments of a structure database as examples, with memory for one and all sequences.

    Args:
        file: the database from its beginning; only read forward.

    Raises:
        MultigenError: the file is not laid out as this module says.
    """
    segments = list(_segments(file))
    letters = _take(file, _number(file, "<Q"))
    if len(letters) != sum(s.size for s in segments) or _number(file, "<Q") != len(letters):
        raise MultigenError(f"{MEMBER} is damaged: {len(letters)} residues, expected {sum(s.size for s in segments)}")
    for segment in segments:
        yield _example(segment, letters[segment.start : segment.start + segment.size], _take(file, ATOMS * segment.size))


def _segments(file: IO[bytes]) -> Iterator[Segment]:
    """The list at the beginning of the database, in the order of the residues."""
    _take(file, START)
    end = 0
    for _ in range(_number(file, "<Q")):
        code, chain = (_take(file, min(_number(file, "<I"), 64)).decode("latin-1") for _ in range(2))
        start, size, first, *shift = struct.unpack("<IHH3f", _take(file, 20))
        if start != end or not size:
            raise MultigenError(f"{MEMBER} is damaged: segment {code!r} {chain!r} begins at {start}, expected {end}")
        end += size
        yield Segment(f"{code}_{chain}", start, size, first, tuple(shift))


def _example(segment: Segment, letters: bytes, atoms: bytes) -> dict[str, Any]:
    whole = np.frombuffer(atoms, "<u2").reshape(-1, 4, 3)  # (L, 4, 3)
    backbone = (whole / SCALE + np.array(segment.shift)).astype(np.float32)  # (L, 4, 3)
    tokens = alphabet.tokens(letters.decode("latin-1"))  # (L,)
    bond = float(np.median(np.linalg.norm(backbone[:, CA] - backbone[:, N], axis=-1)))
    if (tokens >= alphabet.UNKNOWN).any() or not 1.3 < bond < 1.6:
        raise MultigenError(f"{MEMBER}: segment {segment.name} is no protein: N-CA is {bond:.2f} A, sequence {letters[:20]!r}")
    index = np.arange(segment.first, segment.first + segment.size, dtype=np.int32)  # (L,)
    chain = np.zeros(segment.size, np.int16)  # (L,)
    return {"name": segment.name, "sequence": tokens, "backbone": backbone, "chain": chain, "index": index}


def _take(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise MultigenError(f"{MEMBER} is cut off")
    return content


def _number(file: IO[bytes], kind: str) -> int:
    return int(struct.unpack(kind, _take(file, struct.calcsize(kind)))[0])
