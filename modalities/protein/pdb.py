"""A backbone with its designed sequence, written as a PDB file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from modalities.protein.atoms import ATOMS
from modalities.protein.polymer import NAMES
from multigen import files
from multigen.state import MultigenError

if TYPE_CHECKING:
    from modalities.protein.structure import Structure

CHAINS = ascii_uppercase + ascii_lowercase + digits
"""Chain names that the format can hold: one character."""


def write_pdb(
    path: str | Path, structure: Structure, sequence: str | None = None, confidence: ArrayLike | None = None
) -> Path:
    """Write `pdb_text` to a file."""
    return files.write_text(path, pdb_text(structure, sequence, confidence))


def pdb_text(structure: Structure, sequence: str | None = None, confidence: ArrayLike | None = None) -> str:
    """The backbone as PDB, with other residue names; `modalities.protein.structure.read_structure` reads it back.

    Chains and residues keep their names and numbers where the format can hold them (one character, -999 to 9999); where it
    cannot, they get others and a REMARK says which. Atoms that are not known are left out.

    Args:
        structure: backbone, names and numbers.
        sequence: L letters, chains one after another; by default the structure's own.
        confidence: (L,) from 0 to 100, for the column of B factors (as a predicted pLDDT); by default 0.

    Raises:
        MultigenError: `sequence` or `confidence` has another length or range; the format has no room for so many chains or
            residues.
    """
    letters = structure.letters() if sequence is None else sequence
    b_factor = np.zeros(len(structure)) if confidence is None else np.nan_to_num(np.asarray(confidence, float))  # (L,)
    for what, values in (("letters", letters), ("confidences", b_factor)):
        if len(values) != len(structure):
            raise MultigenError(f"{len(values)} {what} for {len(structure)} residues of {structure.name}")
    if not ((b_factor >= 0) & (b_factor <= 100)).all():
        raise MultigenError(f"confidences from {b_factor.min():g} to {b_factor.max():g}, expected 0 to 100")
    return "".join(f"{line}\n" for line in [*_remarks(structure), *_records(structure, letters, b_factor), "END"])


def _remarks(structure: Structure) -> Iterator[str]:
    for chain, name in zip(structure.chains, _chain_names(structure.chains), strict=True):
        if chain != name:
            yield f"REMARK 999 CHAIN {name} IS CHAIN {chain} OF THE ORIGINAL"


def _records(structure: Structure, letters: str, b_factor: np.ndarray) -> Iterator[str]:
    """ATOM and TER."""
    serial = 0
    for number, chain in enumerate(_chain_names(structure.chains)):
        rows = np.flatnonzero(structure.chain == number)  # (M,)
        for row, place in zip(rows, _places([structure.labels[row] for row in rows]), strict=True):
            residue = f"{NAMES.get(letters[row], 'UNK')} {chain}{place}"
            for atom in np.flatnonzero(np.isfinite(structure.backbone[row]).all(-1)):
                serial += 1
                xyz = "".join(f"{x:8.3f}"[:8] for x in structure.backbone[row, atom])
                head = f"ATOM  {serial % 100_000:5d}  {ATOMS[atom]:<3} {residue}"
                yield f"{head}   {xyz}{1:6.2f}{b_factor[row]:6.2f}          {ATOMS[atom][0]:>2}"
        yield "TER"


def _chain_names(chains: Sequence[str]) -> list[str]:
    """One character each: the name itself, or the first that is free."""
    free = iter([name for name in CHAINS if name not in chains])
    try:
        return [chain if len(chain) == 1 else next(free) for chain in chains]
    except StopIteration:
        raise MultigenError(f"{len(chains)} chains are too many for a PDB file") from None


def _places(labels: Sequence[str]) -> list[str]:
    """Number and insertion code in five columns; numbered from 1 if a number needs more than four."""
    parts = [re.fullmatch(r"(-?\d+)(\D?)", label) for label in labels]
    if all(part and len(part[1]) <= 4 for part in parts):
        return [f"{part[1]:>4}{part[2]:1}" for part in parts if part]
    if len(labels) > 9999:
        raise MultigenError(f"a chain of {len(labels)} residues is too long for a PDB file")
    return [f"{number:4d} " for number in range(1, len(labels) + 1)]
