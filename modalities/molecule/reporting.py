"""What the page of a run of molecules has besides what all have: two tables of stability, refusals, completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modalities.molecule.valence import TABLES
from multigen.files import read_json
from multigen.report import Part, Record, Section
from multigen.report.blocks import Block, Cell, Gallery, Table, Text, number, png

SUMMARY, PICTURE = "summary.json", "completions.png"
"""What ``multigen complete --out RUN/NAME`` leaves in a run's folder."""
ROWS = {"atom_stability": "atoms with a valence that is allowed", "molecule_stability": "molecules of such atoms alone"}


def parts() -> list[Part]:
    return [chemistry, completions]


def chemistry(run: Record) -> Section | None:
    """Stability by two tables, and why RDKit refuses samples."""
    found = [*_stability(run), *_reasons(run)]
    return Section("Valences", found) if found else None


def _stability(run: Record) -> list[Block]:
    values = run.evaluation.get("metrics", {})
    measured = [name for name in ROWS if all(f"{name}_{table}" in values for table in TABLES)]
    if not measured:
        return []
    header = ["Share of", *(f"{table}, {what}" for table in TABLES for what in ("samples", "real data"))]
    rows = [[Cell(ROWS[name]), *(cell for table in TABLES for cell in _pair(values, f"{name}_{table}"))] for name in measured]
    note = "legacy is the table of the literature, corrected takes aromatic bonds apart; ± is over three parts of the samples"
    return [Table(header, rows, note, numeric=range(1, len(header)))]


def _pair(values: dict[str, Any], name: str) -> list[Cell]:
    """Of samples with its deviation, and of real data."""
    spread = values.get(f"{name}_std")
    return [
        Cell(number(values[name]), "" if spread is None else f"± {number(spread)}"),
        Cell(number(values.get(f"{name}_real"))),
    ]


def _reasons(run: Record) -> list[Block]:
    """Every reason that was given, with its share of the samples that were measured."""
    about = run.evaluation.get("about_metrics", {})
    one = next((one for one in about.values() if "reasons" in one), None)
    if one is None:
        return []
    if not (reasons := dict(one["reasons"])):
        return [Text("RDKit refuses no sample.")]
    total = _measured(run, one) or sum(reasons.values())
    rows = [[Cell(reason), Cell(f"{n:,}"), Cell(f"{n / total:.1%}")] for reason, n in reasons.items()]
    return [Table(["Why RDKit refuses a sample", "Samples", "Share"], rows, numeric=(1, 2))]


def _measured(run: Record, about: dict[str, Any]) -> int:
    """Samples that a metric has seen, which may be limited; 0 where it is not known."""
    count, limit = run.evaluation.get("samples", {}).get("count") or 0, about.get("settings", {}).get("limit")
    return min(count, limit or count)


def completions(run: Record) -> Section | None:
    """What ``multigen complete`` wrote below the run's folder."""
    folders = sorted(path.parent for path in run.folder.glob(f"*/{SUMMARY}") if (path.parent / PICTURE).is_file())
    pictures = [png(folder / PICTURE, said := _said(folder), said) for folder in folders]
    return Section("Completions of fragments", [Gallery(pictures, 1)]) if pictures else None


def _said(folder: Path) -> str:
    s = read_json(folder / SUMMARY)
    return (
        f"{Path(str(s.get('fragment'))).name} with {s.get('add')} atoms more: {s.get('completions')} completions, "
        f"{s.get('valid_connected')} of them valid and connected; what was given is coloured"
    )
