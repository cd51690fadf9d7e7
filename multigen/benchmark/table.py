"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigen.report.blocks import Cell, Table, number


def table(comparison: Mapping[str, Any]) -> str:
    """One column for each arm, one row for each measure; below it what has to be known to read it."""
    arms = comparison["arms"]
    header = ["", *arms, "real data"]
    rows = [["runs", *(str(len(about["runs"])) for about in arms.values()), ""]]
    for key, of in comparison["measures"].items():
        rows.append([f"{'final ' * key.startswith('valid/')}{key}", *map(_value, of.values()), _real(comparison, key)])
    for key, found in comparison["steps_to_baseline"].items():
        rows.append([f"steps to {key} of {number(found['target'])}", *map(_steps, found["arms"].values()), ""])
    lines = [_row(header), _row(["---", *["---:"] * (len(header) - 1)]), *map(_row, rows)]
    return "\n".join([*lines, "", *_words(comparison)]) + "\n"


def markdown(found: Table) -> str:
    """A report's table; notes in brackets."""
    ruler = ["---:" if i in found.numeric else "---" for i in range(len(found.header))]
    return "\n".join([_row(found.header), _row(ruler), *(_row([_text(cell) for cell in row]) for row in found.rows)])


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def _real(comparison: Mapping[str, Any], key: str) -> str:
    return number(comparison["real"][key]) if key in comparison["real"] else ""


def _value(found: Mapping[str, Any]) -> str:
    known = [x for x in found["values"] if x is not None]
    missing = f" ({len(known)} of {len(found['values'])} runs)" if 0 < len(known) < len(found["values"]) else ""
    return _mean(found) + missing


def _mean(found: Mapping[str, Any]) -> str:
    return number(found["mean"]) + (f" ± {number(found['std'])}" if found["std"] is not None else "")


def _steps(found: Mapping[str, Any]) -> str:
    if found["mean"] is not None:
        return f"{_mean(found)} ({found['ratio']:.2f}x)"
    some = f" by {found['runs'] - found['reached']} of {found['runs']} runs" if found["reached"] else ""
    return f"not reached{some}"


def _words(comparison: Mapping[str, Any]) -> Sequence[str]:
    said = [
        "Mean ± standard deviation over runs. Steps: to the mean final value of "
        f"{comparison['baseline']}, interpolated between measurements; in brackets, the baseline's steps over them.",
        *(f"Note: {note}." for note in comparison["notes"]),
    ]
    return [line for text in said for line in (text, "")][:-1]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
