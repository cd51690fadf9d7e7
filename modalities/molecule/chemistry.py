"""Between RDKit's molecules and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.sample import Molecule
from modalities.molecule.vocabulary import ATOMIC_NUMBERS, BONDS, CHARGES, charges, numbers
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Bond, Mol, RWMol

HYDROGEN = 0
"""Class of the element."""
AROMATIC = BONDS.index("aromatic")
FLAG = 4
"""Added, in a record, to the order of an aromatic bond."""
CLOSEST = 0.3
"""Angstrom: no two atoms lie closer in a molecule that means something; in a drawing without coordinates all lie together."""

Record = dict[str, Any]
"""A molecule as it is stored: ``atoms`` (N,), ``charges`` (N,), ``coords`` (N, 3), and of its bonds ``pair`` (M, 2), the lower
atom first, and ``order`` (M,): 1, 2, 3 of a Kekule structure, and `FLAG` on top where the bond is aromatic."""


class Decoded(NamedTuple):
    """What became of a molecule."""

    mol: Mol | None
    """None if RDKit refuses it."""
    reason: str = ""
    """Why it does, in few words that can be counted: "valence of N", "aromatic atom outside a ring", "no Kekule structure"."""


class Unfit(MultigenError):
    """A molecule that the vocabulary or the model cannot hold.

    Args:
        reason: in words that can be counted.
        detail: what is particular to this molecule.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


# ------------------------------------------------------------------------------------------------------------------ to RDKit


def molecule(example: Mapping[str, Any]) -> Molecule:
    """An item of a data set as what the modality decodes to."""
    return Molecule(**{name: example[name] for name in Molecule._fields if name in example})


def to_rdkit(molecule: Molecule, hydrogens: bool = True, cleanup: bool = False) -> Decoded:
    """The molecule in RDKit, sanitised once; nothing in it is repaired.

    Args:
        molecule: its aromatic bonds are given to RDKit as such.
        hydrogens: whether all hydrogens are among the atoms. If so, a valence that is left open is a radical; if not, it is
            filled with implicit hydrogens.
        cleanup: let RDKit first rewrite five-valent nitrogen and the like, as its default sanitisation does.

    Returns:
        The molecule, with its coordinates as a conformer, or the reason why it is refused.
    """
    from rdkit import Chem, rdBase

    mol = assemble(molecule, hydrogens)
    steps = Chem.SanitizeFlags.SANITIZE_ALL
    if not cleanup:
        steps ^= Chem.SanitizeFlags.SANITIZE_CLEANUP | Chem.SanitizeFlags.SANITIZE_CLEANUP_ORGANOMETALLICS
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol, int(steps))
        except ValueError as error:  # of which all its exceptions are
            return Decoded(None, refusal(mol, error))
    return Decoded(mol.GetMol())


def assemble(molecule: Molecule, hydrogens: bool = True) -> RWMol:
    """Atoms, bonds, charges and conformer, without sanitisation."""
    from rdkit import Chem
    from rdkit.Chem.rdchem import BondType

    types = (BondType.ZERO, BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)  # as in `BONDS`
    mol = Chem.RWMol()
    for element, charge in zip(molecule.atoms.tolist(), molecule.charges.tolist(), strict=True):
        atom = Chem.Atom(ATOMIC_NUMBERS[element])
        atom.SetFormalCharge(CHARGES[charge])
        atom.SetNoImplicit(hydrogens)
        mol.AddAtom(atom)
    for i, j in np.argwhere(np.triu(molecule.bonds, 1)).tolist():
        mol.AddBond(i, j, types[molecule.bonds[i, j]])
    for bond in mol.GetBonds():
        if bond.GetBondType() == BondType.AROMATIC:
            for part in (bond, bond.GetBeginAtom(), bond.GetEndAtom()):
                part.SetIsAromatic(True)
    conformer = Chem.Conformer(len(molecule.atoms))
    conformer.Set3D(True)
    conformer.SetPositions(np.asarray(molecule.coords, np.float64))
    mol.AddConformer(conformer)
    mol.SetProp("_Name", molecule.name)
    return mol


def refusal(mol: Mol, error: Exception) -> str:
    """Why RDKit refuses a molecule, in few words."""
    cause: Any = getattr(error, "cause", None)
    kind = cause.GetType() if cause else type(error).__name__
    if kind == "AtomValenceException":
        return f"valence of {mol.GetAtomWithIdx(cause.GetAtomIdx()).GetSymbol()}"
    reasons = {"AtomKekulizeException": "aromatic atom outside a ring", "KekulizeException": "no Kekule structure"}
    return reasons.get(kind, str(error).strip().splitlines()[0])


def smiles(mol: Mol, stereo: bool = True) -> str:
    """Canonical SMILES without explicit hydrogens.

    Args:
        mol: sanitised, perhaps with a conformer.
        stereo: read stereochemistry off the conformer, if there is one, and write it; otherwise leave it out.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        plain = Chem.Mol(mol)
        if stereo and plain.GetNumConformers():
            Chem.AssignStereochemistryFrom3D(plain)
        text = Chem.MolToSmiles(heavy_atoms(plain), isomericSmiles=stereo)
        again = Chem.MolFromSmiles(text)  # what an atom is known to lack does not show in a fresh molecule
        return text if again is None else Chem.MolToSmiles(again, isomericSmiles=stereo)


def heavy_atoms(mol: Mol) -> Mol:
    """A molecule without any hydrogen: RDKit by default keeps that of an imine, and writes its side of the double bond."""
    from rdkit import Chem

    options = Chem.RemoveHsParameters()
    options.removeDefiningBondStereo = True  # type: ignore[assignment] # its stub types the property
    return Chem.RemoveHs(mol, options, sanitize=False)


def largest_fragment(bonds: NDArray[Any]) -> float:
    """Share of the atoms in the largest connected fragment: 1 for a connected molecule.

    Args:
        bonds: (N, N), nonzero where two atoms are bonded.
    """
    return float(np.bincount(fragments(bonds)).max(initial=0) / max(len(bonds), 1))


def fragments(bonds: NDArray[Any]) -> NDArray[np.int32]:
    """(N, N) -> (N,): the number of the fragment that each atom belongs to."""
    from scipy.sparse.csgraph import connected_components

    return connected_components(bonds != 0, directed=False)[1]


# ---------------------------------------------------------------------------------------------------------------- from RDKit


def from_rdkit(mol: Mol, hydrogens: bool = True, aromatic: bool | None = None, name: str = "") -> dict[str, Any]:
    """An example of a sanitised molecule.

    Args:
        mol: with a conformer in three dimensions, of which the first counts.
        hydrogens: keep them, all of which must be explicit; otherwise leave them out.
        aromatic: give aromatic bonds as such, otherwise as single and double bonds. By default, as such if hydrogens are
            kept: without them, nothing says which nitrogen of an aromatic ring carries one.
        name: by default what the molecule is called in RDKit.

    Raises:
        Unfit: an element, charge or bond is not in the vocabulary; there are no coordinates, or two atoms at one place; the
            molecule falls apart; a hydrogen is missing.
    """
    found = record(mol, hydrogens)
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    return {"name": name or title, **dense(found, hydrogens, aromatic)}


def record(mol: Mol, hydrogens: bool = True) -> Record:
    """As it is stored. Arguments and errors are those of `from_rdkit`."""
    found = as_written(mol)
    if hydrogens and (missing := sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())):
        raise Unfit("hydrogens without coordinates", f"{missing} of them are implicit")
    if len(parts := _fragment_sizes(mol)) > 1:
        raise Unfit("more than one fragment", " and ".join(f"{n} atoms" for n in parts))
    return found


def as_written(mol: Mol) -> Record:
    """As it is stored, whatever its valences are: what `from_rdkit` says of missing hydrogens and fragments is not asked."""
    coords, atoms = _coords(mol), list(mol.GetAtoms())  # (N, 3)
    pair, order = _bonds(mol)  # (M, 2), (M,)
    return {
        "atoms": _classes("element", numbers, [atom.GetAtomicNum() for atom in atoms]),
        "charges": _classes("formal charge", charges, [atom.GetFormalCharge() for atom in atoms]),
        "coords": coords,
        "pair": pair,
        "order": order,
    }


def _classes(what: str, classes: Any, values: list[int]) -> NDArray[np.int8]:
    try:
        return classes(values)  # (N,)
    except MultigenError as error:
        raise Unfit(f"{what} out of vocabulary", str(error)) from None


def _coords(mol: Mol) -> NDArray[np.float32]:
    """(N, 3), in Angstrom."""
    if not mol.GetNumAtoms():
        raise Unfit("no atoms")
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        raise Unfit("no 3-D coordinates")
    return check_coords(mol.GetConformer().GetPositions().astype(np.float32))  # (N, 3)


def check_coords(coords: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same coordinates (N, 3), if they are finite and no two atoms are at one place; else `Unfit`."""
    if not np.isfinite(coords).all():
        raise Unfit("coordinates are missing", f"of {int((~np.isfinite(coords)).any(1).sum())} atoms")
    squared = np.square(coords[:, None] - coords).sum(-1) + np.diag(np.full(len(coords), np.inf, np.float32))  # (N, N)
    if (least := float(squared.min(initial=np.inf))) < CLOSEST**2:
        i, j = np.unravel_index(int(squared.argmin()), squared.shape)
        raise Unfit("atoms at one place", f"atoms {i + 1} and {j + 1} are {least**0.5:.2f} Angstrom apart")
    return coords


def _fragment_sizes(mol: Mol) -> list[int]:
    from rdkit import Chem

    return sorted((len(part) for part in Chem.GetMolFrags(mol)), reverse=True)


def _bonds(mol: Mol) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Pairs (M, 2) and orders (M,) of a record."""
    bonds = list(mol.GetBonds())
    aromatic = [bond.GetIsAromatic() for bond in bonds]
    plain = list(_kekulised(mol).GetBonds()) if any(aromatic) else bonds
    pair = [sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in bonds]
    order = [_order(bond) + FLAG * flag for bond, flag in zip(plain, aromatic, strict=True)]
    return np.array(pair, np.int16).reshape(-1, 2), np.array(order, np.int8)  # (M, 2), (M,)


def _kekulised(mol: Mol) -> Mol:
    from rdkit import Chem, rdBase

    plain = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.Kekulize(plain, clearAromaticFlags=True)
        except ValueError as error:
            raise Unfit(refusal(mol, error)) from None
    return plain


def _order(bond: Bond) -> int:
    order = int(bond.GetBondType())  # RDKit numbers single, double and triple bonds 1, 2 and 3
    if not 1 <= order < AROMATIC:
        raise Unfit("bond out of vocabulary", f"{bond.GetBondType().name.lower()}; choices are {', '.join(BONDS)}")
    return order


def dense(record: Record, hydrogens: bool = True, aromatic: bool | None = None) -> dict[str, Any]:
    """The arrays of an example: bonds as a matrix, with or without hydrogens and aromatic bonds (see `from_rdkit`). Without,
    ``hydrogens`` float32 (h, 3) says where those are that are left out: no part of the state, but teachers may look."""
    atoms, order = record["atoms"], record["order"]  # (N,), (M,)
    flagged = order > FLAG  # (M,)
    as_such = hydrogens if aromatic is None else aromatic
    classes = np.where(flagged, AROMATIC if as_such else order - FLAG, order)  # (M,)
    bonds = np.zeros((len(atoms), len(atoms)), np.int8)  # (N, N)
    first, second = record["pair"].T.astype(np.int64)  # (M,), (M,)
    bonds[first, second] = bonds[second, first] = classes
    keep = slice(None) if hydrogens else np.flatnonzero(atoms != HYDROGEN)  # (n,)
    rows = {name: record[name][keep] for name in ("coords", "atoms", "charges")}
    apart = {} if hydrogens else {"hydrogens": record["coords"][atoms == HYDROGEN]}  # (h, 3)
    return {**rows, "bonds": bonds[keep][:, keep], **apart}
