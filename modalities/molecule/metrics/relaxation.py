"""A molecule's energy, and the nearest minimum of it, by a force field and by a semi-empirical quantum method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import transport
from modalities.molecule.metrics.jobs import from_bytes

if TYPE_CHECKING:
    from rdkit.Chem import Mol

HARTREE, BOHR = 627.5094740631, 0.529177210903
"""In kcal/mol and Angstrom (CODATA 2018)."""
MMFF_STEPS = 1000
XTB_STEPS = 200
"""At most."""
XTB_GRADIENT = 1e-3
"""Hartree per bohr: norm of the gradient below which a molecule is relaxed, the level "normal" of the program xtb."""
REACH = 3.0
"""Of the assumed stiffness between two atoms: it falls by e within the nearest distance over this."""


class Relaxed(NamedTuple):
    """Energies in kcal/mol; NaN where nothing could be computed."""

    before: float
    after: float = math.nan
    rmsd: float = math.nan
    """Between the molecule and its minimum, over all atoms, in Angstrom."""
    converged: bool = False
    atoms: int = 0


NOTHING = Relaxed(math.nan)


def mmff(binary: bytes) -> Relaxed:
    """By MMFF94 (Halgren 1996): converged if RDKit's minimiser says so within 1,000 steps (force tolerance 1e-4)."""
    from rdkit import rdBase
    from rdkit.Chem import rdForceFieldHelpers

    mol = from_bytes(binary)
    places = mol.GetConformer().GetPositions()  # (N, 3)
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = parameters and rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)
        if not field or not math.isfinite(before := field.CalcEnergy()):
            return NOTHING
        field.Initialize()
        open_end = field.Minimize(maxIts=MMFF_STEPS)
    moved = mol.GetConformer().GetPositions()  # (N, 3)
    return Relaxed(before, field.CalcEnergy(), rmsd(places, moved), not open_end, len(places))


def xtb(binary: bytes) -> Relaxed:
    """By GFN2-xTB (Bannwarth, Ehlert and Grimme 2019), in the gas phase.

    Relaxed by BFGS, which starts from a stiffness that falls with the distance of atoms: converged if the norm of the gradient
    falls below 1e-3 Hartree per bohr within 200 steps.
    """
    mol = from_bytes(binary)
    places = mol.GetConformer().GetPositions()  # (N, 3)
    surface = _Surface(mol)
    start = places.ravel() / BOHR  # (3 N,)
    try:
        before, _ = surface(start)
    except RuntimeError:  # no self-consistent charges: atoms upon one another, or no molecule at all
        return NOTHING
    moved, after, converged = _minimum(surface, start)
    found = (before * HARTREE, after * HARTREE, rmsd(places, moved.reshape(-1, 3) * BOHR), converged, len(places))
    return Relaxed(*found)


class _Surface:
    """GFN2-xTB's energy and gradient, in atomic units, as a function of (3 N,)."""

    def __init__(self, mol: Mol) -> None:
        self.numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])  # (N,)
        self.charge = float(sum(atom.GetFormalCharge() for atom in mol.GetAtoms()))
        electrons = int(self.numbers.sum() - self.charge)
        radicals = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        self.unpaired = radicals if (radicals - electrons) % 2 == 0 else electrons % 2
        self._calculator: Any = None
        self._last: Any = None

    def __call__(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        from tblite.interface import Calculator

        places = x.reshape(-1, 3)  # (N, 3)
        if self._calculator is None:
            self._calculator = Calculator("GFN2-xTB", self.numbers, places, charge=self.charge, uhf=self.unpaired)
            self._calculator.set("verbosity", 0)
        else:
            self._calculator.update(places)
        self._last = self._calculator.singlepoint(self._last)  # from the charges of the last point
        return float(self._last.get("energy")), np.asarray(self._last.get("gradient"), np.float64).ravel()


def _minimum(surface: _Surface, start: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, bool]:
    """Place (3 N,), energy, and whether it is a minimum."""
    from scipy.optimize import minimize

    options = {"gtol": XTB_GRADIENT, "norm": 2, "maxiter": XTB_STEPS, "hess_inv0": _softness(start.reshape(-1, 3))}
    try:
        found = minimize(surface, start, jac=True, method="BFGS", options=options)
    except RuntimeError:
        return start, math.nan, False
    return found.x, float(found.fun), bool(np.linalg.norm(found.jac) < XTB_GRADIENT)


def _softness(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """A first guess of the inverse of the second derivatives (3 N, 3 N), in atomic units: near atoms are held together by
    springs whose stiffness falls exponentially with distance (Packwood et al. 2016, J. Chem. Phys. 144: 164109)."""
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(len(places), np.inf))  # (N, N)
    nearest = max(float(distance.min(initial=2.0)), 1.0)
    spring = 0.25 * np.exp(-REACH * (distance / max(nearest, 1.8) - 1))  # (N, N)
    stiffness = np.diag(spring.sum(1) + 0.03) - spring  # (N, N)
    soft = np.linalg.inv(stiffness)  # (N, N)
    return np.asarray(np.kron((soft + soft.T) / 2, np.eye(3)), np.float64)  # (3 N, 3 N)


def rmsd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Root mean square distance of points (N, 3) and (N, 3), in order, after the best rotation and translation."""
    a, b = a - a.mean(0), b - b.mean(0)  # (N, 3) each
    turned = a @ transport.rotation(a, b).T  # (N, 3)
    return float(np.sqrt(np.square(turned - b).sum(-1).mean()))
