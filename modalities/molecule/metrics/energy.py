"""How far samples are from a minimum of their energy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from modalities.molecule.metrics import jobs, relaxation
from modalities.molecule.metrics.relaxation import NOTHING, Relaxed
from modalities.molecule.metrics.sets import Chemical, Means, Values, named
from multigen.files import nearest
from multigen.modality import Dataset
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

METHODS = {"mmff": relaxation.mmff, "xtb": relaxation.xtb}
PROGRAM = {"mmff": "MMFF94", "xtb": "GFN2-xTB"}
RULE = {
    "mmff": f"RDKit's minimiser converges (force tolerance 1e-4) within {relaxation.MMFF_STEPS:,} steps",
    "xtb": f"the gradient's norm falls below {relaxation.XTB_GRADIENT:g} Hartree per bohr within {relaxation.XTB_STEPS} steps",
}
"""When a molecule counts as relaxed."""


class Energy(Means):
    """Samples, relaxed by a force field (MMFF94) and by a semi-empirical quantum method (GFN2-xTB, in the gas phase).

    For each method ``m``, ``mmff`` or ``xtb``:

    =============================================  =================================================================
    ``m_computed``                                 share of all samples that have an energy: valid, connected, with
                                                   parameters, or with charges that become self-consistent
    ``m_converged``                                share of all samples that could be relaxed (see `RULE`)
    ``m_energy``, ``m_energy_relaxed``             before and after, in kcal/mol
    ``m_strain``, ``_median``, ``m_strain_atom``   before - after, in kcal/mol; mean and median, and for each atom
    ``m_opt_rmsd``                                 distance to the relaxed molecule over all atoms, in Angstrom
    =============================================  =================================================================

    All but the first two are over the samples that could be relaxed: the same ones in all. Energies of different molecules
    cannot be compared; they are given because papers do. Where hydrogens are no atoms, RDKit adds them first, and the strain
    is partly theirs. Each comes with ``..._std`` and ``..._real``, see `modalities.molecule.metrics.sets.Means`.

    Args:
        held_out, hydrogens: see there.
        limit: measure so many samples, the first ones.
        methods: "mmff", "xtb".
        workers: processes; None for one on each processor.

    Raises:
        MultigenError: an unknown method, or the package tblite is not installed.
    """

    def __init__(
        self,
        held_out: Dataset | None = None,
        hydrogens: bool | None = None,
        limit: int | None = 100,
        methods: Sequence[str] = ("mmff", "xtb"),
        workers: int | None = None,
    ) -> None:
        super().__init__(held_out, hydrogens, limit)
        for method in methods:
            if method not in METHODS:
                raise MultigenError(f"Energy: unknown method {method!r}; {nearest(method, METHODS)}")
        if "xtb" in methods and find_spec("tblite") is None:
            raise MultigenError("energies by GFN2-xTB need the package tblite: pip install 'multigen[molecule]'")
        self.methods, self.workers = tuple(methods), workers
        self.meaning = {name: words for method in methods for name, words in _meaning(method).items()}

    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        mols = [None if one.whole is None else complete(one.whole, one.hydrogens) for one in found]
        measured: dict[str, Values] = {}
        for method in self.methods:
            relaxed = jobs.over(mols, METHODS[method], f"relaxing {len(mols)} molecules by {PROGRAM[method]}", self.workers)
            measured |= {f"{method}_{name}": values for name, values in _values([one or NOTHING for one in relaxed]).items()}
        return measured

    def compute(self) -> dict[str, float]:
        found = super().compute()
        if not self.samples:
            return found
        # of heavy tails, the deviation of a mean says little; medians have none of their own
        return {name: value for name, value in found.items() if not name.endswith("median_std")}

    def about(self) -> dict[str, Any]:
        reference = self._reference()[""]
        if self.held_out is not None:
            reference += f", {named(self.held_out, 'held-out')}"
        rules = {PROGRAM[method]: RULE[method] for method in self.methods}
        return super().about() | {"reference": {"": reference}, "relaxed": rules, "note": _note(rules, self.limit)}


def complete(mol: Mol, hydrogens: bool) -> Mol:
    """With all hydrogens as atoms."""
    from rdkit import Chem

    return mol if hydrogens else Chem.AddHs(mol, addCoords=True)


def _values(relaxed: Sequence[Relaxed]) -> dict[str, Values]:
    r = Relaxed._make(np.array(column, np.float64) for column in zip(*relaxed, strict=True))  # (N,) each
    computed = np.isfinite(r.before)  # (N,)
    done = computed & np.isfinite(r.after) & (np.array(r.converged) > 0)  # (N,)
    strain = np.where(done, np.subtract(r.before, r.after), math.nan)  # (N,)
    return {
        "computed": Values(computed.astype(np.float64)),
        "converged": Values(done.astype(np.float64)),
        "energy": Values(np.where(done, r.before, math.nan)),
        "energy_relaxed": Values(np.where(done, r.after, math.nan)),
        "strain": Values(strain),
        "strain_median": Values(strain, median=True),
        "strain_atom": Values(strain / np.maximum(r.atoms, 1)),
        "opt_rmsd": Values(np.where(done, r.rmsd, math.nan)),
    }


def _meaning(method: str) -> Mapping[str, str]:
    program = PROGRAM[method]
    return {
        f"{method}_computed": f"share of samples that have an energy by {program}; higher is better",
        f"{method}_converged": f"share of samples that could be relaxed by {program}; higher is better",
        f"{method}_energy": f"energy by {program} before relaxation, in kcal/mol; best as in real data",
        f"{method}_energy_relaxed": f"energy by {program} after relaxation, in kcal/mol; best as in real data",
        f"{method}_strain": f"energy by {program} that relaxation sets free, in kcal/mol; lower is better",
        f"{method}_strain_median": "the same; median",
        f"{method}_strain_atom": "the same for each atom; mean",
        f"{method}_opt_rmsd": f"distance to the molecule as {program} relaxes it, in Angstrom; lower is better",
    }


def _note(rules: Mapping[str, str], limit: int | None) -> str:
    which = f"the first {limit:,} samples" if limit else "all samples"
    said = "; ".join(f"{program}: {rule}" for program, rule in rules.items())
    return f"Energies are of {which}. Strain and RMSD are of those that could be relaxed. {said}."
