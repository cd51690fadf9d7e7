"""SDF files: records one by one, and a data set of one's own."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from modalities.molecule import collect
from modalities.molecule.collect import Found, Rules, Source
from modalities.molecule.stored import Stored
from multigen import files, store
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORMAT = 1
SUFFIXES = (".sdf", ".sd", ".mol", ".sdf.gz", ".sd.gz", ".mol.gz")
SIDES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
"""A folder whose files are all named like this says itself what is on which side."""


class Record(NamedTuple):
    """One record of a file, not yet read by RDKit."""

    number: int
    """From 1."""
    text: str
    place: int
    """Bytes of the file, as it lies on the disk, up to its end."""


class Sdf(Stored):
    """The molecules of an SDF file, or of all in a folder.

    They are read once, when the data set is first made, and from then on by memory map. What cannot be used is named and
    counted in one line, and left out.

    Args:
        path: the file or folder, plain or gz. In a folder of train.sdf, valid.sdf and test.sdf these are the splits.
        split: "train", "valid", "test" or "all".
        share: per cent of the groups in "valid".
        by: "scaffold" groups molecules by their framework (see `modalities.molecule.scaffold`), "name" by their title, which
            conformers share; None takes the files' names if they are splits, else "scaffold".
        hydrogens: take molecules with all their hydrogens, or, if False, their heavy atoms.
        aromatic, elements, limit: see `modalities.molecule.stored.Stored`.
        max_heavy, max_atoms: larger molecules are left out.
        strict: refuse the file if anything in it cannot be used.
        root: the data root, below which the molecules are kept.

    Raises:
        MultigenError: there is no such file or folder; it holds no molecule that can be used; with `strict`, one that cannot.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        share: float = 10.0,
        by: str | None = None,
        hydrogens: bool = True,
        aromatic: bool | None = None,
        max_heavy: int | None = None,
        max_atoms: int | None = None,
        elements: Sequence[str] | None = None,
        limit: int | None = None,
        strict: bool = False,
        root: str | Path | None = None,
    ) -> None:
        folder = prepare(path, share, by, hydrogens, max_heavy, max_atoms, strict, root, verify=False)
        what, command = f"molecules of {Path(path).name}", f"rm -r {folder}"
        super().__init__(folder, split, hydrogens, aromatic, elements=elements, limit=limit, what=what, command=command)


def prepare(
    path: str | Path,
    share: float = 10.0,
    by: str | None = None,
    hydrogens: bool = True,
    max_heavy: int | None = None,
    max_atoms: int | None = None,
    strict: bool = False,
    root: str | Path | None = None,
    verify: bool = True,
) -> Path:
    """Store the molecules, unless they are stored; `verify` what is. Returns their folder. Arguments and errors: see `Sdf`."""
    source = Path(path).expanduser()
    found = find(source)
    named = all(stem(file) in SIDES for file in found)
    rules = Rules(hydrogens, 1, max_heavy, max_atoms, by or ("given" if named else "scaffold"), share)
    if rules.by == "given" and not named:
        raise MultigenError(f"by=given wants files named {list(SIDES)}; {source} has {', '.join(f.name for f in found[:5])}")
    above = source if source.is_dir() else source.parent
    key = store.digest(above, found, FORMAT, rules)
    recipe = {"format": FORMAT, "files": key}
    read = Source(source.name, lambda progress: molecules(found, progress), lambda: size(found), recipe)
    return collect.prepare((Path(root) if root else files.data_root()) / "molecules" / key, read, rules, strict, verify)


def find(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The file, or the files in the folder, in a fixed order.

    Raises:
        MultigenError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MultigenError(f"{path} does not exist")
    inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    if not (found := [p for p in inside if p.name.lower().endswith(tuple(suffixes))]):
        raise MultigenError(f"{path} holds no file of molecules: the names end in {list(suffixes)}")
    return found


def size(found: Sequence[Path]) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in found)


def stem(path: Path) -> str:
    return path.name.lower().partition(".")[0]


def molecules(found: Sequence[Path], progress: Callable[[int], None] = lambda done: None) -> Iterator[Found]:
    """What is in the files, record by record, with memory for one.

    Args:
        found: files.
        progress: called with the bytes that are done.
    """
    before = 0
    for path in found:
        split = SIDES.get(stem(path), "train")
        prefix = f"{path.name} " if len(found) > 1 else ""
        for record in records(path):
            yield read(record.text)._replace(where=f"{prefix}record {record.number}", split=split)
            progress(before + record.place)
        before += path.stat().st_size


def records(path: Path) -> Iterator[Record]:
    """The records of a file, divided at lines that begin with ``$$$$``.

    Raises:
        MultigenError: the file cannot be read.
    """
    try:
        with open(path, "rb") as raw:
            lines: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw  # type: ignore[assignment]
            number, part = 1, list[bytes]()
            for line in lines:
                if not line.startswith(b"$$$$"):
                    part.append(line)
                    continue
                yield Record(number, _text(part), raw.tell())
                number, part = number + 1, []
            if any(line.strip() for line in part):
                yield Record(number, _text(part), raw.tell())
    except (OSError, EOFError) as error:
        raise MultigenError(f"cannot read {path}: {error}") from None


def _text(lines: Sequence[bytes]) -> str:
    return b"".join(lines).decode("utf-8", "replace").replace("\r\n", "\n")


def read(text: str) -> Found:
    """One record; its molecule is not sanitised yet."""
    from rdkit import Chem, rdBase

    lines = text.split("\n")
    found = Found("record", name=lines[0].strip())
    ends = sum(line.startswith("M  END") for line in lines)
    if ends != 1:
        return found._replace(reason="broken", detail=_broken(lines, ends))
    with rdBase.BlockLogs():
        mol: Mol | None = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
    return found._replace(mol=mol) if mol is not None else found._replace(reason="broken", detail=_broken(lines, ends))


def _broken(lines: Sequence[str], ends: int) -> str:
    """What can be said of a record that RDKit does not read."""
    if ends != 1:
        return "it has no line 'M  END'" if not ends else f"it has {ends} lines 'M  END': a line '$$$$' is missing"
    counts = lines[3] if len(lines) > 3 else ""
    return f"RDKit cannot read it; its counts line is {counts.rstrip()[:40]!r}"
