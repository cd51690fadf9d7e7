"""Molecules that were made elsewhere, by any program, as `multigen evaluate` reads samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modalities.molecule import chemistry, sdf
from modalities.molecule.collect import Found
from modalities.molecule.sample import Molecule
from multigen.random import keys
from multigen.state import Batch, MultigenError


class Finished:
    """The molecules of an SDF file, or of a folder of them.

    Nothing is sanitised or left out: a record that cannot be read counts as a sample that is no molecule.

    Args:
        path: ``.sdf``, ``.mol``, also ``.gz``; or a folder.

    Raises:
        MultigenError: nothing is there, or no record holds a molecule in three dimensions.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, found = Path(path), list(sdf.molecules(sdf.find(Path(path))))
        made = [_sample(one) for one in found]
        self.samples = [sample for sample, _ in made]
        self.unread = [f"{one.where}: {reason}" for one, (_, reason) in zip(found, made, strict=True) if reason]
        if not any(sample is not None for sample in self.samples):
            said = f": {self.unread[0]}" if self.unread else ""
            raise MultigenError(f"{path} holds no molecule in three dimensions{said}")

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, index: Sequence[int]) -> tuple[list[Molecule | None], Batch]:
        """The molecules with these indices; nothing is known of what they were made for."""
        return [self.samples[i] for i in index], Batch({}, {}, {}, keys(0, index, "finished"), {})

    def about(self) -> dict[str, Any]:
        return {"name": self.path.name, "unread": len(self.unread), "first_unread": self.unread[:3]}


def _sample(found: Found) -> tuple[Molecule | None, str]:
    """A molecule, or why there is none."""
    if found.mol is None:
        return None, f"{found.reason}: {found.detail}"
    try:
        record = chemistry.as_written(found.mol)
    except chemistry.Unfit as error:
        return None, str(error)
    return chemistry.molecule({"name": found.name, **chemistry.dense(record, hydrogens=True, aromatic=False)}), ""
