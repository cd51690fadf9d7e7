"""Molecules in the report that can be turned: files that a metric leaves in the run's folder, and a part of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modalities.molecule import chemistry, drawing, space, writing
from modalities.molecule.sample import Molecule
from multigen.files import read_json, read_text, write_json, write_text
from multigen.report import Part, Record, Section
from multigen.report.blocks import Gallery, Text, Viewer, png

LIST = "molecules.json"
"""What the folder of an evaluation holds: file names and captions of molecules."""
STYLE = {"stick": {"radius": 0.13}, "sphere": {"scale": 0.23}}
EXPLAINED = "The first samples that RDKit accepts and that hang together, as they were made: nothing is relaxed."


def write(samples: Sequence[Molecule | None], folder: Path, count: int, hydrogens: bool | None = None) -> Path:
    """Write the first valid and connected samples as SDF and as pictures."""
    have = writing.explicit(samples) if hydrogens is None else hydrogens
    shown: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        if len(shown) < count and sample is not None and _whole(sample, have):
            shown.append(_write(number, sample, folder, have))
    return write_json(folder / LIST, shown)


def _whole(sample: Molecule, hydrogens: bool) -> bool:
    return chemistry.largest_fragment(sample.bonds) == 1 and chemistry.to_rdkit(sample, hydrogens).mol is not None


def _write(number: int, sample: Molecule, folder: Path, hydrogens: bool) -> dict[str, Any]:
    name = f"molecule_{number}"
    write_text(folder / f"{name}.sdf", writing.sdf(sample._replace(name=sample.name or f"sample {number}"), hydrogens))
    space.in_space(sample, folder / f"{name}.png")
    smiles = writing.smi(sample, hydrogens).split()[0]
    return {"name": name, "caption": f"Sample {number}: {drawing.formula(sample)}, {smiles}"}


def parts() -> list[Part]:
    """What the page of a run of molecules shows besides what all show."""
    return [section]


def section(run: Record) -> Section | None:
    """The molecules that the last evaluation left."""
    folder = run.folder / "evaluation"
    listed = read_json(folder / LIST) if run.evaluation and (folder / LIST).is_file() else []
    there = [entry for entry in listed if all((folder / f"{entry['name']}.{end}").is_file() for end in ("sdf", "png"))]
    if not there:
        return None
    viewers = [_viewer(folder, entry) for entry in there]
    return Section("Molecules in space", [Text(EXPLAINED), Gallery(viewers, min(3, len(viewers)))])


def _viewer(folder: Path, entry: dict[str, Any]) -> Viewer:
    picture = png(folder / f"{entry['name']}.png", f"Balls and sticks. {entry['caption']}")
    return Viewer(read_text(folder / f"{entry['name']}.sdf"), "sdf", STYLE, picture, entry["caption"])
