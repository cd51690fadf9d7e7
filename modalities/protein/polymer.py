"""From the atoms of a file to the residues of its protein chains, each with one name and one set of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import tokens
from modalities.protein.atoms import ATOMS, Atom, read_atoms
from modalities.protein.geometry import CA, C, N, bonded
from multigen.state import MultigenError

NO_NAME = "_"
"""Name of a chain that the file leaves blank."""
NAMES = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS", "L": "LEU",
    "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR",
    "X": "UNK",
}  # fmt: skip
"""Letter -> name in files."""
_ALSO = {
    "SEC": "C", "PYL": "K",  # the 21st and 22nd amino acid, as the nearest of the twenty
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSE": "H", "HSP": "H", "CYX": "C", "CYM": "C",  # of force fields
    "ASH": "D", "GLH": "E", "LYN": "K", "ASX": "X", "GLX": "X", "XLE": "X",
}  # fmt: skip
"""Names that biopython's table of modified residues lacks or reads otherwise."""


class Residue(NamedTuple):
    number: int
    """The author's."""
    code: str
    """Insertion code, "" if there is none."""
    letter: str
    """One of the twenty amino acids, or X."""
    loose: bool
    """Whether it may be a ligand: the file does not count it to the polymer, and it is not a known modified residue."""
    backbone: NDArray[np.float32]
    """(4, 3): N, CA, C, O in Angstrom, NaN where missing."""


def read_chains(path: Path, model: int = 0) -> dict[str, list[Residue]]:
    """Name of each protein chain -> its residues, both in the order of the file.

    Of alternate conformers, a residue has the one of highest mean occupancy, of equal ones the first by name. Modified
    residues count as their parent (biopython's table); a residue that the table does not know is X if it has N, CA and C.
    What is marked as no part of the polymer counts if its name is that of a modified residue or a peptide bond holds it.

    Raises:
        MultigenError: there is no such file, it is no structure, it has no such model, no protein chain, or residues that
            cannot be told apart.
    """
    found = read_atoms(path, model)
    try:
        chains = {name.strip() or NO_NAME: _polymer(_settle_all(places)) for name, places in found.items()}
    except Twice as twice:
        raise MultigenError(f"{path} has several residues {twice} in one chain; give each chain a name of its own") from None
    if not any(chains.values()):
        raise MultigenError(f"{path} has no protein chain")
    return {name: residues for name, residues in chains.items() if residues}


@cache
def _letters() -> dict[str, str]:
    """Name in files -> letter."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return {**protein_letters_3to1_extended, **_ALSO, **{name: letter for letter, name in NAMES.items()}}


class Twice(Exception):
    """A residue is there twice: chains that are not told apart."""


def _settle_all(places: Mapping[tuple[int, str], Sequence[Atom]]) -> list[Residue]:
    return [residue for key, atoms in places.items() if (residue := _settle(key, atoms))]


def _settle(key: tuple[int, str], atoms: Sequence[Atom]) -> Residue | None:
    """One name and one conformer of what the file has under one number; None if none of it is an amino acid."""
    names = [name for name in dict.fromkeys(atom.residue for atom in atoms) if _is_amino_acid(name, atoms)]
    if not names:
        return None
    atoms = [atom for atom in atoms if atom.residue in names]
    sites = {(atom.place, atom.conformer) for atom in atoms}
    if len(atoms) - len(sites) > 1:  # one is a slip of the file's author
        raise Twice(f"{names[0]} {label(key)}")
    name, conformer = _best(atoms)
    own = [atom for atom in atoms if atom.residue == name]
    loose = own[0].hetero and (name not in _letters() or name in NAMES.values())
    return Residue(*key, _letters().get(name, "X"), loose, _positions(own, conformer))


def label(key: tuple[int, str]) -> str:
    """Number and insertion code as they are written: 52A."""
    return "".join(map(str, key))


def _is_amino_acid(name: str, atoms: Sequence[Atom]) -> bool:
    return name in _letters() or {N, CA, C} <= {atom.place for atom in atoms if atom.residue == name}


def _best(atoms: Sequence[Atom]) -> tuple[str, str]:
    """Name and conformer with the highest mean occupancy; of equal ones, the first by conformer and name."""
    forms: dict[tuple[str, str], list[float]] = {}
    for atom in atoms:
        forms.setdefault((atom.conformer, atom.residue), []).append(atom.occupancy)
    forked = {form: occupancy for form, occupancy in forms.items() if form[0]} or forms
    conformer, name = min(forked, key=lambda form: (-sum(forked[form]) / len(forked[form]), form))
    return name, conformer


def _positions(atoms: Sequence[Atom], conformer: str) -> NDArray[np.float32]:
    """(4, 3): each atom of the conformer, or else the one that all share, or else the best there is."""
    backbone = np.full((len(ATOMS), 3), np.nan, np.float32)  # (4, 3)
    for place in range(len(ATOMS)):
        if here := [atom for atom in atoms if atom.place == place]:
            best = min(here, key=lambda a: (a.conformer != conformer, a.conformer != "", -a.occupancy, a.conformer))
            backbone[place] = best.position
    return backbone


def _polymer(residues: Sequence[Residue]) -> list[Residue]:
    """Without what may be a ligand and no peptide bond holds."""
    if not residues:
        return []
    bond = bonded(np.stack([residue.backbone for residue in residues]))  # (L,)
    held = bond | np.roll(bond, 1)  # (L,); the last residue's bond is False
    return [residue for residue, hold in zip(residues, held, strict=True) if hold or not residue.loose]


def sequence(residues: Sequence[Residue]) -> NDArray[np.int8]:
    """Tokens (L,)."""
    return tokens("".join(residue.letter for residue in residues))


def index(residues: Sequence[Residue]) -> NDArray[np.int32]:
    """(L,) places along the chain: the first is the author's number, gaps in the numbering stay, all else advances by one."""
    numbers = np.array([residue.number for residue in residues], np.int64)  # (L,)
    steps = np.maximum(np.diff(numbers), 1)  # (L - 1,): an insertion, or numbers that go back
    return np.concatenate([numbers[:1], numbers[:1] + np.cumsum(steps)]).astype(np.int32)  # (L,)
