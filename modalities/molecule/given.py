"""The part of a molecule that is given, as a file describes it.

Where may it grow? Dummy atoms (``*``, ``R#``) say so if there are any: each stands for what is to come, and is no atom of the
part. Otherwise wherever a hydrogen can give way: hydrogens that a molfile implies, and, if the network makes heavy atoms
alone, those that it shows. Hydrogens that are shown to a network that makes them stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import collect, sdf
from modalities.molecule.chemistry import AROMATIC, HYDROGEN, Unfit, dense, record
from modalities.molecule.vocabulary import ELEMENTS, elements
from multigen.modality import Example
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol, RWMol

STAND_IN = {1.0: 1, 2.0: 8, 3.0: 7}
"""Order of a dummy's bond -> atomic number of what takes its place while valences are checked: hydrogen, oxygen, nitrogen."""


@dataclass(frozen=True, eq=False)
class Fragment:
    """A connected part of a molecule, in classes of `modalities.molecule.vocabulary`.

    Args:
        atoms, charges: (N,).
        coords: (N, 3) in Angstrom, in a frame of its own.
        bonds: (N, N).
        room: (N,), the sum of the orders of the bonds that each atom may have to new atoms.
        name: of the molecule.
    """

    atoms: NDArray[np.int8]
    charges: NDArray[np.int8]
    coords: NDArray[np.float64]
    bonds: NDArray[np.int8]
    room: NDArray[np.int64]
    name: str = ""

    def __len__(self) -> int:
        return len(self.atoms)

    def with_space(self, more: int) -> Example:
        """An example for `Molecules.to_complete`: these atoms, then `more` that are to be made."""
        grown = {k: np.pad(getattr(self, k), (0, more)) for k in ("atoms", "charges")}  # (N + more,) each
        bonds, coords = np.pad(self.bonds, (0, more)), np.pad(self.coords, ((0, more), (0, 0)))  # (N + more, ...)
        return {**grown, "bonds": bonds, "coords": coords, "fixed": np.arange(len(self) + more) < len(self)}

    def allowed(self, classes: int) -> NDArray[np.bool_]:
        """(N, classes): the bonds that each atom may have to a new one. An aromatic bond takes the place of a single one."""
        order = np.where(np.arange(classes) == AROMATIC, 1, np.arange(classes))  # (classes,)
        return order <= self.room[:, None]


def read(
    path: str | Path,
    number: int = 1,
    hydrogens: bool = True,
    aromatic: bool | None = None,
    grow: Sequence[int] | None = None,
    known: Sequence[str] | None = None,
) -> Fragment:
    """A record of an SDF or MOL file.

    Args:
        path: the file, plain or gz.
        number: of the record, from 1.
        hydrogens: whether the network makes hydrogens; if not, those of the fragment are left out.
        aromatic: whether it makes aromatic bonds; by default, if it makes hydrogens.
        grow: atoms, numbered from 1 as in the file, that alone may have bonds to new ones; by default see above.
        known: elements of the network's training data; by default all of the vocabulary.

    Raises:
        MultigenError: there is no such file or record; it is no molecule, has no 3-D coordinates, an element out of the
            vocabulary or several parts; it cannot grow.
    """
    text = _record(Path(path).expanduser(), number)
    found = sdf.read(text)
    where = f"{path}, record {number}"
    if found.mol is None:
        raise MultigenError(f"{where} is no molecule: {found.detail}")
    try:
        fragment = _fragment(found.mol, hydrogens, hydrogens if aromatic is None else aromatic, grow)
    except Unfit as error:
        raise MultigenError(f"{where}: {error}") from None
    if known is not None and (strange := set(fragment.atoms.tolist()) - set(elements(known).tolist())):
        names = ", ".join(ELEMENTS[element] for element in sorted(strange))
        raise MultigenError(f"{where} has {names}, which the network never saw; it knows {', '.join(known)}")
    return fragment


def count(path: str | Path) -> int:
    """Records of a file."""
    return sum(1 for _ in sdf.records(Path(path).expanduser()))


def _record(path: Path, number: int) -> str:
    if not path.is_file():
        raise MultigenError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give an SDF or MOL file")
    last = 0
    for one in sdf.records(path):
        if (last := one.number) == number:
            return one.text
    raise MultigenError(f"{path} has {last} records, of which {number} is none" if last else f"{path} holds no molecule")


def _fragment(mol: Mol, hydrogens: bool, aromatic: bool, grow: Sequence[int] | None) -> Fragment:
    """Raises `Unfit`."""
    from rdkit import Chem

    if not mol.GetNumAtoms():
        raise Unfit("no atoms")
    whole = Chem.RWMol(mol)
    stands = _stand_ins(whole)  # (all,)
    collect.sanitise(whole)
    full = dense(record(whole, hydrogens=False), aromatic=aromatic)
    keep = np.flatnonzero((stands == 0) & (hydrogens | (full["atoms"] != HYDROGEN)))  # (N,)
    if not len(keep):
        raise Unfit("no atoms", "nothing is left without hydrogens and dummies")
    rows = {name: full[name][keep] for name in ("atoms", "charges")}
    places = mol.GetConformer().GetPositions()[keep]  # (N, 3), as exactly as the file has them
    room = _room(whole, stands, hydrogens)[keep]  # (N,)
    if grow is not None:
        room = _chosen(room, keep, grow, mol.GetNumAtoms())  # (N,)
    if not room.any():
        raise Unfit("nothing can be attached", "no atom has a dummy or a hydrogen that could give way")
    bonds = full["bonds"][keep][:, keep]  # (N, N)
    return Fragment(**rows, coords=places, bonds=bonds, room=room, name=_title(mol))


def _title(mol: Mol) -> str:
    return mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""


def _stand_ins(mol: RWMol) -> NDArray[np.int64]:
    """Put an atom in the place of each dummy: (all,), the order of its bond, 0 for an atom that is none."""
    from rdkit import Chem

    order = np.zeros(mol.GetNumAtoms(), np.int64)  # (all,)
    for atom in [atom for atom in mol.GetAtoms() if not atom.GetAtomicNum()]:
        bonds = [bond.GetBondTypeAsDouble() for bond in atom.GetBonds()]
        if len(bonds) != 1 or bonds[0] not in STAND_IN:
            raise Unfit(
                "a dummy with other than one bond", f"atom {atom.GetIdx() + 1}; draw one single, double or triple bond"
            )
        order[atom.GetIdx()] = int(bonds[0])
        mol.ReplaceAtom(atom.GetIdx(), Chem.Atom(STAND_IN[bonds[0]]))
    return order


def _room(mol: RWMol, stands: NDArray[np.int64], hydrogens: bool) -> NDArray[np.int64]:
    """(all,): bonds to dummies, or to hydrogens that may give way."""
    if not stands.any():
        return np.array([atom.GetTotalNumHs(includeNeighbors=not hydrogens) for atom in mol.GetAtoms()], np.int64)
    room: list[int] = [sum(stands[near.GetIdx()] for near in atom.GetNeighbors()) for atom in mol.GetAtoms()]
    return np.array(room, np.int64)


def _chosen(room: NDArray[Any], rows: NDArray[Any], grow: Sequence[int], total: int) -> NDArray[np.int64]:
    """The room (N,) of the chosen atoms alone."""
    for number in grow:
        place = np.flatnonzero(rows == number - 1)
        if not len(place):
            raise Unfit(f"atom {number} cannot grow", f"there are {total} atoms, of which it is none, a dummy or left out")
        if not room[place].any():
            raise Unfit(f"atom {number} cannot grow", "it has no dummy and no hydrogen that could give way")
    return np.where(np.isin(rows, np.asarray(grow) - 1), room, 0)  # (N,)
