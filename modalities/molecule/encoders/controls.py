"""What can be computed of a molecule without learning anything, with RDKit: controls for what learned teachers add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.encoders.common import atom_level, graph_level, heavy, mols
from multigen.state import Batch, Features, at_least

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Mol

VERSION = 2
"""Raise it when the same molecules have other features."""
CHARGES = (-2, -1, 0, 1, 2)
HYBRIDS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
RINGS = range(3, 9)


class _Control(ABC):
    """A function of each heavy-atom graph.

    Args:
        options: what the features depend on.
    """

    width: int

    def __init__(self, **options: Any) -> None:
        from rdkit import rdBase

        settings = "-".join(f"{name}={value}" for name, value in options.items())
        self.fingerprint = "-".join(filter(None, (type(self).__name__, str(VERSION), rdBase.rdkitVersion, settings)))

    @abstractmethod
    def of(self, mol: Mol) -> NDArray[np.floating]:
        """Of a molecule of n heavy atoms: (D,) or (n, D)."""

    def to(self, device: Any) -> Any:
        return self


class _Graph(_Control):
    def __call__(self, batch: Batch) -> Features:
        found = [mol and heavy(mol)[0] for mol in mols(batch, self)]
        return graph_level((self.of(mol) if mol and mol.GetNumAtoms() else None for mol in found), self.width, batch)


class _Atoms(_Control):
    def __call__(self, batch: Batch) -> Features:
        return atom_level((mol and self._placed(mol) for mol in mols(batch, self)), self.width, batch)

    def _placed(self, mol: Mol) -> NDArray[np.floating]:
        """In the order of all atoms, NaN for hydrogens: (N, D)."""
        plain, origin = heavy(mol)
        found = np.full((mol.GetNumAtoms(), self.width), np.nan, np.float32)  # (N, D)
        if len(origin):
            found[origin] = self.of(plain)
        return found


class _Hashed(_Control):
    """Environments of the Morgan fingerprint (Rogers and Hahn 2010).

    Args:
        width: D; environments are hashed to it.
        radius: bonds around an atom.
    """

    def __init__(self, width: int = 512, radius: int = 2) -> None:
        at_least(1, width=width)
        at_least(0, radius=radius)
        super().__init__(width=width, radius=radius)
        self.width, self.radius = width, radius

    def generator(self) -> Any:
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

        return GetMorganGenerator(radius=self.radius, fpSize=self.width, includeRedundantEnvironments=True)


class Morgan(_Hashed, _Graph):
    """How often each environment occurs in the molecule, logarithmically: (B, D). For the arguments see `_Hashed`."""

    def of(self, mol: Mol) -> NDArray[np.floating]:
        return np.log1p(self.generator().GetCountFingerprintAsNumPy(mol).astype(np.float32))  # (D,)


class MorganAtoms(_Hashed, _Atoms):
    """Those about each heavy atom, of radius 0, 1, ...: as many ones among D zeros, (B, N, D). Arguments: see `_Hashed`."""

    def of(self, mol: Mol) -> NDArray[np.floating]:
        from rdkit.Chem.rdFingerprintGenerator import AdditionalOutput

        more = AdditionalOutput()
        more.AllocateBitInfoMap()
        self.generator().GetFingerprint(mol, additionalOutput=more)
        found = np.zeros((mol.GetNumAtoms(), self.width), np.float32)  # (n, D)
        for bit, places in more.GetBitInfoMap().items():
            found[[centre for centre, _ in places], bit] = 1
        return found


class AtomProperties(_Atoms):
    """What a chemist notes of a heavy atom: (B, N, 24).

    Degree, hydrogens, valence, aromatic; formal charge, hybridisation and sizes of its rings one-hot; the charge by Gasteiger
    and Marsili (1980), and its part of logP and molar refractivity (Wildman and Crippen 1999).
    """

    width = 4 + len(CHARGES) + len(HYBRIDS) + len(RINGS) + 3

    def of(self, mol: Mol) -> NDArray[np.floating]:
        from rdkit.Chem import rdMolDescriptors, rdPartialCharges

        rdPartialCharges.ComputeGasteigerCharges(mol)
        crippen = np.array(rdMolDescriptors._CalcCrippenContribs(mol))  # (n, 2)
        charge = [atom.GetDoubleProp("_GasteigerCharge") for atom in mol.GetAtoms()]
        plain = np.array([_noted(atom) for atom in mol.GetAtoms()])  # (n, 21)
        return np.nan_to_num(np.column_stack([plain, charge, crippen]), posinf=0, neginf=0)  # (n, 24)


def _noted(atom: Atom) -> list[float]:
    numbers = [atom.GetDegree(), atom.GetTotalNumHs(), atom.GetTotalValence(), atom.GetIsAromatic()]
    charge = [float(atom.GetFormalCharge() == q) for q in CHARGES]
    hybrid = [float(str(atom.GetHybridization()) == h) for h in HYBRIDS]
    return [*numbers, *charge, *hybrid, *(float(atom.IsInRingSize(size)) for size in RINGS)]


class Descriptors(_Graph):
    """All of RDKit's two-dimensional descriptors, about 217, on a logarithmic scale of both signs: (B, D).

    They are of very different sizes, and depend on one another: whiten them. One that is not defined for a molecule is 0.
    """

    def __init__(self) -> None:
        from rdkit.Chem.Descriptors import descList

        super().__init__()
        self.functions = [function for _, function in descList]
        self.width = len(self.functions)

    def of(self, mol: Mol) -> NDArray[np.floating]:
        from rdkit import rdBase

        with rdBase.BlockLogs():
            found = np.nan_to_num([function(mol) for function in self.functions], posinf=0, neginf=0)  # (D,)
        return np.sign(found) * np.log1p(np.abs(found))
