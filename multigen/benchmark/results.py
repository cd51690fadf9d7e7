"""What follows from what a benchmark's runs have logged (`multigen.benchmark.collect`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from math import exp, log
from statistics import median
from typing import Any

import numpy as np

from multigen.benchmark.axes import AXES, epochs, taught
from multigen.benchmark.bootstrap import apart, clearly, estimate, student
from multigen.benchmark.compare import Curve, at_once, band, reached, reaching
from multigen.benchmark.notes import denoising
from multigen.benchmark.suite import Quality, Run
from multigen.files import to_json

QUARTERS = (0.25, 0.5, 0.75)
"""Shares of the baseline's run whose values are the levels k of EP@k by default; what it ends at is `reach`'s."""
NEAR = 0.9
"""A seed that is so far as the furthest is compared with it."""
DENOISING = "valid/denoise"


def derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from what was collected.

    Compared are the arms that have begun, over the seeds that all of these have finished; if there is none, over those that
    are about as far as the furthest, up to where all are. An arm that came to no end is left out where others did.

    Returns:
        ``seeds`` and ``end``: what is compared, and up to which step; ``left_out``: arms without a step; ``behind``: arms
        that have begun and are left out; ``quality``: see `_quality`, for each of the suite that the baseline has;
        ``unknown``: those that it has not; ``not_comparable``: arms with other components than the baseline's, without
        held-out losses; ``other_losses``: arms whose denoising losses are others, without these; ``uncounted``: arms of which
        no FLOPs are known; ``cost``: see `_cost`; ``pace``: see `_pace`; ``same_batches``: whether all runs of a seed saw the
        same examples under the same keys; ``finished``: runs at their last step, of all.
    """
    suite, runs = raw["suite"], _alike_teachers(list(raw["runs"].values()), raw["configs"])
    begun = [arm for arm in _order(suite) if any(r["step"] for r in runs if r["arm"] == arm)]
    behind = _behind(raw, begun)
    seeds, end = _compared(suite, [arm for arm in begun if arm not in behind], runs)
    used = {arm: [r for r in runs if r["arm"] == arm and r["seed"] in seeds] for arm in begun if arm not in behind}
    used = {arm: some for arm, some in used.items() if some}
    other = _differing(raw, used, lambda config: sorted(config.get("processes", {})))
    losses = [arm for arm in _differing(raw, used, denoising) if arm not in other]
    found = [_quality(Quality(**q), _fit(used, q["of"], other, losses), suite, end) for q in suite["quality"]]
    return {
        "seeds": seeds,
        "end": end,
        "left_out": [arm for arm in suite["arms"] if arm not in begun] if begun else [],
        "behind": behind,
        "quality": [quality for quality in found if quality],
        "unknown": [q["of"] for q, quality in zip(suite["quality"], found, strict=True) if end and not quality],
        "not_comparable": other,
        "other_losses": losses if any(q["of"].startswith(DENOISING) for q in suite["quality"]) else [],
        "uncounted": [arm for arm, some in used.items() if any(AXES["flops"](run, [0]) is None for run in some)],
        "cost": {arm: _cost(some) for arm, some in used.items()},
        "pace": _pace([run for some in used.values() for run in some]),
        "same_batches": _same_batches(runs),
        "finished": [sum(r["step"] >= suite["steps"] for r in runs), len(suite["arms"]) * len(suite["seeds"])],
    }


def _alike_teachers(runs: Sequence[Mapping[str, Any]], configs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The same runs, in which the same teachers of the same examples take the same time: the median of what was measured.

    Each run times a few examples only, on a machine that does other things meanwhile.
    """

    def known(run: Mapping[str, Any]) -> str:
        encoders = configs.get(run["arm"], {}).get("encoders", {})
        return to_json({target: encoders.get(target) for target in run["start"]["teacher"]["targets"]})

    taught: dict[str, list[float]] = {}
    for run in runs:
        if teacher := run["start"].get("teacher"):
            taught.setdefault(known(run), []).append(teacher["seconds_per_example"])
    return [
        {**run, "start": {**run["start"], "teacher": {**teacher, "seconds_per_example": median(taught[known(run)])}}}
        if (teacher := run["start"].get("teacher"))
        else run
        for run in runs
    ]


def _order(suite: Mapping[str, Any]) -> list[str]:
    """The baseline first."""
    return [suite["baseline"], *(arm for arm in suite["arms"] if arm != suite["baseline"])]


def _behind(raw: Mapping[str, Any], begun: Sequence[str]) -> list[str]:
    """Arms that have no seed at the end, where the baseline and another arm have all, or have some and this one failed: they
    would keep the others from being compared."""
    suite, states = raw["suite"], raw["state"].get("runs", {})
    failed = {run["arm"] for name, run in raw["runs"].items() if states.get(name, {}).get("status") == "failed"}
    finished = [run for run in raw["runs"].values() if run["step"] >= suite["steps"]]
    whole = {arm: {run["seed"] for run in finished if run["arm"] == arm} for arm in begun}
    ended = [arm for arm in begun if whole[arm]]
    if suite["baseline"] not in ended or len(ended) < 2:
        return []
    everywhere = all(whole[arm] >= set(suite["seeds"]) for arm in ended)
    return [arm for arm in begun if not whole[arm] and (everywhere or arm in failed)]


def _differing(raw: Mapping[str, Any], arms: Iterable[str], of: Callable[[Mapping[str, Any]], Any]) -> list[str]:
    """Arms whose configuration is unlike the baseline's."""
    base = of(raw["configs"].get(raw["suite"]["baseline"], {}))
    return [arm for arm in arms if of(raw["configs"].get(arm, {})) != base]


def _fit(
    used: Mapping[str, Sequence[Mapping[str, Any]]], of: str, other: Sequence[str], losses: Sequence[str]
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The arms whose number can be compared. A network that also sees another component's noisy version has an easier task."""
    hidden = [*(other if of.startswith("valid") else ()), *(losses if of.startswith(DENOISING) else ())]
    return {arm: some for arm, some in used.items() if arm not in hidden}


def _compared(suite: Mapping[str, Any], arms: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], int]:
    found = {seed: [r["step"] for r in runs if r["seed"] == seed and r["arm"] in arms] for seed in suite["seeds"]}
    least = {seed: min(steps) if steps and len(steps) == len(arms) else 0 for seed, steps in found.items()}
    if whole := [seed for seed, step in least.items() if step >= suite["steps"]]:
        return whole, suite["steps"]
    best = max(least.values())
    near = [seed for seed, step in least.items() if step and step >= NEAR * best] or suite["seeds"][:1]
    return list(near), min(least[seed] for seed in near)


def _quality(
    quality: Quality, runs: Mapping[str, Sequence[Mapping[str, Any]]], suite: Mapping[str, Any], end: int
) -> dict[str, Any] | None:
    """One number: ``end``, the last step at which all runs have it; of each arm its value there, its difference to the
    baseline seed by seed, and its curve; how soon each came to the baseline's mean final value, in ``steps``, ``seconds`` and
    ``flops``, the latter two without and with teachers; and EP@k, the epochs to reach values k.

    Arms with a run that has no such number are left out, which ``missing`` names; ``short`` names runs that had it and have
    it no more at the last step of the others. None if the baseline has none yet. Looked at once only, an arm comes to a value
    at no known step: then there is neither ``reach`` nor ``levels``.
    """
    missing = [_name(r) for some in runs.values() for r in some if not _curve(r, quality.of, end)[0]]
    runs = {arm: some for arm, some in runs.items() if all(_curve(r, quality.of, end)[0] for r in some)}
    base, everyone = suite["baseline"], [r for some in runs.values() for r in some]
    last = max((_curve(r, quality.of, end)[0][-1] for r in everyone), default=0)
    short = [_name(r) for r in everyone if last not in _curve(r, quality.of, end)[0]]
    if base not in runs or not (end := _common(everyone, quality.of, end)):
        return None
    arms = {arm: [_curve(r, quality.of, end) for r in some] for arm, some in runs.items()}
    final = {arm: [values[-1] for _, values in curves] for arm, curves in arms.items()}
    looks = len(band(arms[base])["steps"])
    curves = {axis: _along(axis, arms, runs) for axis in AXES if looks > 1}
    return {
        **asdict(quality),
        "end": end,
        "looks": looks,
        "missing": missing,
        "short": short,
        "arms": {
            arm: _arm(final[arm], final[base], quality.rising, arm == base) | {"curve": _band(arms[arm], runs[arm])}
            for arm in arms
        },
        "reach": {axis: _reach(found, base, quality.rising) for axis, found in curves.items() if base in found},
        "levels": [_level(k, arms, runs, quality.rising) for k in quality.levels or _quarters(arms[base]) if looks > 1],
    }


def _name(run: Mapping[str, Any]) -> str:
    return Run(run["arm"], run["seed"]).name


def _curve(run: Mapping[str, Any], key: str, end: int) -> Curve:
    steps, values = run["curves"].get(key, ([], []))
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if step <= end]
    return [step for step, _ in kept], [value for _, value in kept]


def _common(runs: Sequence[Mapping[str, Any]], key: str, end: int) -> int:
    """The last step at which all runs have the number, 0 if there is none: where others have it, one may have had nan."""
    shared = set.intersection(*(set(_curve(run, key, end)[0]) for run in runs))
    return int(max(shared, default=0))


def _arm(final: Sequence[float], base: Sequence[float], rising: bool, itself: bool) -> dict[str, Any]:
    """An arm's end and its gain, which counts upwards where more is worse too.

    It stands better or worse where Student's interval of the gain, seed by seed, leaves out zero. ``separated``: moreover, the
    two bootstrap intervals share no value.
    """
    ours, theirs = estimate(final), estimate(base)
    gain = [(a - b) * (1 if rising else -1) for a, b in zip(final, base, strict=True)]
    spread = student(gain)
    return {
        "final": ours,
        "gain": None if itself else {**estimate(gain), "interval": spread},
        "standing": "baseline" if itself else {1: "better", -1: "worse", 0: "undecided"}[clearly(spread)],
        "separated": apart(ours["interval"], theirs["interval"]),
    }


def _band(curves: Sequence[Curve], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds, with the mean seconds and FLOPs of the same steps."""
    found = band(curves)
    amounts = {axis: [AXES[axis](run, found["steps"]) for run in runs] for axis in AXES if axis != "steps"}
    means = {axis: None if None in some else np.mean(np.array(some), 0).tolist() for axis, some in amounts.items()}
    return {**found, **means}


def _reach(curves: Mapping[str, Sequence[Curve]], base: str, rising: bool) -> dict[str, Any]:
    """`reaching`, with Student's interval of each arm's ratio, of its logarithms seed by seed."""
    found = reaching(curves, base, rising)
    ends = [at[-1] for at, _ in curves[base]]
    own = [end if x is None else x for x, end in zip(found["arms"][base]["steps"], ends, strict=True)]
    arms = {arm: {**about, "ratio_interval": _ratios(own, about["steps"])} for arm, about in found["arms"].items()}
    return {**found, "arms": arms}


def _ratios(own: Sequence[float], steps: Sequence[float | None]) -> list[float] | None:
    """None where a run never came there, or needed nothing, or there is one seed."""
    known = [(a, b) for a, b in zip(own, steps, strict=True) if a and b]
    within = student([log(a / b) for a, b in known]) if len(known) == len(steps) else None
    return None if within is None else [exp(x) for x in within]


def _along(
    axis: str, arms: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[Curve]]:
    """The curves over another axis, of the arms whose runs all know it."""
    found: dict[str, list[Curve]] = {}
    for arm, curves in arms.items():
        amounts = [AXES[axis](run, steps) for run, (steps, _) in zip(runs[arm], curves, strict=True)]
        if all(amount is not None for amount in amounts):
            found[arm] = [(amount or [], values) for amount, (_, values) in zip(amounts, curves, strict=True)]
    return found


def _quarters(curves: Sequence[Curve]) -> list[float]:
    """The baseline's mean values at quarters of its run. A single seed may come to one later, or not."""
    mean = band(curves)
    at = [mean["steps"][-1] * share for share in QUARTERS]
    return list(dict.fromkeys(np.interp(at, mean["steps"], mean["mean"]).tolist()))


def _level(
    k: float, arms: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Mapping[str, Any]]], rising: bool
) -> dict[str, Any]:
    """EP@k: epochs to reach `k`, of each arm; ``at_most`` where a run was there when first looked at."""
    found: dict[str, dict[str, Any]] = {}
    for arm, curves in arms.items():
        steps = [reached(curve, k, -1 if rising else 1) for curve in curves]
        passed = [None if s is None else s * epochs(run) for s, run in zip(steps, runs[arm], strict=True)]
        found[arm] = {**estimate(passed), "at_most": at_once(steps, curves)}
    return {"k": k, "arms": found}


def _cost(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of an arm: seconds and FLOPs of a step, parameters, and what its teachers cost in the whole run."""
    first = runs[0]["start"]
    seconds = [run["clock"][1][-1] / run["clock"][0][-1] for run in runs if run["clock"][0]]
    return {
        "step_seconds": median(seconds) if seconds else None,
        "flops_per_step": first.get("flops_per_step"),
        "parameters": first.get("parameters"),
        "teacher": {
            unit.partition("_")[0]: found[0] if (found := taught(runs[0], unit, [runs[0]["step"]])) else None
            for unit in ("seconds_per_example", "flops_per_example")
        },
    }


def _pace(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """The least and the most seconds a step among runs whose steps are the same work to 1 %, where they differ most; [] if
    none are comparable. Beyond one, their ratio is the machine's doing."""
    known = [
        (run["start"]["flops_per_step"], run["clock"][1][-1] / run["clock"][0][-1])
        for run in runs
        if run["clock"][0] and run["start"].get("flops_per_step")
    ]
    groups = [[seconds for work, seconds in known if abs(work / mine - 1) < 0.01] for mine, _ in known]
    return max(([min(some), max(some)] for some in groups if len(some) > 1), key=lambda x: x[1] / x[0], default=[])


def _same_batches(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Of each seed: the same keys, and the same clean data wherever arms have the same component."""
    seen: dict[tuple[int, str], set[str]] = {}
    for run in runs:
        for name, digest in run["start"].get("batches", {}).items():
            seen.setdefault((run["seed"], name), set()).add(digest)
    return all(len(digests) == 1 for digests in seen.values())
