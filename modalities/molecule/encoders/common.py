"""What the teachers of molecules share: what they see of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.molecule import chemistry
from modalities.molecule.sample import Molecule
from multigen.state import Batch, Features
from multigen.teachers.common import Memo, raw

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_LAST = Memo()
"""The last batch in RDKit: teachers that read one batch after the other share it."""


def mols(batch: Batch, encoder: Any) -> list[Mol | None]:
    """The clean molecules in RDKit, their atoms in the batch's order, in Angstrom, sanitised; None for what it refuses.

    They are built from the graph itself. Hydrogens that are no atoms of the batch are implicit; stereochemistry is that of
    the coordinates.
    """
    coords = raw(batch, "coords", encoder)  # (B, N, 3)
    beside = [batch.raw[k] for k in ("hydrogens",) if k in batch.raw]
    parts = [coords, *beside, batch.mask["atoms"], *(batch.clean[k] for k in ("atoms", "bonds", "charges"))]
    return _LAST(parts, lambda: [_mol(batch, row) for row in range(len(batch))])


def _mol(batch: Batch, row: int) -> Mol | None:
    from rdkit import Chem, rdBase

    n = int(batch.mask["atoms"][row].sum())
    atoms, charges, bonds = (batch.clean[k][row].cpu().numpy().astype(np.int8) for k in ("atoms", "charges", "bonds"))
    coords = batch.raw["coords"][row, :n].cpu().numpy()  # (n, 3)
    molecule = Molecule(atoms[:n], coords, bonds[:n, :n], charges[:n])
    mol = chemistry.to_rdkit(molecule, hydrogens="hydrogens" not in batch.raw).mol
    if mol is not None:
        with rdBase.BlockLogs():
            Chem.AssignStereochemistryFrom3D(mol)
    return mol


def heavy(mol: Mol) -> tuple[Mol, NDArray[np.int64]]:
    """A molecule without its hydrogens, and which atom of `mol` each of its atoms is: (n,)."""
    from rdkit import Chem

    marked = Chem.Mol(mol)
    for atom in marked.GetAtoms():
        atom.SetIntProp("origin", atom.GetIdx())
    plain = chemistry.heavy_atoms(marked)
    plain.UpdatePropertyCache(strict=False)
    Chem.GetSymmSSSR(plain)  # RDKit's usual rings: to leave hydrogens out forgets them, and fast ones miscount bridged cages
    return plain, np.array([atom.GetIntProp("origin") for atom in plain.GetAtoms()], np.int64)


class Whole(NamedTuple):
    """All atoms of each molecule: first those of the batch, then the hydrogens beside it."""

    coords: Tensor
    """(B, M, 3), in Angstrom, 0 where padded."""
    atoms: Tensor
    """Long (B, M), elements as in the batch; -1 where padded."""
    known: Tensor
    """Bool (B,): RDKit accepts the molecule, and none of its hydrogens is missing."""


def whole(batch: Batch, encoder: Any) -> Whole:
    coords = raw(batch, "coords", encoder)  # (B, N, 3)
    apart = batch.raw.get("hydrogens", coords[:, :0])  # (B, H, 3)
    there = apart.isfinite().all(-1)  # (B, H)
    atoms = torch.where(batch.mask["atoms"], batch.clean["atoms"], -1)  # (B, N)
    hydrogens = torch.where(there, chemistry.HYDROGEN, -1)  # (B, H)
    wanted = [-1 if mol is None else sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()) for mol in mols(batch, encoder)]
    known = there.sum(1) == torch.tensor(wanted, device=coords.device)  # (B,)
    return Whole(torch.cat([coords, apart], 1).nan_to_num(), torch.cat([atoms, hydrogens], 1), known)


Rows = Iterable[NDArray[np.floating] | None]
"""Of each molecule an array, or None if there is nothing to say."""


def graph_level(rows: Rows, width: int, batch: Batch) -> Features:
    """One vector (D,) of each molecule: value (B, D), mask (B,)."""
    found = list(rows)
    value = np.zeros((len(found), width), np.float32)  # (B, D)
    for i, row in enumerate(found):
        if row is not None:
            value[i] = row
    mask = torch.tensor([row is not None for row in found], device=batch.key.device)  # (B,)
    return Features(torch.from_numpy(value).to(batch.key.device), mask)


def atom_level(rows: Rows, width: int, batch: Batch) -> Features:
    """Vectors (n, D) of the first n atoms of each molecule; NaN where one has none: value (B, N, D), mask (B, N)."""
    value = np.full((*batch.mask["atoms"].shape, width), np.nan, np.float32)  # (B, N, D)
    for i, row in enumerate(rows):
        if row is not None:
            value[i, : len(row)] = row
    found = torch.from_numpy(value).to(batch.key.device)  # (B, N, D)
    return Features(found.nan_to_num(), found.isfinite().all(-1))
