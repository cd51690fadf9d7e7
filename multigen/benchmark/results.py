"""Run folders to numbers: what was logged, `collect`, and what follows from it, `derive`.

What is collected is all that figures, tables and words are made of; the run folders are then needed for pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from multigen.benchmark.bootstrap import apart, estimate
from multigen.benchmark.compare import Curve, band, first_step, reaching
from multigen.benchmark.notes import differences
from multigen.benchmark.suite import Quality, Run, Suite
from multigen.files import read_json
from multigen.report.record import Record, read

FORMAT = 1
"""Version of `results.json`."""
AGAIN = "-again"
"""Ends the name of a run that repeats another."""
QUARTERS = (0.25, 0.5, 0.75, 1.0)

# ------------------------------------------------------------------------------------------------------------------ collecting


def collect(folder: Path, suite: Suite) -> dict[str, Any]:
    """All that the runs of a benchmark have logged so far, as JSON values.

    Returns:
        ``suite``: every setting of it; ``configs``: arm -> complete configuration (of its first seed); ``runs``: name -> arm,
        seed, ``step``, ``curves`` (logged number -> [steps, values]), ``clock`` (see `clock`), ``start`` (see
        `multigen.benchmark.start`), ``grids`` (step -> picture, below the folder) and ``real``; ``initial``: share of the
        baseline's initial tensors that an arm's network has; ``again``: the repeated run, see `repeated`; ``state``: how it
        ended; ``notes``: what else is not the same in all runs.
    """
    found = {run: read(folder / "runs" / run.name) for run in suite.runs if (folder / "runs" / run.name).is_dir()}
    records = {arm: [r for run, r in found.items() if run.arm == arm] for arm in suite.arms}
    began = {run: _start(record) for run, record in found.items()}
    return {
        "format": FORMAT,
        "suite": asdict(suite),
        "configs": {arm: some[0].config for arm, some in records.items() if some},
        "runs": {run.name: _run(run, record, began[run], folder) for run, record in found.items()},
        "initial": _initial(suite, began),
        "again": repeated(folder, suite),
        "state": read_json(folder / "state.json") if (folder / "state.json").is_file() else {},
        "notes": [] if len(records) < 2 else differences({arm: some for arm, some in records.items() if some}),
    }


def _start(record: Record) -> dict[str, Any]:
    path = record.folder / "start.json"
    return read_json(path) if path.is_file() else {}


def _run(run: Run, record: Record, start: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    keys = [*record.keys("valid"), *record.keys("sample/")]
    real = record.folder / "samples" / "real.png"
    return {
        "arm": run.arm,
        "seed": run.seed,
        "step": record.steps,
        "curves": {key: list(record.series(key)) for key in keys},
        "clock": clock(record),
        "start": {k: x for k, x in start.items() if k != "initial"},
        "grids": {str(step): path.relative_to(folder).as_posix() for step, path in record.grids()},
        "real": real.relative_to(folder).as_posix() if real.is_file() else None,
    }


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
    """How far a second run of one arm and seed gave the same numbers: losses in training, held-out ones, samples' measures."""
    run = suite.repeated
    if run is None or not (folder / "runs" / f"{run.name}{AGAIN}").is_dir():
        return None
    first, again = read(folder / "runs" / run.name), read(folder / "runs" / f"{run.name}{AGAIN}")
    pairs = [
        (row[key], again.rows[step].get(key))
        for step, row in first.rows.items()
        for key in row
        if step in again.rows and key.startswith(("loss", "valid", "sample/"))
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    largest = max((abs(a - b) for a, b in known), default=None)
    return {"run": run.name, "steps": again.steps, "compared": len(known), "largest_difference": largest}


# -------------------------------------------------------------------------------------------------------------------- deriving


def derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from what was collected.

    Compared are the seeds that all arms have finished; if there is none, the first seed as far as all arms have come.

    Returns:
        ``seeds`` and ``end``: what is compared, and up to which step; ``quality``: see `_quality`, for each of the suite;
        ``cost``: see `_cost`; ``same_batches``: whether all runs of a seed saw the same examples under the same keys;
        ``finished``: runs at their last step, of all.
    """
    suite, runs = raw["suite"], list(raw["runs"].values())
    seeds, end = _compared(suite, runs)
    used = {arm: [r for r in runs if r["arm"] == arm and r["seed"] in seeds] for arm in _order(suite)}
    used = {arm: some for arm, some in used.items() if some}
    alike = {arm for arm in used if _processes(raw, arm) == _processes(raw, suite["baseline"])}
    found = (
        _quality(Quality(**q), {a: r for a, r in used.items() if a in alike or not q["of"].startswith("valid")}, suite, end)
        for q in suite["quality"]
    )
    return {
        "seeds": seeds,
        "end": end,
        "quality": [quality for quality in found if quality],
        "not_comparable": [arm for arm in used if arm not in alike],
        "cost": {arm: _cost(some) for arm, some in used.items()},
        "same_batches": _same_batches(runs),
        "finished": [sum(r["step"] >= suite["steps"] for r in runs), len(suite["arms"]) * len(suite["seeds"])],
    }


def _order(suite: Mapping[str, Any]) -> list[str]:
    """The baseline first."""
    return [suite["baseline"], *(arm for arm in suite["arms"] if arm != suite["baseline"])]


def _processes(raw: Mapping[str, Any], arm: str) -> set[str]:
    """Components: a network that also sees another one's noisy version has an easier task, and another loss."""
    return set(raw["configs"].get(arm, {}).get("processes", {}))


def _compared(suite: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], int]:
    reached = {seed: [r["step"] for r in runs if r["seed"] == seed] for seed in suite["seeds"]}
    least = {seed: min(steps) if len(steps) == len(suite["arms"]) else 0 for seed, steps in reached.items()}
    if whole := [seed for seed, step in least.items() if step >= suite["steps"]]:
        return whole, suite["steps"]
    best = max(least, key=lambda seed: least[seed])
    return [best], least[best]


def _quality(
    quality: Quality, runs: Mapping[str, Sequence[Mapping[str, Any]]], suite: Mapping[str, Any], end: int
) -> dict[str, Any] | None:
    """One number: of each arm its final value, the difference to the baseline seed by seed, and its curve; how soon each came
    to the baseline's mean final value, in ``steps``, ``seconds`` and ``flops``, the latter two without and with teachers; and
    EP@k, the epochs to reach values k.

    None if the baseline has no such number yet.
    """
    arms = {arm: [curve for r in some if (curve := _curve(r, quality.of, end))[0]] for arm, some in runs.items()}
    arms = {arm: curves for arm, curves in arms.items() if len(curves) == len(runs[arm])}
    base = suite["baseline"]
    if base not in arms:
        return None
    final = {arm: [values[-1] for _, values in curves] for arm, curves in arms.items()}
    curves = {axis: _along(axis, arms, runs) for axis in AXES}
    return {
        **asdict(quality),
        "arms": {
            arm: _arm(final[arm], final[base], quality.rising, arm == base) | {"curve": _band(arms[arm], runs[arm])}
            for arm in arms
        },
        "reach": {axis: reaching(found, base, quality.rising) for axis, found in curves.items() if found},
        "levels": [_level(k, arms, runs, quality.rising) for k in quality.levels or _quarters(arms[base])],
    }


def _curve(run: Mapping[str, Any], key: str, end: int) -> Curve:
    steps, values = run["curves"].get(key, ([], []))
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if step <= end]
    return [step for step, _ in kept], [value for _, value in kept]


def _arm(final: Sequence[float], base: Sequence[float], rising: bool, itself: bool) -> dict[str, Any]:
    """Gains count upwards where more is worse too. Two arms are separated when their intervals share no value."""
    ours, theirs = estimate(final), estimate(base)
    gain = [(a - b) * (1 if rising else -1) for a, b in zip(final, base, strict=True)]
    separated = apart(ours["interval"], theirs["interval"])
    ahead = sum(gain) > 0
    return {
        "final": ours,
        "gain": None if itself else estimate(gain),
        "standing": "baseline" if itself else ("better" if ahead else "worse") if separated else "not separated",
    }


def _band(curves: Sequence[Curve], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds, with the mean seconds and FLOPs of the same steps."""
    found = band(curves)
    amounts = {axis: [AXES[axis](run, found["steps"]) for run in runs] for axis in ("seconds", "flops")}
    means = {axis: None if None in some else np.mean(some, 0).tolist() for axis, some in amounts.items()}
    return {**found, **means}


Axis = Callable[[Mapping[str, Any], Sequence[float]], list[float] | None]


def _seconds(run: Mapping[str, Any], steps: Sequence[float]) -> list[float] | None:
    at, seconds = run["clock"]
    return np.interp(steps, [0, *at], [0.0, *seconds]).tolist() if at else None


def _flops(run: Mapping[str, Any], steps: Sequence[float]) -> list[float] | None:
    each = run["start"].get("flops_per_step")
    return None if each is None else [step * each for step in steps]


def _with_teacher(axis: Axis, unit: str) -> Axis:
    def found(run: Mapping[str, Any], steps: Sequence[float]) -> list[float] | None:
        alone, teacher = axis(run, steps), taught(run, unit, steps)
        return None if alone is None or teacher is None else [a + b for a, b in zip(alone, teacher, strict=True)]

    return found


AXES: Mapping[str, Axis] = {
    "steps": lambda run, steps: list(steps),
    "seconds": _seconds,
    "flops": _flops,
    "seconds_with_teacher": _with_teacher(_seconds, "seconds_per_example"),
    "flops_with_teacher": _with_teacher(_flops, "flops_per_example"),
}
"""What progress is counted in: a run's amount at some steps; None where it is not known."""


def taught(run: Mapping[str, Any], unit: str, steps: Sequence[float]) -> list[float] | None:
    """What teachers cost up to some steps: all training examples once where targets are cached, else those of every step."""
    teacher, start = run["start"].get("teacher"), run["start"]
    if teacher is None:
        return [0.0] * len(steps)
    if (each := teacher[unit]) is None:
        return None
    if teacher["kept"]:
        return [each * start["train_examples"]] * len(steps)
    return [each * start["examples_per_step"] * step for step in steps]


def _along(
    axis: str, arms: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[Curve]]:
    """The curves over another axis; {} if a run does not know it."""
    found: dict[str, list[Curve]] = {arm: [] for arm in arms}
    for arm, curves in arms.items():
        for run, (steps, values) in zip(runs[arm], curves, strict=True):
            amount = AXES[axis](run, steps)
            if amount is None:
                return {}
            found[arm].append((amount, values))  # type: ignore[arg-type]
    return found


def _quarters(curves: Sequence[Curve]) -> list[float]:
    """The baseline's mean values at each quarter of its run: levels that it is known to reach."""
    mean = band(curves)
    at = [mean["steps"][-1] * share for share in QUARTERS]
    return list(dict.fromkeys(np.interp(at, mean["steps"], mean["mean"]).tolist()))


def _level(
    k: float, arms: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Mapping[str, Any]]], rising: bool
) -> dict[str, Any]:
    """EP@k: epochs to reach `k`, of each arm."""
    sign = -1 if rising else 1
    found: dict[str, list[float | None]] = {}
    for arm, curves in arms.items():
        steps = [first_step((at, [sign * x for x in values]), sign * k) for at, values in curves]
        pairs = zip(steps, runs[arm], strict=True)
        found[arm] = [None if step is None else step * epochs(run) for step, run in pairs]
    return {"k": k, "arms": {arm: estimate(values) for arm, values in found.items()}}


def epochs(run: Mapping[str, Any]) -> float:
    """Of one step."""
    return run["start"].get("examples_per_step", 0.0) / max(run["start"].get("train_examples", 1), 1)


def _cost(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of an arm: seconds and FLOPs of a step, parameters, and what its teachers cost in the whole run."""
    first = runs[0]["start"]
    seconds = [run["clock"][1][-1] / run["clock"][0][-1] for run in runs if run["clock"][0]]
    steps = [run["step"] for run in runs][:1]
    return {
        "step_seconds": median(seconds) if seconds else None,
        "flops_per_step": first.get("flops_per_step"),
        "parameters": first.get("parameters"),
        "teacher": {
            unit.partition("_")[0]: found[0] if (found := taught(runs[0], unit, steps)) else None
            for unit in ("seconds_per_example", "flops_per_example")
        },
    }


def _same_batches(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Of each seed: the same keys, and the same clean data wherever arms have the same component."""
    seen: dict[tuple[int, str], set[str]] = {}
    for run in runs:
        for name, digest in run["start"].get("batches", {}).items():
            seen.setdefault((run["seed"], name), set()).add(digest)
    return all(len(digests) == 1 for digests in seen.values())
