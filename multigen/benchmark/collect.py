"""Run folders to JSON values: all that a benchmark's runs have logged.

Numbers, figures, tables and words are made of nothing else; the run folders are then needed for pictures alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from multigen.benchmark.notes import differences
from multigen.benchmark.runner import saved
from multigen.benchmark.suite import Run, Suite
from multigen.files import read_json
from multigen.report.record import Record, read

FORMAT = 1
"""Version of `results.json`."""
AGAIN = "-again"
"""Ends the name of a run that repeats another."""


def collect(folder: Path, suite: Suite) -> dict[str, Any]:
    """All that the runs of a benchmark have logged so far, as JSON values.

    Returns:
        ``suite``: every setting of it; ``configs``: arm -> complete configuration (of its first seed); ``runs``: name -> arm,
        seed, ``step`` (the last one saved: what belongs to it is all logged), ``curves`` (logged number -> [steps, values]),
        ``clock`` (see `clock`), ``start`` (see `multigen.benchmark.start`, with the data), ``versions`` (from which
        ``step`` with which program and libraries), ``grids`` (step -> picture) and ``real``;
        ``initial``: share of the baseline's initial tensors that an arm's network has; ``again``: the repeated run, see
        `repeated`; ``state``: how it ended; ``notes``: what else is not the same in all runs.
    """
    found = {run: read(folder / "runs" / run.name) for run in suite.runs if (folder / "runs" / run.name).is_dir()}
    records = {arm: [r for run, r in found.items() if run.arm == arm] for arm in suite.arms}
    began = {run: _start(record) for run, record in found.items()}
    return {
        "format": FORMAT,
        "suite": asdict(suite),
        "configs": {arm: _config(some[0], folder) for arm, some in records.items() if some},
        "runs": {run.name: _run(run, record, began[run], folder) for run, record in found.items()},
        "initial": _initial(suite, began),
        "again": repeated(folder, suite),
        "state": read_json(folder / "state.json") if (folder / "state.json").is_file() else {},
        "notes": [] if len(records) < 2 else differences({arm: some for arm, some in records.items() if some}),
    }


def _config(record: Record, folder: Path) -> dict[str, Any]:
    """The run's place is told from the benchmark's folder, which may be moved or published."""
    return {**record.config, "run": record.folder.relative_to(folder).as_posix()}


def _start(record: Record) -> dict[str, Any]:
    path = record.folder / "start.json"
    return read_json(path) if path.is_file() else {}


def _run(run: Run, record: Record, start: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    keys = [*record.keys("valid"), *record.keys("sample/")]
    real = record.folder / "samples" / "real.png"
    return {
        "arm": run.arm,
        "seed": run.seed,
        "step": saved(record.folder),
        "curves": {key: list(record.series(key)) for key in keys},
        "clock": clock(record),
        "start": {k: x for k, x in start.items() if k != "initial"},
        "versions": _versions(record, start),
        "grids": {str(step): path.relative_to(folder).as_posix() for step, path in record.grids()},
        "real": real.relative_to(folder).as_posix() if real.is_file() else None,
    }


def _versions(record: Record, start: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From which step with which: more than one where it went on with others."""
    path = record.folder / "parts.json"
    began = [{"step": 0, "versions": start["versions"]}] if start else []
    return read_json(path) if path.is_file() else began


def clock(record: Record) -> list[list[float]]:
    """Steps, and the seconds of training (looking on apart) that they took from the beginning."""
    steps, each = record.series("step_seconds")
    made = np.diff([0, *steps])  # (n,)
    return [list(map(float, steps)), np.cumsum(made * np.asarray(each)).tolist()]


def _initial(suite: Suite, began: Mapping[Run, Mapping[str, Any]]) -> dict[str, float]:
    """Arm -> share of the baseline's tensors with which its network begins too, the least over seeds."""
    shares: dict[str, list[float]] = {}
    for run, start in began.items():
        base = set(began.get(Run(suite.baseline, run.seed), {}).get("initial", {}).items())
        if base and start:
            shares.setdefault(run.arm, []).append(len(base & set(start["initial"].items())) / len(base))
    return {arm: min(found) for arm, found in shares.items()}


def repeated(folder: Path, suite: Suite) -> dict[str, Any] | None:
    """How far a second run of one arm and seed gave the same numbers: losses in training, held-out ones, samples' measures.

    Returns:
        ``run``; ``steps`` of the second one; ``compared``: how many numbers both logged, and the ``largest_difference``
        between them; ``missing``: how many more only one has, as the other logged nan or nothing. These are not the same.
    """
    run = suite.repeated
    if run is None or not (folder / "runs" / f"{run.name}{AGAIN}").is_dir():
        return None
    first, again = read(folder / "runs" / run.name), read(folder / "runs" / f"{run.name}{AGAIN}")
    whole = min(saved(first.folder), saved(again.folder))  # what belongs to later steps need not be logged yet
    pairs = [
        (a.get(key), b.get(key))
        for step in sorted({*first.rows, *again.rows})
        for a, b in [(first.rows.get(step, {}), again.rows.get(step, {}))]
        for key in {**a, **b}
        if key.startswith(("loss", "valid", "sample/")) and (step <= whole or (key in a and key in b))
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    missing = sum((a is None) != (b is None) for a, b in pairs)
    largest = max((abs(a - b) for a, b in known), default=None)
    return {"run": run.name, "steps": again.steps, "compared": len(known), "missing": missing, "largest_difference": largest}
