"""The embedded default: small organic molecules of the PDB's Chemical Component Dictionary (Westbrook et al. 2015).

The dictionary describes every ligand, ion and residue of the Protein Data Bank: atoms with ideal coordinates, bonds with their
orders, formal charges, names. It is read out of the package `biotite`. Taken are the released components of the vocabulary's
elements with `LEAST` to `MOST` heavy atoms, complete coordinates and one fragment, which RDKit accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import bcif, collect
from modalities.molecule.collect import Found, Rules, Source
from modalities.molecule.packages import BIOTITE, COMPONENTS
from modalities.molecule.stored import ORGANIC, Stored
from modalities.molecule.vocabulary import ELEMENTS
from multigen import assets, files
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import RWMol

COUNT = 49_195
"""Components with atoms."""
LEAST, MOST = 4, 38
"""Heavy atoms of what is stored."""
SHARE = 11
"""Per cent of the frameworks that are held out: 10 per cent of the molecules of at most 20 heavy atoms, since the commonest
frameworks are not held out."""
RULES = Rules(min_heavy=LEAST, max_heavy=MOST, share=SHARE)
ORDERS = {"SING": "SINGLE", "DOUB": "DOUBLE", "TRIP": "TRIPLE"}
_WANTED = {
    "chem_comp": ("id", "name", "pdbx_release_status"),
    "chem_comp_atom": (
        "comp_id", "atom_id", "type_symbol", "charge",
        "pdbx_model_Cartn_x_ideal", "pdbx_model_Cartn_y_ideal", "pdbx_model_Cartn_z_ideal",
    ),
    "chem_comp_bond": ("comp_id", "atom_id_1", "atom_id_2", "value_order"),
}  # fmt: skip


class Ccd(Stored):
    """Small organic molecules; the held-out ones share no framework with the others (see `modalities.molecule.scaffold`).

    An item's name is the component's code, its caption the chemical name.

    Args:
        split: "train", "valid" or "all".
        hydrogens, aromatic, min_heavy, max_heavy, max_atoms, elements, limit: see `modalities.molecule.stored.Stored`.
        root: the data root; by default `multigen.files.data_root()`.
    """

    def __init__(
        self,
        split: str = "train",
        hydrogens: bool = True,
        aromatic: bool | None = None,
        min_heavy: int = LEAST,
        max_heavy: int | None = 20,
        max_atoms: int | None = None,
        elements: Sequence[str] | None = ORGANIC,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / "ccd"
        chosen = (hydrogens, aromatic, min_heavy, max_heavy, max_atoms, elements, limit)
        super().__init__(folder, split, *chosen, what="ccd molecules", command="multigen prepare data=ccd")


def prepare(root: str | Path | None = None) -> Path:
    """Make the molecules, or verify what is there. Returns their folder.

    Raises:
        MultigenError: the registry cannot be reached, the package is not the pinned one, or the disk is full.
    """
    base = Path(root) if root else files.data_root()
    recipe = {"format": 1, "source": BIOTITE.describe(), "elements": list(ELEMENTS)}
    source = Source("ccd", lambda progress: _found(base, progress), lambda: COUNT, recipe, BIOTITE.licence)
    return collect.prepare(base / "ccd", source, RULES, quiet=True)


def _found(root: Path, progress: Callable[[int], None]) -> Iterator[Found]:
    tables = bcif.read(assets.read(BIOTITE, COMPONENTS, root), _WANTED)
    for done, found in enumerate(components(tables)):
        progress(done)
        yield found


def components(tables: Mapping[str, Mapping[str, NDArray[Any]]]) -> Iterator[Found]:
    """The dictionary's components, in its order, with explicit hydrogens.

    Args:
        tables: as `modalities.molecule.bcif.read` returns them.
    """
    about, atoms, bonds = (tables[name] for name in _WANTED)
    status = dict(zip(about["id"], about["pdbx_release_status"], strict=True))
    names = dict(zip(about["id"], about["name"], strict=True))
    bonds_of = dict(_runs(bonds["comp_id"]))
    for code, rows in _runs(atoms["comp_id"]):
        own = {name: column[rows] for name, column in atoms.items()}
        found = Found("component", name=code, caption=" ".join(names[code].split()))
        if status[code] != "REL":
            yield found._replace(reason="not released", detail=status[code])
        else:
            between = {name: column[bonds_of.get(code, slice(0))] for name, column in bonds.items()}
            yield _component(found, own, between)


def _runs(column: NDArray[Any]) -> Iterator[tuple[str, slice]]:
    """Each component's rows, which follow one another."""
    starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]])).tolist()
    for a, b in pairwise([*starts, len(column)]):
        yield column[a], slice(a, b)


def _component(found: Found, atoms: Mapping[str, NDArray[Any]], bonds: Mapping[str, NDArray[Any]]) -> Found:
    symbols = [symbol.capitalize() for symbol in atoms["type_symbol"]]
    coords = np.stack([atoms[f"pdbx_model_Cartn_{axis}_ideal"] for axis in "xyz"], -1)  # (N, 3)
    if others := sorted(set(symbols) - set(ELEMENTS)):
        return found._replace(reason="element out of vocabulary", detail=", ".join(others))
    if not np.isfinite(coords).all():
        return found._replace(reason="coordinates are missing", detail=f"of {int(np.isnan(coords).any(1).sum())} atoms")
    try:
        mol = _built(symbols, atoms["charge"].tolist(), coords, _between(atoms, bonds))
    except (KeyError, RuntimeError) as error:
        raise MultigenError(f"component {found.name} of {BIOTITE.file} is damaged ({error})") from None
    return found._replace(mol=mol)


def _between(atoms: Mapping[str, NDArray[Any]], bonds: Mapping[str, NDArray[Any]]) -> list[tuple[int, int, str]]:
    """Bonds by the numbers of their atoms."""
    number = {name: i for i, name in enumerate(atoms["atom_id"])}
    ends = zip(bonds["atom_id_1"], bonds["atom_id_2"], bonds["value_order"], strict=True)
    return [(number[a], number[b], ORDERS[order]) for a, b, order in ends]


def _built(
    symbols: Sequence[str], charges: Sequence[int], coords: NDArray[Any], bonds: Sequence[tuple[int, int, str]]
) -> RWMol:
    from rdkit import Chem

    mol = Chem.RWMol()
    for symbol, charge in zip(symbols, charges, strict=True):
        atom = Chem.Atom(symbol)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)  # all hydrogens are there
        mol.AddAtom(atom)
    for a, b, order in bonds:
        mol.AddBond(a, b, getattr(Chem.BondType, order))
    conformer = Chem.Conformer(len(symbols))
    conformer.Set3D(True)
    conformer.SetPositions(coords)
    mol.AddConformer(conformer)
    return mol
