"""The backbone atoms that a PDB or mmCIF file lists. The formats are biopython's business; what to keep is decided here."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigen.state import MultigenError

ATOMS = ("N", "CA", "C", "O")
WATER = frozenset({"HOH", "WAT", "DOD"})
_NOT_GIVEN = frozenset({".", "?", ""})


class Atom(NamedTuple):
    """One atom as the file has it."""

    residue: str
    """Name of its residue, like MSE."""
    hetero: bool
    """Whether the file says that it belongs to no polymer, or to a modified residue (HETATM)."""
    place: int
    """In `ATOMS`."""
    conformer: str
    """Alternate location, "" if there is one alone."""
    occupancy: float
    position: NDArray[np.float32]
    """(3,) in Angstrom."""


Found = dict[str, dict[tuple[int, str], list[Atom]]]
"""Chain -> (author's number, insertion code) -> atoms, in the order of the file."""


def read_atoms(path: Path, model: int = 0) -> Found:
    """The backbone atoms of one model of a PDB or mmCIF file, plain or gz; which it is, the content tells.

    Raises:
        MultigenError: there is no such file, it is no structure, or it has no such model.
    """
    text = _text(path)
    if re.search(r"^\s*_atom_site\.", text, re.MULTILINE):
        read: Callable[[str, Collector], None] = _read_cif
    elif re.search(r"^(ATOM  |HETATM)", text, re.MULTILINE):
        read = _read_pdb
    else:
        raise MultigenError(f"{path} is not a structure: neither atom records (PDB) nor an _atom_site table (mmCIF)")
    collector = Collector(model)
    try:
        read(text, collector)
    except Exception as error:  # the parsers let through whatever a damaged line causes
        raise MultigenError(f"{path} is a damaged structure: {_line(error)}") from None
    _check_model(path, model, len(collector.models))
    return collector.found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise MultigenError(f"{path} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise MultigenError(f"{path} is not a structure: the compressed file is damaged or cut off") from None
    except OSError as error:
        raise MultigenError(f"cannot read {path}: {error.strerror}") from None
    if b"\0" in data or not data.strip():
        raise MultigenError(f"{path} is not a structure: the file is {'binary' if data.strip() else 'empty'}")
    return data.decode("latin-1")  # only authors' names are not ASCII


def _line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:160].strip()


def _check_model(path: Path, model: int, count: int) -> None:
    if not 0 <= model < count:
        there = f"models are 0 to {count - 1}" if count > 1 else "it has one alone, 0"
        raise MultigenError(f"{path} has no model {model}: {there}")


def _read_pdb(text: str, collector: Collector) -> None:
    from Bio.PDB.PDBParser import PDBParser

    PDBParser(PERMISSIVE=True, QUIET=True, structure_builder=collector).get_structure("", io.StringIO(text))


def _read_cif(text: str, collector: Collector) -> None:
    """The quick parser reads what the archives write; anything else is read column by column."""
    from Bio.PDB.MMCIFParser import FastMMCIFParser

    try:
        FastMMCIFParser(QUIET=True, structure_builder=collector).get_structure("", io.StringIO(text))
    except Exception:  # an unusual layout, or a column left out
        collector.clear()
        _read_table(text, collector)


def _read_table(text: str, collector: Collector) -> None:
    """Any valid mmCIF; columns that are not needed may be missing."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    table = MMCIF2Dict(io.StringIO(text))
    columns = (
        _column(table, "pdbx_PDB_model_num", default="1"),
        _column(table, "auth_asym_id", "label_asym_id"),
        _column(table, "auth_comp_id", "label_comp_id"),
        _column(table, "auth_seq_id", "label_seq_id"),
        _column(table, "pdbx_PDB_ins_code", default="?"),
        _column(table, "group_PDB", default="ATOM"),
        _column(table, "label_atom_id", "auth_atom_id"),
        _column(table, "label_alt_id", default="."),
        _column(table, "occupancy", default="1"),
        *(_column(table, f"Cartn_{axis}") for axis in "xyz"),
    )
    for model, chain, residue, number, code, group, name, conformer, occupancy, *position in zip(*columns, strict=True):
        if number not in _NOT_GIVEN:
            collector.init_model(model)
            collector.init_chain(chain)
            collector.init_residue(residue, "H" if group == "HETATM" else " ", int(number), _given(code))
            collector.init_atom(name, np.array(position, np.float32), 0, float(_given(occupancy) or 1), _given(conformer))


def _column(table: Any, *names: str, default: str | None = None) -> list[str]:
    """The first of these columns that the table of atoms has."""
    for name in names:
        if f"_atom_site.{name}" in table:
            return table[f"_atom_site.{name}"]
    if default is None:
        raise ValueError(f"no column {names[0]}")
    return [default] * len(_column(table, "Cartn_x"))


def _given(value: str) -> str:
    return "" if value in _NOT_GIVEN else value


class Collector:
    """Takes what biopython's parsers report, in place of its `StructureBuilder`: no tree of objects is made.

    Args:
        model: 0 for the first.
    """

    def __init__(self, model: int) -> None:
        self.model = model
        self.clear()

    def clear(self) -> None:
        self.models: list[Any] = []
        self.found: Found = {}

    def init_model(self, model_id: Any, serial_num: Any = None) -> None:
        if not self.models or self.models[-1] != model_id:  # some parsers repeat it for every atom
            self.models.append(model_id)
        self._wanted = len(self.models) - 1 == self.model

    def init_chain(self, chain_id: str) -> None:
        self._chain = chain_id

    def init_residue(self, resname: str, field: str, resseq: int, icode: str) -> None:
        self._residue, self._hetero = resname.strip().upper(), field != " "
        self._key = resseq, icode.strip()

    def init_atom(
        self, name: str, coord: NDArray[np.float32], b_factor: float, occupancy: float | None, altloc: str, *_: Any, **__: Any
    ) -> None:
        if not self._wanted or name not in ATOMS or self._residue in WATER:
            return
        position = coord if np.isfinite(coord).all() else np.full(3, np.nan, np.float32)  # (3,)
        occupied = 1.0 if occupancy is None else occupancy
        atom = Atom(self._residue, self._hetero, ATOMS.index(name), altloc.strip(), occupied, position)
        self.found.setdefault(self._chain, {}).setdefault(self._key, []).append(atom)

    def _ignore(self, *_: Any, **__: Any) -> None:
        """Headers, segments, displacements: not needed."""

    init_structure = init_seg = set_line_counter = set_header = set_symmetry = get_structure = _ignore
    set_anisou = set_siguij = set_sigatm = _ignore
