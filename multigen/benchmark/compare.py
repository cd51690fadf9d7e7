"""Arms of an experiment beside one another: what each reached over its seeds, and how many steps it needed for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from multigen.benchmark.bootstrap import interval
from multigen.benchmark.figure import draw
from multigen.benchmark.notes import denoising, notes
from multigen.benchmark.table import table
from multigen.files import nearest, to_json, write_json, write_text
from multigen.report.record import Record, read
from multigen.state import MultigenError

FORMAT = 1
"""Version of `comparison.json`."""

Folders = Sequence[Path | str]
Curve = tuple[Sequence[float], Sequence[float]]
"""Steps (or seconds, or FLOPs), in increasing order, and the value at each."""


def arms(given: Mapping[str, Folders] | Folders, by: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Arm -> run folders. Wildcards are filled in; without names of arms, an arm is all runs of one experiment.

    Args:
        given: folders, or those of each arm.
        by: dotted keys of settings: runs of one experiment in which they differ are different arms.

    Raises:
        MultigenError: nothing matches, or a folder is no run's.
    """
    if isinstance(given, Mapping):
        return {str(name): _folders([folders] if isinstance(folders, str) else folders) for name, folders in given.items()}
    found: dict[str, list[Path]] = {}
    names = _ends(by)
    for folder in _folders([given] if isinstance(given, str) else given):
        record = read(folder)
        differing = [f"{name}={record.setting(key)}" for key, name in zip(by, names, strict=True)]
        found.setdefault(", ".join([record.title, *differing]), []).append(folder)
    return found


def _ends(keys: Sequence[str]) -> list[str]:
    """As many of the last parts of dotted keys as tell them apart."""
    cut = ([".".join(key.split(".")[-count:]) for key in keys] for count in itertools.count(1))
    return next(ends for ends in cut if len(set(ends)) == len(set(keys)))


def _folders(patterns: Folders) -> list[Path]:
    found: list[Path] = []
    for pattern in map(Path, patterns):
        wild = set("*?[") & set(str(pattern))
        matches = sorted(p for p in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))) if p.is_dir())
        if wild and not matches:
            raise MultigenError(f"no run folder matches {pattern}")
        found += matches if wild else [pattern]
    return list(dict.fromkeys(found))


def compare(groups: Mapping[str, Folders], baseline: str | None = None) -> dict[str, Any]:
    """What the runs of each arm reached, as JSON values.

    Held-out losses are compared where every arm has them: the parts that all of them train on, not totals whose terms and
    weights differ.

    Args:
        groups: arm -> folders of its runs, one for each seed.
        baseline: the arm whose final loss the others try to reach; by default the only one that aligns to nothing, else the
            first.

    Returns:
        ``arms`` (runs, seeds, steps; the baseline first), ``measures`` (name -> arm -> values of the runs, mean, std),
        ``real`` (measures of real data), ``steps_to_baseline`` (see `reaching`), ``curves``, and ``notes``: what makes it
        unfair or incomplete.

    Raises:
        MultigenError: an arm has no runs, a folder is no run's, or the baseline is unknown.
    """
    if empty := [name for name, folders in groups.items() if not folders]:
        raise MultigenError(f"arm {empty[0]!r} has no runs")
    runs = {name: [read(folder) for folder in folders] for name, folders in groups.items()}
    base = _baseline(runs, baseline)
    runs = {base: runs[base]} | runs
    shared = _shared(runs)
    final = {key: {name: [_last(r.series(key)) for r in arm] for name, arm in runs.items()} for key in shared}
    return {
        "format": FORMAT,
        "baseline": base,
        "arms": {name: _about(arm) for name, arm in runs.items()},
        "measures": {key: {n: summary(v) for n, v in arm.items()} for key, arm in (final | _evaluated(runs)).items()},
        "real": _real(runs),
        "steps_to_baseline": {
            key: reaching({n: [r.series(key) for r in a] for n, a in runs.items()}, base, key.endswith("/accuracy"))
            for key in shared
        },
        "curves": {key: {name: band([r.series(key) for r in arm]) for name, arm in runs.items()} for key in shared},
        "notes": notes(runs),
    }


def write_comparison(groups: Mapping[str, Folders], folder: Path | str, baseline: str | None = None) -> str:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png`` into `folder`; returns the table."""
    result = compare(groups, baseline)
    write_json(Path(folder) / "comparison.json", result)
    draw(result, Path(folder) / "comparison.png")
    text = table(result)
    write_text(Path(folder) / "comparison.md", text)
    return text


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of the runs that have a value; None where there are too few."""
    known = [x for x in values if x is not None]
    return {
        "values": list(values),
        "mean": mean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
    }


def reaching(curves: Mapping[str, Sequence[Curve]], baseline: str, rising: bool = False) -> dict[str, Any]:
    """Steps that each run needs to come to the baseline's mean final value.

    Args:
        rising: the larger, the better.

    Returns:
        ``target``: that value; ``baseline_steps``: where the baseline comes to it, runs that end above it counted at their
        ends; and for each arm ``steps`` of each run, None where it was not reached, how many runs ``reached`` it, and whether
        one was there when first looked at (``at_most``: it may have been sooner). Their ``mean``, its bootstrap ``interval``
        and the ``ratio`` (baseline's steps over the mean) are None unless all did: a mean over the quicker runs would flatter.
        Curves over seconds or FLOPs are treated alike.
    """
    target, sign = mean(values[-1] for _, values in curves[baseline]), -1 if rising else 1
    steps = {name: [reached(curve, target, sign) for curve in arm] for name, arm in curves.items()}
    ends = [at[-1] for at, _ in curves[baseline]]
    start = mean(end if step is None else step for step, end in zip(steps[baseline], ends, strict=True))
    return {
        "target": target,
        "baseline_steps": start,
        "arms": {name: _reached(found, curves[name], start) for name, found in steps.items()},
    }


def reached(curve: Curve, target: float, sign: int) -> float | None:
    """`first_step` of a curve that falls (`sign` 1) or rises (-1)."""
    return first_step((curve[0], [sign * x for x in curve[1]]), sign * target)


def at_once(steps: Sequence[float | None], curves: Sequence[Curve]) -> bool:
    """Whether any curve was there when first looked at: it may have been sooner."""
    return any(step == at[0] for step, (at, _) in zip(steps, curves, strict=True))


def _reached(steps: Sequence[float | None], curves: Sequence[Curve], start: float) -> dict[str, Any]:
    known = [s for s in steps if s is not None]
    found = summary(steps) if len(known) == len(steps) else {"mean": None, "std": None}
    average = found["mean"]
    return {
        "steps": list(steps),
        "reached": len(known),
        "runs": len(steps),
        "at_most": at_once(steps, curves),
        "mean": average,
        "std": found["std"],
        "interval": interval(steps),
        "ratio": start / average if average else None,
    }


def first_step(curve: Curve, target: float) -> float | None:
    """Where a curve first comes down to `target`, by linear interpolation; None if it never does.

    A curve that begins below is there at its first step at the latest.

    >>> first_step(([0, 10, 20], [3.0, 2.0, 1.0]), 1.5)
    15.0
    """
    before: tuple[float, float] | None = None
    for step, value in zip(*curve, strict=True):
        if value <= target:
            return float(step) if before is None else step - (step - before[0]) * (target - value) / (before[1] - value)
        before = (step, value)
    return None


def band(curves: Sequence[Curve]) -> dict[str, Any]:
    """Mean and sample standard deviation at the steps that all runs have; ``std`` is None for a single run."""
    common = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    at = [dict(zip(*curve, strict=True)) for curve in curves]
    points = [summary([values[step] for values in at]) for step in common]
    spread = [p["std"] for p in points] if len(curves) > 1 else None
    return {"steps": common, "mean": [p["mean"] for p in points], "std": spread}


# ------------------------------------------------------------------------------------------------------- out of run folders


def _baseline(runs: Mapping[str, Sequence[Record]], name: str | None) -> str:
    if name is not None and name not in runs:
        raise MultigenError(f"there is no arm {name!r} to compare with: {nearest(name, runs)}")
    unguided = [arm for arm, found in runs.items() if not any(_aligned(run) for run in found)]
    return name or (unguided[0] if len(unguided) == 1 else next(iter(runs)))


def _aligned(run: Record) -> bool:
    terms = run.config.get("objective", {}).get("terms", {})
    return any("target" in term for term in terms.values())


def _shared(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    """Parts of the held-out loss that every run logged; sums of them only where all runs have the same parts, and shares."""
    everyone = [run for arm in runs.values() for run in arm]
    known = [key for key in everyone[0].keys("valid/") if all(run.series(key)[0] for run in everyone)]
    alike = len({to_json(denoising(run.config)) for run in everyone}) == 1
    return [key for key in known if alike or not any(other.startswith(f"{key}/") for other in known)]


def _last(curve: Curve) -> float:
    return curve[1][-1]


def _about(arm: Sequence[Record]) -> dict[str, Any]:
    return {
        "runs": [str(run.folder) for run in arm],
        "seeds": [run.config.get("seed") for run in arm],
        "steps": [run.steps for run in arm],
    }


def _evaluated(runs: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, list[float | None]]]:
    """Measure of the evaluation -> arm -> value of each run."""
    names = dict.fromkeys(k for arm in runs.values() for run in arm for k in run.evaluation.get("metrics", {}))
    measured = [k for k in names if not k.endswith(("_std", "_real"))]
    return {k: {n: [run.evaluation.get("metrics", {}).get(k) for run in arm] for n, arm in runs.items()} for k in measured}


def _real(runs: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """The same measures of real data, where the evaluations know them."""
    metrics = [run.evaluation.get("metrics", {}) for arm in runs.values() for run in arm]
    names = dict.fromkeys(k for values in metrics for k, v in values.items() if k.endswith("_real") and v is not None)
    return {k.removesuffix("_real"): mean(v[k] for v in metrics if v.get(k) is not None) for k in names}
