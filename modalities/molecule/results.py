"""The files of a completion: molecules, a table, a picture, and their measures.

::

    completions.sdf     every completion in the fragment's frame, its atoms first; what RDKit refuses says so
    completions.smi     SMILES of those that RDKit accepts
    completions.csv     one line for each: size, valid, connected, novel, SMILES, or why it is refused
    completions.png     structural formulas, the fragment coloured, invalid ones marked
    summary.json        counts and settings
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modalities.molecule import chemistry, drawing, writing
from modalities.molecule.given import Fragment
from modalities.molecule.metrics.sets import Chemical
from modalities.molecule.sample import Molecule
from multigen.files import make_folder, write_json, write_text

PICTURED = 48
"""Completions in the picture."""
TOLERANCE = 1e-6
"""Angstrom: a file says where given atoms are at least so exactly."""


class Results:
    """Completions of one fragment, and what was found out about them.

    Args:
        fragment: what was given.
        samples: completions; None for what was not decided.
        hydrogens: whether all hydrogens are among the atoms.
        train: SMILES of the training molecules, without stereochemistry; None if they are not at hand.
        settings: what stands beside the counts.
    """

    def __init__(
        self,
        fragment: Fragment,
        samples: Sequence[Molecule | None],
        hydrogens: bool,
        train: Collection[str] | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.fragment, self.hydrogens, self.train, self.settings = fragment, hydrogens, train, settings
        stem = "_".join(fragment.name.split()) or "completion"
        self.samples = [s and s._replace(name=f"{stem}_{number}") for number, s in enumerate(samples, 1)]
        self.found = [Chemical(sample, hydrogens) for sample in self.samples]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of each completion. ``novel`` is None where it is not known."""
        return [self._row(number, one) for number, one in enumerate(self.found, 1)]

    def _row(self, number: int, one: Chemical) -> dict[str, Any]:
        return {
            "number": number,
            "added": None if one.sample is None else len(one.sample.atoms) - len(self.fragment),
            "valid": one.mol is not None,
            "connected": one.connected,
            "novel": None if self.train is None or one.smiles is None else one.smiles not in self.train,
            "smiles": "" if one.mol is None else chemistry.smiles(one.mol),
            "reason": one.decoded.reason,
        }

    @cached_property
    def counts(self) -> dict[str, Any]:
        """How many there are of what."""
        whole = [one.smiles for one in self.found if one.smiles is not None]
        return {
            "completions": len(self.rows),
            "valid": sum(row["valid"] for row in self.rows),
            "valid_connected": len(whole),
            "different": len(set(whole)),
            "novel": None if self.train is None else len(set(whole) - set(self.train)),
        }

    def line(self) -> str:
        """What was made, in one line."""
        c = self.counts
        n = c["completions"]
        novel = [] if c["novel"] is None else [f"{c['novel']} of these no training molecule"]
        name = self.fragment.name or "the fragment"
        valid, whole = (f"{c[name]} {name.replace('_', ' and ')} ({c[name] / n:.0%})" for name in ("valid", "valid_connected"))
        said = [valid, whole, f"{c['different']} different", *novel]
        return f"{n} completion{'s' * (n > 1)} of {name}: {', '.join(said)}"


def write(results: Results, folder: Path) -> Path:
    """Write all files. Returns the folder."""
    make_folder(folder)
    exact = (np.abs(results.fragment.coords - results.fragment.coords.round(4)) < TOLERANCE).all()
    records = [writing.sdf(s, results.hydrogens, wide=not exact) for s in results.samples if s is not None]
    write_text(folder / "completions.sdf", "".join(records))
    writing.write(results.samples, folder / "completions.smi", results.hydrogens)
    write_text(folder / "completions.csv", _table(results.rows))
    given = range(len(results.fragment))
    drawing.draw(results.samples[:PICTURED], folder / "completions.png", results.hydrogens, given)
    write_json(folder / "summary.json", {**results.counts, **results.settings})
    return folder


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: int(x) if isinstance(x, bool) else x for k, x in row.items()} for row in rows)
    return text.getvalue()
