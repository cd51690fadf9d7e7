"""The files of a design: sequences, tables, a picture, and backbones that wear the new sequences.

::

    designs.fasta      the native sequence, then every design, with their measures; a slash stands between chains
    designs.csv        one line for each design
    confidence.csv     one line for each residue: what every design has there, and how sure the network was
    designs.png        designs beside the native sequence, along the chain
    design_N.pdb       backbone and sequence of a design, 100 x confidence in the column of B factors
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.protein import drawing
from modalities.protein.modality import chains_of
from modalities.protein.sample import Designed
from modalities.protein.structure import write_pdb
from modalities.protein.task import Task
from multigen.files import make_folder, write_text

PICTURED = 24
"""Designs in the picture."""


class Results(NamedTuple):
    """Designs of one backbone, and what was measured of them."""

    task: Task
    designs: Sequence[Designed]
    scores: Sequence[float]
    """Of each design."""
    native: float
    """Score of the native sequence."""
    settings: Mapping[str, str | int]
    """What stands beside the measures: seed, temperature, ..."""

    def rows(self) -> list[dict[str, Any]]:
        """Measures by name, of each design."""
        return [self._row(i, design) for i, design in enumerate(self.designs)]

    def _row(self, i: int, design: Designed) -> dict[str, Any]:
        confidence = math.nan if design.confidence is None else float(design.confidence[design.free].mean())
        return {
            "name": self.task.structure.name,
            "number": i + 1,
            **self.settings,
            "recovery": recovery(design),
            "log_likelihood": log_likelihood(design),
            "score": float(self.scores[i]),
            "confidence": confidence,
        }


def write(results: Results, folder: Path) -> Path:
    """Write all files; those of designs of a former, larger number are removed. Returns the folder."""
    make_folder(folder)
    for i, design in enumerate(results.designs, 1):
        confidence = None if design.confidence is None else 100 * design.confidence  # (L,)
        write_pdb(folder / f"design_{i}.pdb", results.task.structure, design.sequence, confidence)
    _remove_others(folder, len(results.designs))
    drawing.draw(results.designs[:PICTURED], folder / "designs.png")
    write_text(folder / "confidence.csv", _table(confidence_rows(results)))
    lines = [{**row, "sequence": _chains(d)} for row, d in zip(results.rows(), results.designs, strict=True)]
    write_text(folder / "designs.csv", _table([list(lines[0]), *(map(_plain, line.values()) for line in lines)]))
    write_text(folder / "designs.fasta", fasta(results))
    return folder


def _remove_others(folder: Path, count: int) -> None:
    """What a former call left here, if its table shows that it was one."""
    if (folder / "designs.csv").is_file():
        for path in folder.glob("design_*.pdb"):
            if (number := re.fullmatch(r"design_([1-9]\d*)", path.stem)) and int(number[1]) > count:
                path.unlink(missing_ok=True)


def fasta(results: Results) -> str:
    """The native sequence, and then the designs."""
    structure = results.task.structure
    name = "_".join(structure.name.split())
    count = {"length": len(structure), "designed": int(results.designs[0].free.sum())}
    native = chains_of(structure.letters(), structure.chain.astype(np.int64))
    text = f">{name} native {_said({**count, 'score': results.native})}\n{native}\n"
    for row, design in zip(results.rows(), results.designs, strict=True):
        measures = {k: value for k, value in row.items() if k != "name"}
        text += f">{name}_{row['number']} {_said(measures)}\n{_chains(design)}\n"
    return text


def confidence_rows(results: Results) -> list[list[Any]]:
    """Of each residue: chain, label, native letter, 1 if it was designed, then each design's letter and confidence."""
    structure, designs = results.task.structure, results.designs
    numbers = range(1, len(designs) + 1)
    head = ["chain", "residue", "native", "designed", *(f"{x}_{i}" for i in numbers for x in ("design", "confidence"))]
    rows: list[list[Any]] = [head]
    for row, letter in enumerate(structure.letters()):
        own = [structure.chains[structure.chain[row]], structure.labels[row], letter, int(designs[0].free[row])]
        rows.append([*own, *(x for d in designs for x in (d.sequence[row], _confidence(d, row)))])
    return rows


def _confidence(design: Designed, row: int) -> str:
    return "" if design.confidence is None else f"{design.confidence[row]:.4f}"


def _chains(design: Designed) -> str:
    return chains_of(design.sequence, design.chain)


def _said(measures: Mapping[str, Any]) -> str:
    """name=value for all that is known."""
    return " ".join(f"{name}={plain}" for name, value in measures.items() if (plain := _plain(value)) != "")


def _plain(value: Any) -> Any:
    """A float with four decimals, or nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.4f}"


def _table(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def summary(results: Sequence[Results]) -> str:
    """What was made and measured, in one line."""
    rows, count = [row for result in results for row in result.rows()], len(results[0].designs)
    of = results[0].task.structure.name if len(results) == 1 else f"each of {len(results)} structures"
    found = {name: _mean([row[name] for row in rows]) for name in ("recovery", "score")}
    found["native score"] = _mean([result.native for result in results])
    said = [f"{name} {value:.3f}" for name, value in found.items() if not math.isnan(value)]
    return ", ".join([f"{count} design{'s' * (count > 1)} of {of}", *said])


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def recovery(design: Designed) -> float:
    """Share of the designed residues that are as in the native sequence, unknown native ones apart; NaN if there are none."""
    pairs = zip(design.sequence, design.native, design.free, strict=True)
    same = [a == b for a, b, free in pairs if free and b != "X"]
    return float(np.mean(same)) if same else float("nan")


def log_likelihood(design: Designed) -> float:
    """Mean log of the probability that the network gave each designed residue when it was revealed, in nats.

    It is of the network as it was sampled from: with bias and guidance, at temperature 1.
    """
    if design.confidence is None or not design.free.any():
        return float("nan")
    return float(np.log(design.confidence[design.free].astype(np.float64).clip(min=1e-30)).mean())
