"""What others report beside what was measured, where a suite's file says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from multigen.benchmark.axes import epochs
from multigen.report.blocks import MISSING, Cell, Table, number


def published(found: Mapping[str, Any]) -> Table | None:
    """One row for each arm that others report on, one column for each step or epoch; ours are in brackets.

    Args:
        found: with ``suite["about"]``: ``expected`` (arm -> step or epoch -> value), ``of`` (the number that it is of), ``by``
            ("steps" or "epochs"), ``unit`` (one of theirs is so much of ours, 0.01 for per cent) and ``source``.

    Returns:
        None where nothing is known.
    """
    about = found["suite"].get("about") or {}
    given = about.get("expected") or {}
    known = {arm: {int(k): x for k, x in marks.items()} for arm, marks in given.items() if isinstance(marks, Mapping)}
    if not known or "of" not in about:
        return None
    by, unit = about.get("by", "steps"), float(about.get("unit", 1.0))
    marks = sorted({mark for some in known.values() for mark in some})
    header = ["published", *(f"{mark:,} {by}" for mark in marks)]
    rows = [
        [Cell(arm), *(_cell(some.get(mark), _here(found, arm, mark, by, unit)) for mark in marks)]
        for arm, some in known.items()
    ]
    return Table(header, rows, f"{about['of']}: {about.get('source', '')}; in brackets, here", numeric=range(1, len(header)))


def _cell(theirs: float | None, ours: float | None) -> Cell:
    return Cell(MISSING if theirs is None else number(theirs), "" if ours is None else number(ours))


def _here(found: Mapping[str, Any], arm: str, mark: float, by: str, unit: float) -> float | None:
    """Our mean at the same place, between looks by interpolation; None where it has not come so far."""
    quality = next((q for q in found["quality"] if q["of"] == found["suite"]["about"]["of"]), None)
    run = next((r for r in found["runs"].values() if r["arm"] == arm and r["start"]), None)
    if quality is None or run is None or arm not in quality["arms"]:
        return None
    curve = quality["arms"][arm]["curve"]
    step = mark / epochs(run) if by == "epochs" else mark
    if not curve["steps"] or not curve["steps"][0] <= step <= curve["steps"][-1]:
        return None
    return float(np.interp(step, curve["steps"], curve["mean"])) / unit
