"""Which molecules are alike enough to stand on one side of a split.

The framework of a molecule is its rings and what links them (Bemis and Murcko 1996): what is left of its heavy atoms when
atoms with one neighbour are removed until there are none. Elements count; bond orders, charges and stereochemistry do not, so
that salts, tautomers, oxidised forms and stereoisomers of a compound go together. A molecule without a ring has no framework;
it goes with the molecules whose heavy atoms form the same tree, whatever the elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.chemistry import HYDROGEN
from modalities.molecule.vocabulary import ATOMIC_NUMBERS
from multigen.random import hash64

LARGEST = 0.01
"""A framework of more than this share of all molecules (benzene's, ...) is not held out."""
CARBON = 6


def framework(atoms: NDArray[Any], pair: NDArray[Any]) -> str:
    """What a molecule is grouped by, as canonical SMILES with single bonds: its framework, or the tree of a molecule without a
    ring, in dots for carbon: "tree CC(C)C".

    Args:
        atoms: (N,), classes of the elements.
        pair: (M, 2), bonds.
    """
    heavy = np.flatnonzero(atoms != HYDROGEN)  # (n,)
    number = np.full(len(atoms), -1)  # (N,)
    number[heavy] = np.arange(len(heavy))
    bonds = number[pair.astype(np.int64)]  # (M, 2)
    bonds = bonds[(bonds >= 0).all(1)]  # (m, 2)
    elements = np.array(ATOMIC_NUMBERS)[atoms[heavy]]  # (n,)
    core = ring_core(len(heavy), bonds)  # (n,)
    if core.any():
        return _canonical(elements, bonds[core[bonds].all(1)], core)
    return f"tree {_canonical(np.full_like(elements, CARBON), bonds, ~core)}"


def ring_core(count: int, bonds: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,): atoms in rings and between them.

    Args:
        count: n atoms.
        bonds: (m, 2).
    """
    inside = np.ones(count, np.bool_)  # (n,)
    while True:
        degree = np.bincount(bonds[inside[bonds].all(1)].ravel(), minlength=count)  # (n,)
        if not (ends := inside & (degree < 2)).any():
            return inside
        inside &= ~ends


def _canonical(elements: NDArray[Any], bonds: NDArray[Any], chosen: NDArray[np.bool_]) -> str:
    from rdkit import Chem

    mol = Chem.RWMol()
    for element in elements[chosen].tolist():
        atom = Chem.Atom(element)
        atom.SetNoImplicit(True)  # no valence is checked, none filled
        mol.AddAtom(atom)
    number = np.cumsum(chosen) - 1  # (n,)
    for i, j in number[bonds].tolist():
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    for atom in mol.GetAtoms():
        atom.UpdatePropertyCache(strict=False)
    return Chem.MolToSmiles(mol)


def sides(frameworks: Sequence[Any], share: float = 10.0, names: Sequence[str] = ("train", "valid")) -> list[str]:
    """A side for each molecule, the same for all of one framework.

    About `share` per cent of the frameworks, taken by a hash of what they are, are held out: neither order nor number of the
    molecules matters, but for frameworks larger than `LARGEST`, which stay in training. At least one is held out.

    Args:
        frameworks: of each molecule, or a number that stands for it.
        share: per cent; with 0 none is held out.
        names: of the two sides.
    """
    most = max(LARGEST * len(frameworks), 1)
    size = Counter(frameworks)
    place = {f: (n > most, hash64("framework", f) % 10_000) for f, n in size.items()}
    held = {f for f, at in place.items() if at < (False, 100 * share)} or set(sorted(place, key=place.__getitem__)[:1])
    return [names[share > 0 and f in held] for f in frameworks]
