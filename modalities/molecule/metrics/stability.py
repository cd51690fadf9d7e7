"""Whether the atoms of samples have sensible valences, by two tables side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import valence
from modalities.molecule.metrics import figures
from modalities.molecule.metrics.sets import Chemical, Means, Values, named, share, tally

SHOWN = 12
"""Kinds of unstable atoms in the picture."""


MEANING = {
    "atom_stability_legacy": "share of atoms that the published table allows (aromatic bonds count 1.5); higher is better",
    "molecule_stability_legacy": "share of samples with such atoms alone; higher is better",
    "atom_stability_corrected": "share of atoms with a valence of the octet rule or its extensions; higher is better",
    "molecule_stability_corrected": "share of samples with such atoms alone; higher is better",
    "stable_valid": "share that is stable (corrected), valid and connected; higher is better",
}


class Stability(Means):
    """Shares of stable atoms and of molecules all of whose atoms are stable (`modalities.molecule.valence`).

    ==================================  ============================================================================
    ``atom_stability_legacy``           by the table that MiDi, SemlaFlow and REED publish with
    ``molecule_stability_legacy``
    ``atom_stability_corrected``        by valences that take aromatic bonds apart
    ``molecule_stability_corrected``
    ``stable_valid``                    share stable by the corrected table, valid and connected
    ==================================  ============================================================================

    A sample that was not decided is not stable; it has no atoms. Each comes with ``..._std`` and ``..._real``, see
    `modalities.molecule.metrics.sets.Means`, which also explains the arguments.
    """

    meaning = MEANING

    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        count = np.array([0 if one.sample is None else len(one.sample.atoms) for one in found], np.float64)  # (N,)
        measured: dict[str, Values] = {}
        for table in valence.TABLES:
            atoms = [_stable(one, table) for one in found]  # (N_i,) each
            whole = [bool(len(a) and a.all()) for a in atoms]
            part = np.array([a.mean() if len(a) else math.nan for a in atoms])  # (N,)
            measured |= {f"atom_stability_{table}": Values(part, count), f"molecule_stability_{table}": share(whole)}
        return measured | {"stable_valid": share([w and one.whole is not None for w, one in zip(whole, found, strict=True)])}

    def about(self) -> dict[str, Any]:
        reference = {"": named(self.held_out, "held-out")} if self.held_out is not None else self._reference()
        return super().about() | {"reference": reference, "unstable": {t: self._unstable(t) for t in valence.TABLES}}

    def _unstable(self, table: str) -> dict[str, int]:
        return tally(
            [
                valence.described(one.sample, i)
                for one in self.found
                if one.sample is not None
                for i in np.flatnonzero(~_stable(one, table)).tolist()
            ]
        )

    def pictures(self, folder: Path) -> dict[str, Path]:
        """The commonest atoms that are not stable."""
        unstable = self._unstable("corrected")
        if not unstable:
            return {}
        title = f"Atoms that are not stable in {len(self.samples):,} samples (corrected table)"
        return {title: figures.bars(unstable, title, folder / "unstable.png", SHOWN)}


def _stable(one: Chemical, table: str) -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_) if one.sample is None else valence.stable(one.sample, table, one.hydrogens)
