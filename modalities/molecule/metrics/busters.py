"""Whether samples pass the checks of PoseBusters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from modalities.molecule.metrics import jobs
from modalities.molecule.metrics.energy import complete
from modalities.molecule.metrics.sets import Chemical, Means, Values, named, share
from multigen.modality import Dataset
from multigen.state import MultigenError

CHECKS = {
    "sanitization": "RDKit sanitises it",
    "inchi_convertible": "it has an InChI",
    "all_atoms_connected": "its atoms hang together",
    "no_radicals": "it has no unpaired electron",
    "bond_lengths": "no bond is 25 % shorter or longer than distance geometry allows",
    "bond_angles": "no angle is 25 % off what distance geometry allows",
    "internal_steric_clash": "no two atoms are closer than distance geometry allows, by 30 %",
    "aromatic_ring_flatness": "aromatic rings lie within 0.25 Angstrom of a plane",
    "non_aromatic_ring_non_flatness": "aliphatic rings do not lie in a plane",
    "double_bond_flatness": "double bonds lie within 0.25 Angstrom of a plane",
    "internal_energy": "its energy (UFF) is below 100 times the mean of 50 conformers",
}
"""Name -> what passes, of the configuration "mol" of PoseBusters 0.6."""
CONFORMERS, ATTEMPTS = 50, 50
"""For the check of a molecule's energy, and the attempts of distance geometry at each; if one fails there is no check."""


class PoseBusters(Means):
    """Shares of samples that pass PoseBusters (Buttenschoen, Morris and Deane 2024), all checks and each.

    ``posebusters`` is the share that passes all of `CHECKS`, ``posebusters_<check>`` the share that passes one. A sample that
    is not valid and connected passes none of them; what cannot be checked passes, as the energy of a molecule that distance
    geometry does not find 50 conformers of, in 50 attempts each. Each comes with ``..._std`` and ``..._real``, see
    `modalities.molecule.metrics.sets.Means`.

    Args:
        held_out, hydrogens: see there. Where hydrogens are no atoms, RDKit adds them first.
        limit: measure so many samples, the first ones.
        energy: check the energy too, which takes most of the time.
        workers: processes; None for one on each processor.

    Raises:
        MultigenError: the package posebusters is not installed.
    """

    def __init__(
        self,
        held_out: Dataset | None = None,
        hydrogens: bool | None = None,
        limit: int | None = 100,
        energy: bool = True,
        workers: int | None = None,
    ) -> None:
        super().__init__(held_out, hydrogens, limit)
        if find_spec("posebusters") is None:
            raise MultigenError("these checks need the package posebusters: pip install 'multigen[molecule]'")
        self.energy, self.workers = energy, workers
        checks = {f"posebusters_{name}": f"share for which {what}" for name, what in self._checks.items()}
        self.meaning = {"posebusters": "share that passes all checks; higher is better", **checks}

    @property
    def _checks(self) -> dict[str, str]:
        return {name: what for name, what in CHECKS.items() if self.energy or name != "internal_energy"}

    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        mols = [None if one.whole is None else complete(one.whole, one.hydrogens) for one in found]
        measure = _with_energy if self.energy else _without_energy
        passed = jobs.over(mols, measure, f"PoseBusters of {len(mols)} molecules", self.workers)
        each = [{} if one is None else one for one in passed]
        return {
            "posebusters": share([all(one.get(name, False) for name in self._checks) for one in each]),
            **{f"posebusters_{name}": share([one.get(name, False) for one in each]) for name in self._checks},
        }

    def about(self) -> dict[str, Any]:
        reference = self._reference()[""]
        if self.held_out is not None:
            reference += f", {named(self.held_out, 'held-out')}"
        return super().about() | {"reference": {"": reference}}


def _with_energy(binary: bytes) -> Mapping[str, bool]:
    return _busted(binary, "mol") if _has_conformers(binary) else {"internal_energy": True, **_without_energy(binary)}


def _without_energy(binary: bytes) -> Mapping[str, bool]:
    return _busted(binary, "mol_fast")


def _has_conformers(binary: bytes) -> bool:
    """Whether PoseBusters' conformers are found in so many attempts that it is worth to ask for them.

    It checks no energy unless it finds all, and of a ring that hardly closes it tries ten times an atom for each: for minutes.
    """
    from rdkit import rdBase
    from rdkit.Chem import AddHs, MolFromInchi, MolToInchi, rdDistGeom

    search: Any = rdDistGeom.ETKDGv3()
    search.randomSeed, search.useRandomCoords, search.numThreads = 42, True, 1  # its own settings
    search.maxIterations = ATTEMPTS
    with rdBase.BlockLogs():
        known = MolFromInchi(MolToInchi(jobs.from_bytes(binary)))
        whole = None if known is None else AddHs(known)
        # a few first: they tell most of those that lack some
        return whole is None or all(len(rdDistGeom.EmbedMultipleConfs(whole, n, search)) == n for n in (1, 10, CONFORMERS))


def _busted(binary: bytes, config: str) -> Mapping[str, bool]:
    """Which checks a molecule passes; what cannot be checked passes: in PoseBusters' own summary it does not fail."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        table = _buster(config).bust([jobs.from_bytes(binary)])
    return {snake(name): bool(value) for name, value in table.iloc[0].items()}


@cache
def _buster(config: str) -> Any:
    from posebusters import PoseBusters as Buster

    return Buster(config=config, max_workers=0)


def snake(name: str) -> str:
    """
    >>> snake("Non-aromatic ring non-flatness")
    'non_aromatic_ring_non_flatness'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
