"""Whether atoms have a chemically sensible number of bonds: "stability", by the published table and by a corrected one.

- ``legacy``: the charge-aware table of MiDi (Vignac et al. 2023, arXiv 2302.09048) that SemlaFlow (Irwin et al. 2024, arXiv
  2406.07266) and REED use, with RDKit's explicit valence as they do: aromatic bonds count 1.5, and the sum of an aromatic atom
  is cut down to the nearest whole valence of its element. The table is lenient: a neutral carbon may have three bonds.
- ``corrected``: valences of the octet rule and its hypervalent extensions, and aromatic bonds taken apart from the others, as
  GEOM-Drugs Revisited argues (Nikitin et al. 2025, arXiv 2505.00169). That paper lists what GEOM-Drugs holds; here the values
  follow from the number of electrons, so that they hold for other data too. Radicals and bare ions are not stable.

An aromatic atom lies in a ring (two or three aromatic bonds), keeps a p orbital (at most three neighbours) and has at most one
double bond in any Kekule structure: its valence is the number of its neighbours, or one more.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import chemistry
from modalities.molecule.chemistry import AROMATIC
from modalities.molecule.sample import Molecule
from modalities.molecule.vocabulary import CHARGES, ELEMENTS

Table = dict[str, dict[int | None, tuple[int, ...]]]
"""Element -> formal charge (None: whichever) -> valences."""

LEGACY: Table = {
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "B": {None: (3,)},
    "C": {0: (3, 4), 1: (3,), -1: (3,)},
    "N": {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "Al": {None: (3,)},
    "Si": {None: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 6), 1: (2, 3), 2: (4,), 3: (5,), -1: (3,)},
    "Cl": {None: (1,)},
    "As": {None: (3,)},
    "Se": {None: (2, 4, 6)},
    "Br": {0: (1,), 1: (2,)},
    "I": {None: (1,)},
    "Hg": {None: (1, 2)},
    "Bi": {None: (3, 5)},
}

CORRECTED: Table = {
    "H": {0: (1,)},
    "B": {0: (3,), -1: (4,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,), -2: (1,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,)},
    "Al": {0: (3,), -1: (4,)},
    "Si": {0: (4,), -1: (3, 5), -2: (6,)},
    "P": {0: (3, 5), 1: (4,), -1: (2, 4, 6)},
    "S": {0: (2, 4, 6), 1: (3, 5), 2: (4,), -1: (1, 3, 5)},
    "Cl": {0: (1, 3, 5, 7), 1: (2, 4, 6), 2: (3, 5), 3: (4,)},
    "As": {0: (3, 5), 1: (4,), -1: (2, 4, 6)},
    "Se": {0: (2, 4, 6), 1: (3, 5), 2: (4,), -1: (1, 3, 5)},
    "Br": {0: (1, 3, 5, 7), 1: (2, 4, 6), 2: (3, 5), 3: (4,)},
    "I": {0: (1, 3, 5, 7), 1: (2, 4, 6), 2: (3, 5), 3: (4,)},
    "Hg": {0: (2,), 1: (1,)},
    "Bi": {0: (3, 5), 1: (4,)},
}
"""Of a Kekule structure: the octet rule, from the third period on with one, two or three pairs more. An ion has the valences
of the neutral element with as many outer electrons: sulfonium those of phosphorus, borate that of carbon."""
TABLES = ("legacy", "corrected")


def stable(molecule: Molecule, table: str, hydrogens: bool = True) -> NDArray[np.bool_]:
    """Which atoms have a valence that a table allows: (N,).

    Args:
        table: "legacy" or "corrected".
        hydrogens: whether all hydrogens are among the atoms. If not, a valence is allowed where hydrogens can fill it up.
    """
    atoms, charges = molecule.atoms.tolist(), [CHARGES[charge] for charge in molecule.charges.tolist()]
    if table == "legacy":
        found = zip(atoms, charges, _explicit(molecule), strict=True)
        return np.array([_legacy(*atom, hydrogens) for atom in found], np.bool_)  # (N,)
    found = zip(atoms, charges, *environment(molecule.bonds).T.tolist(), strict=True)
    return np.array([_corrected(*atom, hydrogens) for atom in found], np.bool_)  # (N,)


def environment(bonds: NDArray[np.int8]) -> NDArray[np.int64]:
    """Of each atom its aromatic bonds, the sum of the orders of the others, and its neighbours: (N, N) -> (N, 3)."""
    aromatic = bonds == AROMATIC  # (N, N)
    others = np.where(aromatic, 0, bonds).astype(np.int64)  # (N, N): classes 0 to 3 are orders
    return np.stack([aromatic.sum(1), others.sum(1), (bonds != 0).sum(1)], -1)  # (N, 3)


def described(molecule: Molecule, atom: int) -> str:
    """An atom in a few words: "N+, valence 3", "C, 1 aromatic bond and valence 2"."""
    aromatic, others, _ = environment(molecule.bonds)[atom].tolist()
    charge = CHARGES[int(molecule.charges[atom])]
    sign = ("+" if charge > 0 else "-") if charge else ""
    name = f"{ELEMENTS[int(molecule.atoms[atom])]}{abs(charge) if abs(charge) > 1 else ''}{sign}"
    if not aromatic:
        return f"{name}, valence {others}"
    return f"{name}, {aromatic} aromatic bond{'s' if aromatic > 1 else ''}" + (f" and valence {others}" if others else "")


def combinations(element: str, charge: int = 0) -> set[tuple[int, int]]:
    """What the corrected table allows, as GEOM-Drugs Revisited writes it: (aromatic bonds, sum of the other orders).

    >>> sorted(combinations("C")), sorted(combinations("O"))
    ([(0, 4), (2, 1), (2, 2), (3, 0)], [(0, 2), (2, 0)])
    """
    place = ELEMENTS.index(element)
    every = product(range(5), range(8), range(8))
    return {(a, v) for a, v, n in every if a + (v > 0) <= n <= a + v and _corrected(place, charge, a, v, n, True)}


@cache
def _legacy(element: int, charge: int, valence: int, hydrogens: bool) -> bool:
    table = LEGACY.get(ELEMENTS[element], {})
    allowed = table.get(None, table.get(charge, ()))
    return valence in allowed if hydrogens else any(valence <= most for most in allowed)


@cache
def _corrected(element: int, charge: int, aromatic: int, others: int, neighbours: int, hydrogens: bool) -> bool:
    allowed = CORRECTED.get(ELEMENTS[element], {}).get(charge, ())
    added = range(1 if hydrogens else 5)  # implicit hydrogens
    if not aromatic:
        return any(others + more in allowed for more in added)
    double = others - (neighbours - aromatic)  # those outside the ring
    if aromatic not in (2, 3) or double > 1:
        return False
    valences = [(neighbours + more, pi) for more in added for pi in range(double, 2) if neighbours + more <= 3]
    return any(n + pi in allowed for n, pi in valences)


def _explicit(molecule: Molecule) -> list[int]:
    """RDKit's explicit valence of each atom, of a molecule that is not sanitised."""
    from rdkit import Chem

    mol = chemistry.assemble(molecule)
    mol.UpdatePropertyCache(strict=False)
    return [atom.GetValence(Chem.ValenceType.EXPLICIT) for atom in mol.GetAtoms()]
