"""SMILES files: conformers are made by distance geometry and a force field.

ETKDGv3 (Riniker and Landrum 2015; Wang et al. 2020) embeds, MMFF94 (Halgren 1996) relaxes, or UFF where MMFF94 lacks a
parameter. The seed of a molecule is a hash of its canonical SMILES: a conformer depends on nothing else in the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modalities.molecule import collect
from modalities.molecule.chemistry import Unfit, smiles
from modalities.molecule.collect import Found, Rules, Source, sanitise
from modalities.molecule.sdf import find
from modalities.molecule.stored import Stored
from multigen import files, store
from multigen.pool import processes, processors
from multigen.random import hash64
from multigen.state import MultigenError, at_least

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORMAT = 1
SUFFIXES = tuple(f".{kind}{packed}" for packed in ("", ".gz") for kind in ("smi", "smiles", "txt", "csv", "tsv"))
PART = 2048
"""Molecules of a resumable part."""
ITERATIONS = 500
"""Most steps of the force field."""
PATIENCE = 60
"""Seconds after which the embedding of a molecule is given up."""


class Line(NamedTuple):
    """One molecule of a file."""

    number: int
    """From 1."""
    smiles: str
    name: str = ""


class Smiles(Stored):
    """The molecules of a SMILES file, in three dimensions.

    Conformers are made once, when the data set is first made or by ``multigen prepare``, and kept; interrupted, it goes on
    where it was. What cannot be used is named and counted in one line, and left out.

    Args:
        path: a file with a SMILES and perhaps a name on each line, or a table (.csv, .tsv) with a column "smiles" and perhaps
            "name" or "id"; plain or gz. Or a folder of such files.
        split: "train", "valid" or "all".
        share: per cent of the frameworks in "valid" (see `modalities.molecule.scaffold`).
        hydrogens, aromatic, elements, limit: see `modalities.molecule.stored.Stored`.
        max_heavy, max_atoms: larger molecules are left out.
        seed: of the conformers.
        workers: processes that make conformers; None for one on each processor.
        strict: refuse the file if anything in it cannot be used.
        root: the data root, below which the molecules are kept.

    Raises:
        MultigenError: there is no such file; it holds no molecule that can be used; with `strict`, one that cannot.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        share: float = 10.0,
        hydrogens: bool = True,
        aromatic: bool | None = None,
        max_heavy: int | None = None,
        max_atoms: int | None = None,
        elements: Sequence[str] | None = None,
        limit: int | None = None,
        seed: int = 0,
        workers: int | None = None,
        strict: bool = False,
        root: str | Path | None = None,
    ) -> None:
        folder = prepare(path, share, max_heavy, max_atoms, seed, workers, strict, root, verify=False)
        what, command = f"molecules of {Path(path).name}", f"rm -r {folder}"
        super().__init__(folder, split, hydrogens, aromatic, elements=elements, limit=limit, what=what, command=command)


def prepare(
    path: str | Path,
    share: float = 10.0,
    max_heavy: int | None = None,
    max_atoms: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    strict: bool = False,
    root: str | Path | None = None,
    verify: bool = True,
) -> Path:
    """Make and store the conformers, unless they are stored; `verify` what is. Returns their folder. See `Smiles`."""
    at_least(1, workers=1 if workers is None else workers)
    source = Path(path).expanduser()
    found = find(source, SUFFIXES)
    rules = Rules(max_heavy=max_heavy, max_atoms=max_atoms, share=share)
    key = store.digest(source if source.is_dir() else source.parent, found, FORMAT, rules, seed)
    folder = (Path(root) if root else files.data_root()) / "molecules" / key
    parts = folder.with_name(f"{key}.parts")
    recipe = {"format": FORMAT, "files": key, "seed": seed, "embedding": "ETKDGv3", "force_field": "MMFF94, else UFF"}

    def read(progress: Callable[[int], None]) -> Iterator[Found]:
        return conformers(found, seed, workers, parts, progress)

    def total() -> int:
        return sum(1 for file in found for _ in lines(file))

    collect.prepare(folder, Source(source.name, read, total, recipe), rules, strict, verify, workers=1)
    shutil.rmtree(parts, ignore_errors=True)
    return folder


def lines(path: Path) -> Iterator[Line]:
    """The molecules of a file.

    Raises:
        MultigenError: the file cannot be read, or is a table without a column "smiles".
    """
    try:
        with open(path, "rb") as raw:
            plain: Any = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
            text = io.TextIOWrapper(plain, encoding="utf-8", errors="replace", newline="")
            kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
            yield from _table(path, text, "\t" if kind == "tsv" else ",") if kind in ("csv", "tsv") else _listed(text)
    except (OSError, EOFError, csv.Error) as error:
        raise MultigenError(f"cannot read {path}: {error}") from None


def _listed(text: Iterator[str]) -> Iterator[Line]:
    for number, line in enumerate(text, 1):
        first, *rest = line.split(maxsplit=1) or [""]
        if first and not first.startswith("#") and not (number == 1 and first.lower() == "smiles"):
            yield Line(number, first, "".join(rest).strip())


def _table(path: Path, text: Iterator[str], delimiter: str) -> Iterator[Line]:
    rows = csv.reader(text, delimiter=delimiter)
    header = [name.strip().lower().lstrip("\ufeff") for name in next(rows, [])]
    if "smiles" not in header:
        raise MultigenError(f"{path} has no column 'smiles'; its columns are {header}")
    at = header.index("smiles")
    named = next((header.index(name) for name in ("name", "id") if name in header), None)
    for row in rows:
        if len(row) > at:
            yield Line(rows.line_num, row[at].strip(), row[named].strip() if named is not None and len(row) > named else "")


def conformers(
    found: Sequence[Path],
    seed: int,
    workers: int | None,
    parts: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Found]:
    """The molecules of the files with one conformer each, in order, with memory for a part.

    Args:
        found: files.
        seed: of the conformers.
        workers: processes; None for one on each processor.
        parts: a folder in which finished parts are kept.
        progress: called with the number of molecules that are done.
    """
    everything = ((file.name if len(found) > 1 else "", line) for file in found for line in lines(file))
    with processes(workers or processors()) as pool:
        done = 0
        while part := list(islice(everything, PART)):
            tasks = [(line.smiles, seed) for _, line in part]
            made = _part(parts / f"{done:09d}.bin", lambda tasks=tasks: pool.imap(_embedded, tasks, 8))  # type: ignore[misc]
            for (file, line), (binary, reason, detail) in zip(part, made, strict=True):
                where = f"{file} line {line.number}".strip()
                mol = _read_back(binary) if binary else None
                yield Found(where, mol, reason, detail or line.smiles[:60], line.name or line.smiles)
                done += 1
                progress(done)


def _part(path: Path, make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """One part, made or read back. Parts are written atomically: one that is there is whole."""
    import msgpack

    if path.is_file():
        yield from msgpack.unpackb(path.read_bytes())
        return
    made = []
    for one in make():
        made.append(one)
        yield one
    with files.atomic_write(path) as file:
        file.write(msgpack.packb(made))


def _embedded(task: tuple[str, int]) -> tuple[bytes, str, str]:
    """In a worker: RDKit's bytes of the molecule with its conformer, or b"" and why there is none."""
    from rdkit import Chem

    try:
        mol = embed(*task)
    except Unfit as error:
        return b"", error.reason, error.detail
    return mol.ToBinary(int(Chem.PropertyPickleOptions.NoProps)), "", ""


def _read_back(binary: bytes) -> Mol:
    from rdkit import Chem

    return Chem.Mol(binary)  # type: ignore[call-overload] # its stub knows no bytes


def embed(text: str, seed: int = 0) -> Mol:
    """A molecule with explicit hydrogens and one conformer.

    Args:
        text: SMILES.
        seed: together with the canonical SMILES, of the conformer.

    Raises:
        Unfit: RDKit refuses the SMILES, finds no conformer, or the molecule has several fragments.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text, sanitize=False) if text else None
        if mol is None:
            raise Unfit("no SMILES", text[:60])
        sanitise(mol)
        if "." in text and len(Chem.GetMolFrags(mol)) > 1:
            raise Unfit("more than one fragment", text[:60])
        mol = Chem.AddHs(mol)
        _place(mol, hash64("conformer", seed, smiles(mol)) & 0x7FFFFFFF, text)
    return mol


def _place(mol: Mol, seed: int, text: str) -> None:
    """Embed and relax, in place."""
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    options = rdDistGeom.ETKDGv3()
    options.randomSeed = seed  # type: ignore[assignment]
    options.timeout = PATIENCE  # type: ignore[assignment]
    if rdDistGeom.EmbedMolecule(mol, options) < 0:
        options.useRandomCoords = True  # type: ignore[assignment]
        if rdDistGeom.EmbedMolecule(mol, options) < 0:
            raise Unfit("no conformer found", text[:60])
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=ITERATIONS)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=ITERATIONS)
