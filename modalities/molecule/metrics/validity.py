"""Whether samples are molecules at all, and why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modalities.molecule import chemistry, viewing
from modalities.molecule.metrics import figures
from modalities.molecule.metrics.sets import Chemical, Means, Values, each, named, share, tally
from multigen.modality import Dataset

KINDS = {
    "refused_valence": "valence of",
    "refused_aromatic": "aromatic atom outside a ring",
    "refused_kekule": "no Kekule structure",
    "undecided": "not decided",
}
"""Measure -> how the reasons that it counts begin."""


MEANING = {
    "validity": "share that RDKit sanitises, nothing being repaired; higher is better",
    "validity_rdkit": "share that RDKit's default sanitisation takes, as papers count; higher is better",
    "connected": "share whose atoms all hang together; higher is better",
    "valid_connected": "share that is valid and connected; higher is better",
    "largest_fragment": "share of the atoms in a sample's largest fragment; higher is better",
    "radicals": "share of the valid ones with an unpaired electron; best as in real data",
    "refused_valence": "share refused for the valence of an atom; lower is better",
    "refused_aromatic": "share refused for an aromatic atom outside a ring; lower is better",
    "refused_kekule": "share refused for aromatic bonds without Kekule structure; lower is better",
    "refused_other": "share refused for another reason; lower is better",
    "undecided": "share that is no molecule, or not finite; lower is better",
}


class Validity(Means):
    """What RDKit makes of the samples, of which none is left out.

    ========================  ======================================================================================
    ``validity``              share that RDKit sanitises, nothing being repaired
    ``validity_rdkit``        share that RDKit's default sanitisation takes, which first rewrites five-valent nitrogen and
                              the like: as papers count
    ``connected``             share whose atoms all hang together
    ``valid_connected``       share that is both
    ``largest_fragment``      share of the atoms in a molecule's largest fragment
    ``radicals``              share of the valid ones with an unpaired electron
    ``refused_valence``, ...  shares that are refused for an atom's valence, an aromatic atom outside a ring, aromatic bonds
                              without Kekule structure, another reason; ``undecided`` is no molecule, or not finite
    ========================  ======================================================================================

    Each comes with ``..._std`` and ``..._real``, see `modalities.molecule.metrics.sets.Means`.

    Args:
        held_out, hydrogens, limit: see there.
        shown: samples that the report shows in space, the first ones that are valid and connected.
    """

    meaning = MEANING

    def __init__(
        self, held_out: Dataset | None = None, hydrogens: bool | None = None, limit: int | None = None, shown: int = 6
    ) -> None:
        super().__init__(held_out, hydrogens, limit)
        self.shown = shown

    def values(self, found: Sequence[Chemical]) -> dict[str, Values]:
        kinds = [kind(one) for one in found]
        return {
            "validity": each(found, lambda one: one.mol is not None),
            "validity_rdkit": each(found, _repaired),
            "connected": each(found, lambda one: one.connected),
            "valid_connected": each(found, lambda one: one.whole is not None),
            "largest_fragment": each(found, _largest),
            "radicals": each(found, _radical),
            **{name: share([name == one for one in kinds]) for name in (*KINDS, "refused_other")},
        }

    def about(self) -> dict[str, Any]:
        reference = {"": named(self.held_out, "held-out")} if self.held_out is not None else self._reference()
        return super().about() | {"reference": reference, "reasons": self._reasons()}

    def _reasons(self) -> dict[str, int]:
        return tally([one.decoded.reason for one in self.found if one.mol is None])

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Why samples are refused; also the molecules that `modalities.molecule.viewing.parts` shows."""
        viewing.write(self.samples, folder, self.shown, self.hydrogens)
        reasons = self._reasons()
        if not reasons:
            return {}
        title = f"Why {sum(reasons.values()):,} of {len(self.samples):,} samples are refused"
        return {title: figures.bars(reasons, title, folder / "refused.png")}


def kind(one: Chemical) -> str:
    """Which of `KINDS` a molecule is counted under; "" if it is valid."""
    if one.mol is not None:
        return ""
    return next((name for name, begins in KINDS.items() if one.decoded.reason.startswith(begins)), "refused_other")


def _repaired(one: Chemical) -> bool:
    if one.mol is not None or one.sample is None or not len(one.sample.atoms):
        return one.mol is not None
    return chemistry.to_rdkit(one.sample, one.hydrogens, cleanup=True).mol is not None


def _largest(one: Chemical) -> float:
    return math.nan if one.sample is None else chemistry.largest_fragment(one.sample.bonds)


def _radical(one: Chemical) -> bool | None:
    return None if one.mol is None else any(atom.GetNumRadicalElectrons() for atom in one.mol.GetAtoms())
