"""A paragraph from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigen.benchmark.controls import explained, guided
from multigen.benchmark.words import alone, estimated, times
from multigen.report.blocks import number

AIM = 2.0
"""The baseline's steps over an arm's, at least."""
_UNEVEN = 1.1
"""The slowest of equal steps over the quickest, from which on a reader is told."""


def verdict(found: Mapping[str, Any]) -> str:
    """What the first number of a suite says about its arms, in sentences.

    Args:
        found: what `multigen.benchmark.results.derive` returns, with ``suite``, ``state``, ``again`` and ``initial`` as
            collected.
    """
    if not found["quality"]:
        return f"Nothing to compare yet: no step of the baseline is measured. {_trust(found)}".strip()
    first = found["quality"][0]
    shown = {arm: first["arms"][arm] for arm in guided(found) if arm in first["arms"]}
    said = [
        _setting(found, first),
        *(f"{_ends(arm, about)}{_speed(arm, first)}." for arm, about in shown.items()),
        *explained(found, first),
        _aim(first, shown) if shown else "",
        *(_other(quality) for quality in found["quality"][1:]),
        _trust(found),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _setting(found: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    base, seeds = found["suite"]["baseline"], found["seeds"]
    ended = estimated(quality["arms"][base]["final"])
    many = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    first = quality["reach"]["steps"]["arms"][base]["mean"] if quality["reach"] else None
    before = f", to which it first came after {number(round(first))}" if first and round(first) < quality["end"] else ""
    return f"After {quality['end']:,} steps with {many}, {base} has a {quality['words']} of {ended}{before}."


def _ends(arm: str, about: Mapping[str, Any]) -> str:
    wins, seeds = sum(x > 0 for x in about["gain"]["values"]), len(about["gain"]["values"])
    ended = estimated(about["final"])
    if about["standing"] in ("better", "worse"):
        how = "with separated intervals" if about["separated"] else "seed by seed, though the intervals overlap"
        return f"{arm} ends {about['standing']}, at {ended}, {how}"
    if seeds == 1:
        return f"{arm} ends {alone(about)}, at {ended}, in its only seed"
    return f"{arm} ends at {ended}, which may be chance ({wins} of {seeds} seeds ahead of the baseline)"


def _speed(arm: str, quality: Mapping[str, Any]) -> str:
    """How soon the arm came to the baseline's final value."""
    if not (reach := quality["reach"]):
        return ""
    steps = reach["steps"]["arms"][arm]
    if steps["mean"] is None:
        some = f"in {steps['reached']} of {steps['runs']} runs only" if steps["reached"] else "in none of its runs"
        return f", and comes to the baseline's final value {some}"
    known = {axis: reach[axis]["arms"].get(arm, {}) for axis in _AXES if axis in reach}
    more = [
        times(x["ratio"], _AXES[axis], x["ratio_interval"] if axis == "steps" else None)
        for axis, x in known.items()
        if x.get("ratio")
    ]
    most = "at most " if steps["at_most"] else ""  # not looked at before
    return f", and needs {most}{number(round(steps['mean']))} steps for the baseline's final value: {', '.join(more)}"


_AXES = {
    "steps": "steps",
    "seconds": "training time",
    "flops": "FLOPs",
    "seconds_with_teacher": "time with its teachers counted in",
    "flops_with_teacher": "FLOPs with its teachers counted in",
}


def _aim(quality: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """Whether any guided arm needs half the steps and ends better: surely, or in the mean alone."""
    words = "The aim, half the steps and a better end with separated intervals,"
    if len(quality["arms"][next(iter(shown))]["final"]["values"]) == 1:
        return f"{words} cannot be judged by one seed."
    reach = quality["reach"]["steps"]["arms"] if quality["reach"] else {}
    better = [arm for arm, about in shown.items() if about["standing"] == "better" and about["separated"] and arm in reach]
    if met := [arm for arm in better if (reach[arm]["ratio"] or 0) >= AIM]:
        sure = {arm: (reach[arm]["ratio_interval"] or [0])[0] >= AIM for arm in met}
        doubt = " (as to steps in the mean: chance may have helped)"
        return f"{words} is met by {' and '.join(arm + ('' if sure[arm] else doubt) for arm in met)}."
    return f"{words} is not met."


def _other(quality: Mapping[str, Any]) -> str:
    """A further number in one sentence."""
    groups: dict[str, list[str]] = {}
    for arm, about in quality["arms"].items():
        kind = about["standing"]
        groups.setdefault(alone(about) if kind == "undecided" and len(about["gain"]["values"]) == 1 else kind, []).append(arm)
    base = groups.pop("baseline")[0]
    said = [f"{', '.join(arms)} {kind}" for kind, arms in sorted(groups.items())]
    ended = estimated(quality["arms"][base]["final"])
    return f"By {quality['words']} ({ended} for {base}): {'; '.join(said)}." if said else ""


def _trust(found: Mapping[str, Any]) -> str:
    """What a reader has to know before believing it."""
    done, of = found["finished"]
    said = [f"Only {done} of {of} runs are finished." if done < of else ""]
    if failed := [name for name, run in found["state"].get("runs", {}).items() if run["status"] == "failed"]:
        said.append(f"Failed: {', '.join(failed)}.")
    if found["left_out"]:
        said.append(f"Left out, since no step of them is saved: {', '.join(found['left_out'])}.")
    if found["behind"]:
        said.append(f"Left out, since none of their runs came to the end: {', '.join(found['behind'])}.")
    if found["uncounted"]:
        said.append(f"FLOPs of these could not be counted: {', '.join(found['uncounted'])}.")
    if found["unknown"]:
        said.append(f"Not logged by the baseline: {', '.join(found['unknown'])}.")
    said += [_gaps(quality) for quality in found["quality"]]
    if len(found["seeds"]) == 1:
        said.append("One seed tells nothing of the spread.")
    elif found["end"]:
        said.append(
            "Better and worse are by Student's t over seeds of training, measured by one held-out draw: of twenty arms that "
            "do not differ, one is called so by chance."
        )
    if not found["same_batches"]:
        said.append("The arms did not see the same batches.")
    if odd := [arm for arm, share in found["initial"].items() if share < 1]:
        said.append(f"Another initial network than the baseline's: {', '.join(odd)}.")
    if hidden := found["not_comparable"]:
        said.append(f"Where the representation is denoised too ({', '.join(hidden)}), held-out losses are not comparable.")
    if other := found["other_losses"]:
        said.append(f"Denoising losses are of another kind, and not comparable, in {', '.join(other)}.")
    return " ".join([*filter(None, [*said, _pace(found["pace"])]), _again(found.get("again"))]).strip()


def _gaps(quality: Mapping[str, Any]) -> str:
    """Which runs keep a number from being compared."""
    said = []
    if missing := quality["missing"]:
        said.append(f"never had by {', '.join(missing)}")
    if short := quality["short"]:
        said.append(f"compared at step {quality['end']:,}, since {', '.join(short)} had it no later")
    return f"In {quality['words']}: {'; '.join(said)}." if said else ""


def _pace(pace: Sequence[float]) -> str:
    if not pace or pace[1] / pace[0] < _UNEVEN:
        return ""
    least, most = (number(1e3 * seconds) for seconds in pace)
    return f"Steps of the same work took {least} to {most} ms: smaller differences in time are the machine's."


def _again(again: Mapping[str, Any] | None) -> str:
    if not again:
        return ""
    over = f"over {again['steps']:,} steps"
    if missing := again.get("missing"):  # which results of an earlier version do not know
        return f"A second run of {again['run']} is not the same {over}: numbers that one of the two alone has: {missing}."
    if again["largest_difference"] is None:
        return ""
    if again["largest_difference"] == 0:
        return f"A second run of {again['run']} gave the same {again['compared']} numbers {over}."
    return f"A second run of {again['run']} differs by up to {number(again['largest_difference'])} {over}."
