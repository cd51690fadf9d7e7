"""What the teachers of molecules share: what they see of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

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
    parts = [coords, *(batch.clean[k] for k in ("atoms", "bonds", "charges"))]
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


def graph_level(rows: Iterable[NDArray[np.floating] | None], width: int, batch: Batch) -> Features:
    """One vector (D,) of each molecule, or None: value (B, D), mask (B,)."""
    found = list(rows)
    value = np.zeros((len(found), width), np.float32)  # (B, D)
    for i, row in enumerate(found):
        if row is not None:
            value[i] = row
    mask = torch.tensor([row is not None for row in found])  # (B,)
    return Features(torch.from_numpy(value).to(batch.key.device), mask.to(batch.key.device))
