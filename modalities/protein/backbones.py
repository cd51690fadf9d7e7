"""Backbones of designs in the report: as files that a metric leaves in the run's folder, and as a part of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalities.protein import palette, trace
from modalities.protein.alphabet import tokens
from modalities.protein.sample import Designed
from modalities.protein.structure import Structure, write_pdb
from multigen.files import read_json, read_text, write_json
from multigen.report import Part, Record, Section
from multigen.report.blocks import Gallery, Text, Viewer, png

LIST = "backbones.json"
"""What the folder of an evaluation holds: file names and captions of backbones."""
STYLE = {"cartoon": {"colorscheme": {"prop": "b", "gradient": "linear_" + "_".join(palette.SCALE), "min": 0, "max": 100}}}
EXPLAINED = (
    "The first backbones that were designed for, coloured by the confidence in each designed residue: "
    "orange is 0, yellow a third, light blue two thirds, blue 1. Given residues count as 1."
)


def write(designs: Sequence[Designed], folder: Path) -> Path:
    """Write each design that has a backbone as PDB (100 x confidence in the column of B factors) and as a picture."""
    with_backbone = [design for design in designs if design.backbone is not None]
    return write_json(folder / LIST, [_write(i, design, folder) for i, design in enumerate(with_backbone, 1)])


def _write(number: int, design: Designed, folder: Path) -> dict[str, Any]:
    assert design.backbone is not None
    name = f"backbone_{number}"
    confidence = None if design.confidence is None else 100 * np.clip(design.confidence, 0, 1)  # (L,)
    write_pdb(folder / f"{name}.pdb", structure(design), design.sequence, confidence)
    trace.trace(design.backbone, design.chain, design.confidence, folder / f"{name}.png", "confidence")
    return {"name": name, "caption": caption(design), "coloured": confidence is not None}


def structure(design: Designed) -> Structure:
    """A design as a structure: its native sequence and backbone, residues numbered from 1 in each chain."""
    assert design.backbone is not None
    _, first, chain = np.unique(design.chain, return_index=True, return_inverse=True)  # (chains,), (L,)
    index = np.arange(1, len(chain) + 1) - first[chain]  # (L,)
    item = {
        "sequence": tokens(design.native),
        "backbone": design.backbone,
        "chain": chain.astype(np.int16),
        "index": index.astype(np.int32),
    }
    return Structure.of({"name": design.name or "design", **item})


def caption(design: Designed) -> str:
    made, native = (np.array(list(x)) for x in (design.sequence, design.native))  # (L,), (L,)
    said = [design.name or "design", f"{len(made)} residues"]
    if design.free.any():
        said.append(f"recovery {(made == native)[design.free].mean():.0%}")
    if design.confidence is not None and design.free.any():
        said.append(f"confidence {design.confidence[design.free].mean():.2f}")
    return ", ".join(said)


def parts() -> list[Part]:
    """What the page of a run of proteins shows besides what all show."""
    return [section]


def section(run: Record) -> Section | None:
    """The backbones that the last evaluation left."""
    folder = run.folder / "evaluation"
    listed = read_json(folder / LIST) if run.evaluation and (folder / LIST).is_file() else []
    there = [entry for entry in listed if all((folder / f"{entry['name']}.{end}").is_file() for end in ("pdb", "png"))]
    if not there:
        return None
    viewers = [_viewer(folder, entry) for entry in there]
    return Section("Designs on their backbones", [Text(EXPLAINED), Gallery(viewers, min(3, len(viewers)))])


def _viewer(folder: Path, entry: dict[str, Any]) -> Viewer:
    picture = png(folder / f"{entry['name']}.png", f"Backbone as a tube: {entry['caption']}")
    style = STYLE if entry["coloured"] else {"cartoon": {"color": "spectrum"}}
    return Viewer(read_text(folder / f"{entry['name']}.pdb"), "pdb", style, picture, entry["caption"])
