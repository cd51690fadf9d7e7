"""Molecules as files: ``.sdf`` with bonds and charges, ``.smi`` as SMILES, ``.xyz`` as elements and coordinates.

SDF and XYZ files hold every sample that has atoms, as it was made: an SDF record of a molecule that RDKit refuses says why, in
its field ``REFUSED``, and programs that sanitise skip it. A SMILES file holds what RDKit accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalities.molecule import chemistry
from modalities.molecule.chemistry import HYDROGEN
from modalities.molecule.sample import Molecule
from modalities.molecule.vocabulary import CHARGES, ELEMENTS
from multigen.files import nearest, write_text
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def write(samples: Sequence[Molecule | None], path: Path | str, hydrogens: bool | None = None) -> Path:
    """Write molecules as the file's ending says; the file is the old one or the whole new one.

    Args:
        samples: None is left out; so is, in a SMILES file, what RDKit refuses. One without a name is named by its number.
        path: ends in .sdf, .smi or .xyz.
        hydrogens: whether all hydrogens are among the atoms; by default, if any is (see `explicit`).

    Raises:
        MultigenError: another ending; the disk is full.
    """
    kind = Path(path).suffix.lower()
    if kind not in RECORDS:
        raise MultigenError(
            f"{path}: molecules cannot be written as {kind or 'a file without an ending'}; {nearest(kind, RECORDS)}"
        )
    have = explicit(samples) if hydrogens is None else hydrogens
    return write_text(path, "".join(_records(samples, RECORDS[kind], have)))


def explicit(samples: Sequence[Molecule | None]) -> bool:
    """Whether any sample has a hydrogen: then all hydrogens are there, and open valences are radicals."""
    return any((sample.atoms == HYDROGEN).any() for sample in samples if sample is not None)


def _records(samples: Sequence[Molecule | None], record: Callable[[Molecule, bool], str], hydrogens: bool) -> Iterator[str]:
    for number, sample in enumerate(samples, 1):
        if sample is not None and len(sample.atoms):
            yield record(sample._replace(name=" ".join(sample.name.split()) or f"molecule_{number}"), hydrogens)


def sdf(sample: Molecule, hydrogens: bool = True, wide: bool = False) -> str:
    """One record of an SDF file: V2000 with four decimals; V3000 with six where that is too narrow, or if it shall be wide."""
    from rdkit import Chem

    mol, reason = chemistry.to_rdkit(sample, hydrogens)
    fields = f">  <REFUSED>\n{reason}\n\n" if reason else ""
    shown = mol or _unsanitised(sample, hydrogens)
    block = Chem.MolToMolBlock(shown, kekulize=mol is not None, forceV3000=wide or _wide(sample))
    return f"{block}{fields}$$$$\n"


def _wide(sample: Molecule) -> bool:
    """Whether coordinates need more than the ten characters that V2000 gives them."""
    return bool(np.abs(sample.coords).max() >= 9999)


def _unsanitised(sample: Molecule, hydrogens: bool) -> Mol:
    mol = chemistry.assemble(sample, hydrogens)
    for atom in mol.GetAtoms():
        if atom.GetFormalCharge() > atom.GetAtomicNum():  # H with 2+ has fewer electrons than none; RDKit cannot write it
            atom.SetFormalCharge(0)
    mol.UpdatePropertyCache(strict=False)
    return mol


def smi(sample: Molecule, hydrogens: bool = True) -> str:
    """A line of SMILES, with the stereochemistry of the coordinates, and name; nothing if RDKit refuses the molecule."""
    mol, _ = chemistry.to_rdkit(sample, hydrogens)
    return "" if mol is None else f"{chemistry.smiles(mol)} {sample.name}\n"


def xyz(sample: Molecule, hydrogens: bool = True) -> str:
    """Number of atoms, a line of comment (name and total charge), elements and coordinates in Angstrom."""
    charge = sum(CHARGES[c] for c in sample.charges.tolist())
    places = np.asarray(sample.coords, np.float64).tolist()  # (N, 3)
    rows = [
        f"{ELEMENTS[element]:<2} {x:14.6f} {y:14.6f} {z:14.6f}"
        for element, (x, y, z) in zip(sample.atoms.tolist(), places, strict=True)
    ]
    return "\n".join([str(len(rows)), f"{sample.name} charge={charge}", *rows]) + "\n"


RECORDS: dict[str, Callable[[Molecule, bool], str]] = {".sdf": sdf, ".smi": smi, ".xyz": xyz}
