"""What MiniMol reads of a molecule: features of atoms and bonds, and where an atom is in the graph.

An atom's features are degree, formal charge, radical electrons, aromatic and in a ring as numbers, and element, group, period
and valence one-hot, each with a last class for anything else; a bond's are its kind and stereo one-hot, and whether it is in a
ring. They are rounded to half precision, as the network was trained.

The eigenvectors are those that a general solver finds, with the atoms in RDKit's canonical order: their signs, and directions
within one eigenvalue, are arbitrary and the network reads them. So the order decides, and is made the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modalities.molecule import chemistry
from modalities.molecule.encoders.common import heavy
from modalities.molecule.encoders.minimol_net import BONDS, EIGEN, STEPS, Graphs

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Bond, Mol

ELEMENTS = (
    *("C", "N", "O", "S", "F", "Si", "P", "Cl", "Br", "Mg", "Na", "Ca", "Fe", "As", "Al", "I", "B", "V", "K", "Tl", "Yb"),
    *("Sb", "Sn", "Ag", "Pd", "Co", "Se", "Ti", "Zn", "H", "Li", "Ge", "Cu", "Au", "Ni", "Cd", "In", "Mn", "Zr", "Cr", "Pt"),
    *("Hg", "Pb"),
)  # fmt: skip
"""In the network's order; others are its last class."""
GROUPS, PERIODS, VALENCES = range(1, 20), range(1, 8), range(7)
KINDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
STEREO = ("STEREONONE", "STEREOANY", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS")
PLACES = {
    **{"H": (1, 1), "B": (13, 2), "C": (14, 2), "N": (15, 2), "O": (16, 2), "F": (17, 2), "Al": (13, 3), "Si": (14, 3)},
    **{"P": (15, 3), "S": (16, 3), "Cl": (17, 3), "As": (15, 4), "Se": (16, 4), "Br": (17, 4), "I": (17, 5), "Hg": (12, 6)},
    "Bi": (15, 6),
}
"""Group and period of the vocabulary's elements."""


class Graph(NamedTuple):
    """One molecule's heavy atoms, n of them, with m directed bonds."""

    atoms: NDArray[np.float32]
    """(n, 85)."""
    bonds: NDArray[np.float32]
    """(m, 13)."""
    ends: NDArray[np.int64]
    """(2, m)."""
    spectrum: NDArray[np.float32]
    """(n, 8, 2)."""
    walks: NDArray[np.float32]
    """(n, 16)."""
    origin: NDArray[np.int64]
    """(n,): which atom of the molecule, hydrogens included, each is."""


def read(mol: Mol) -> Graph:
    """A sanitised molecule, in canonical order."""
    plain, origin = _canonical(mol)
    atoms = np.array([_atom(atom) for atom in plain.GetAtoms()], np.float16)  # (n, 85)
    bonds = np.array([_bond(bond) for bond in plain.GetBonds()], np.float16).reshape(-1, BONDS)  # (M, 13)
    pair = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in plain.GetBonds()]
    ends = np.array([end for a, b in pair for end in ((a, b), (b, a))], np.int64).reshape(-1, 2).T  # (2, m)
    linked = np.zeros((len(atoms), len(atoms)))  # (n, n)
    linked[tuple(ends)] = 1
    rows = (atoms, bonds.repeat(2, axis=0), spectrum(linked), walks(linked))
    nodes, edges, vectors, returns = (row.astype(np.float16).astype(np.float32) for row in rows)  # as precise as published
    return Graph(nodes, edges, ends, vectors, returns, origin)


def _canonical(mol: Mol) -> tuple[Mol, NDArray[np.int64]]:
    """Heavy atoms in canonical order, and which atom of `mol` each was: (n,)."""
    from rdkit import Chem

    plain, origin = heavy(mol)
    order = np.argsort(list(Chem.CanonicalRankAtoms(plain)), kind="stable")  # (n,)
    return Chem.RenumberAtoms(plain, order.tolist()), origin[order]


def _atom(atom: Atom) -> list[float]:
    plain = [atom.GetTotalDegree() - 2, atom.GetFormalCharge(), atom.GetNumRadicalElectrons()]
    flags = [atom.GetIsAromatic(), atom.IsInRing()]
    group, period = PLACES[atom.GetSymbol()]
    classes = [(atom.GetSymbol(), ELEMENTS), (group, GROUPS), (period, PERIODS), (atom.GetTotalValence(), VALENCES)]
    return [*plain, *flags, *(x for value, known in classes for x in _one_hot(value, known))]


def _bond(bond: Bond) -> list[float]:
    kind, stereo = _one_hot(str(bond.GetBondType()), KINDS), _one_hot(str(bond.GetStereo()), STEREO)
    return [*kind, *stereo, bond.IsInRing()]


def _one_hot(value: Any, known: Sequence[Any]) -> list[float]:
    """With a last class for what is not known."""
    found = [float(value == one) for one in known]
    return [*found, float(not any(found))]


def spectrum(linked: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of each connected part: the lowest eigenvalues of its Laplacian, and the eigenvectors, of length 1: (n, 8, 2).

    Args:
        linked: (n, n), 1 where two atoms are bonded.
    """
    found = np.zeros((len(linked), EIGEN, 2), np.float32)  # (n, 8, 2)
    parts = chemistry.fragments(linked)  # (n,)
    for part in np.unique(parts):
        here = np.flatnonzero(parts == part)  # (k,)
        found[here] = _spectrum(linked[np.ix_(here, here)])
    return found


def _spectrum(linked: NDArray[np.float64]) -> NDArray[np.float32]:
    from scipy.linalg import eig

    values, vectors = eig(np.diag(linked.sum(1)) - linked)  # (k,), (k, k)
    first = values.argsort()[:EIGEN]  # at most 8
    values, vectors = values[first].real, vectors[:, first].real
    vectors = vectors / np.sqrt((vectors**2).sum(0)).clip(1e-4)  # (k, 8)
    both = np.stack([np.broadcast_to(values, vectors.shape), vectors], -1)  # (k, 8, 2)
    return np.pad(both, ((0, 0), (0, EIGEN - both.shape[1]), (0, 0))).astype(np.float32)


def walks(linked: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, n) -> (n, 16); an atom without a bond stays where it is."""
    step = np.where(linked.any(1, keepdims=True), linked, np.eye(len(linked)))  # (n, n)
    step = (step / step.sum(1, keepdims=True)).astype(np.float32)  # (n, n)
    power, found = np.eye(len(linked), dtype=np.float32), []
    for _ in range(STEPS):
        power = power @ step
        found.append(np.diagonal(power))
    return np.stack(found, -1)


def joined(graphs: Sequence[Graph]) -> Graphs:
    """Several molecules, one after another."""
    sizes = np.array([len(graph.atoms) for graph in graphs])  # (G,)
    starts = sizes.cumsum() - sizes  # (G,)
    ends = np.concatenate([graph.ends + start for graph, start in zip(graphs, starts, strict=True)], 1)  # (2, m)
    columns = [np.concatenate([graph[i] for graph in graphs]) for i in (0, 1, 3, 4)]
    atoms, bonds, spectra, returns = (torch.from_numpy(column) for column in columns)
    graph = torch.arange(len(graphs)).repeat_interleave(torch.from_numpy(sizes))  # (n,)
    return Graphs(atoms, bonds, torch.from_numpy(ends), spectra, returns, graph)
