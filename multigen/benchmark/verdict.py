"""A paragraph from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigen.benchmark.bootstrap import apart
from multigen.report.blocks import number

CONTROLS = ("null", "shuffled")
AIM = 2.0
"""The baseline's steps over an arm's, at least."""
_BY_CHANCE = {2: "three", 3: "ten"}
"""Of two or three values the interval reaches from the least to the largest; those of two arms that do not differ are then
separated in one case of so many, 2 / binomial(2 n, n)."""


def verdict(found: Mapping[str, Any]) -> str:
    """What the first number of a suite says about its arms, in sentences.

    Args:
        found: what `multigen.benchmark.results.derive` returns, with ``suite``, ``state``, ``again`` and ``initial`` as
            collected.
    """
    if not found["quality"]:
        return "Nothing to compare yet: the baseline has not been measured."
    first = found["quality"][0]
    guided = _guided(first)
    said = [
        _setting(found, first),
        *guided,
        _controls(first),
        _aim(first) if guided else "",
        *(_other(quality) for quality in found["quality"][1:]),
        _trust(found),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _setting(found: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    base, seeds = found["suite"]["baseline"], found["seeds"]
    ended = _value(quality["arms"][base]["final"])
    many = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    first = quality["reach"]["steps"]["arms"][base]["mean"]  # below the end where it has come no further since
    before = f", to which it first came after {number(round(first))}" if first and round(first) < quality["end"] else ""
    return f"After {quality['end']:,} steps with {many}, {base} has a {quality['words']} of {ended}{before}."


def _value(final: Mapping[str, Any]) -> str:
    spread = final["interval"]
    return number(final["mean"]) + (f" ({number(spread[0])} to {number(spread[1])})" if spread else "")


def _guided(quality: Mapping[str, Any]) -> list[str]:
    """One sentence for each arm that is neither baseline nor control."""
    arms = {arm: about for arm, about in quality["arms"].items() if about["standing"] != "baseline" and arm not in CONTROLS}
    return [f"{_ends(arm, about)}{_speed(arm, quality)}." for arm, about in arms.items()]


def _ends(arm: str, about: Mapping[str, Any]) -> str:
    wins, seeds = sum(x > 0 for x in about["gain"]["values"]), len(about["gain"]["values"])
    ended = _value(about["final"])
    if about["standing"] in ("better", "worse"):
        return f"{arm} ends {about['standing']}, at {ended}, with separated intervals"
    if seeds == 1:
        return f"{arm} ends {'ahead' if wins else 'behind'}, at {ended}, in its only seed"
    return f"{arm} ends at {ended}, not separated from it ({wins} of {seeds} seeds ahead)"


def _speed(arm: str, quality: Mapping[str, Any]) -> str:
    """How soon the arm came to the baseline's final value."""
    reach = quality["reach"]
    steps = reach["steps"]["arms"][arm]
    if steps["mean"] is None:
        some = f"in {steps['reached']} of {steps['runs']} runs only" if steps["reached"] else "in none of its runs"
        return f", and comes to the baseline's final value {some}"
    ratios = {axis: reach[axis]["arms"][arm]["ratio"] for axis in reach if reach[axis]["arms"][arm]["ratio"]}
    more = [f"{_times(ratios[axis])} in {words}" for axis, words in _AXES.items() if axis in ratios]
    most = "at most " if min(steps["steps"]) <= quality["arms"][arm]["curve"]["steps"][0] else ""  # not looked at before
    return f", and needs {most}{number(round(steps['mean']))} steps for the baseline's final value: {', '.join(more)}"


_AXES = {
    "steps": "steps",
    "seconds": "training time",
    "flops": "FLOPs",
    "seconds_with_teacher": "time with its teachers counted in",
    "flops_with_teacher": "FLOPs with its teachers counted in",
}


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x sooner" if ratio >= 1 else f"{1 / ratio:.2f}x later"


def _controls(quality: Mapping[str, Any]) -> str:
    """What the arms with wrong targets say about the others' gain."""
    there = {arm: quality["arms"][arm] for arm in CONTROLS if arm in quality["arms"]}
    if not there:
        return ""
    words = {"null": "random targets (null)", "shuffled": "wrong pairs (shuffled)"}
    said = "; ".join(f"{words[arm]} end at {_value(x['final'])}, {_standing(x)}" for arm, x in there.items())
    return f"Controls: {said}: {_meaning(there, _better(quality))}."


def _meaning(there: Mapping[str, Any], better: Mapping[str, Any]) -> str:
    """What controls explain of the gains of the arms that end better."""
    if not better:
        return "no guided arm ends better with separated intervals, so there is no gain to explain"
    if gaining := [arm for arm, x in there.items() if x["standing"] == "better"]:
        owed = " and to ".join(_SHARED[arm] for arm in gaining)
        parts = "; ".join(_parts(there[arm], better) for arm in gaining)
        return f"with {' and '.join(gaining)} there is a gain too ({parts}), so part of it is owed to {owed}"
    if near := [f"{arm} from {control}" for arm, x in better.items() for control, y in there.items() if not _apart(x, y)]:
        return f"not separated is {' or '.join(near)}, so what the gain is owed to stays open"
    owed = " or to ".join(_SHARED[arm] for arm in there)
    return f"they gain nothing that is separated, so the gain of {' and '.join(better)} is not owed to {owed}"


def _parts(control: Mapping[str, Any], better: Mapping[str, Any]) -> str:
    """A control's gain as a share of the others'."""
    return ", ".join(
        f"{100 * control['gain']['mean'] / x['gain']['mean']:.0f} % of that of {arm}" for arm, x in better.items()
    )


_SHARED = {"null": "regularisation", "shuffled": "the distribution of what is represented"}
"""What a control has in common with guided arms; it lacks what the representation says of its example."""


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return apart(one["final"]["interval"], other["final"]["interval"])


def _better(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The guided arms that end better than the baseline."""
    return {arm: x for arm, x in quality["arms"].items() if x["standing"] == "better" and arm not in CONTROLS}


def _standing(about: Mapping[str, Any]) -> str:
    return {"better": "better than the baseline", "worse": "worse than the baseline"}.get(
        about["standing"], "not separated from the baseline"
    )


def _aim(quality: Mapping[str, Any]) -> str:
    """Whether any guided arm needs half the steps and ends better."""
    reach = quality["reach"]["steps"]["arms"]
    met = [arm for arm in _better(quality) if (reach[arm]["ratio"] or 0) >= AIM]
    if met:
        return f"The aim, half the steps and a better end with separated intervals, is met by {' and '.join(met)}."
    return "The aim, half the steps and a better end with separated intervals, is not met."


def _other(quality: Mapping[str, Any]) -> str:
    """A further number in one sentence."""
    groups: dict[str, list[str]] = {}
    for arm, about in quality["arms"].items():
        groups.setdefault(about["standing"], []).append(arm)
    said = [f"{', '.join(groups[kind])} {kind}" for kind in ("better", "worse", "not separated") if kind in groups]
    base = next(about for about in quality["arms"].values() if about["standing"] == "baseline")
    return f"By {quality['words']} ({_value(base['final'])} without guidance): {'; '.join(said)}." if said else ""


def _trust(found: Mapping[str, Any]) -> str:
    """What a reader has to know before believing it."""
    done, of = found["finished"]
    said = [f"Only {done} of {of} runs are finished." if done < of else ""]
    if failed := [name for name, run in found["state"].get("runs", {}).items() if run["status"] == "failed"]:
        said.append(f"Failed: {', '.join(failed)}.")
    if len(found["seeds"]) == 1:
        said.append("One seed tells nothing of the spread.")
    if chance := _BY_CHANCE.get(len(found["seeds"])):
        said.append(f"Of {chance} pairs of arms that do not differ, one is separated by chance.")
    if not found["same_batches"]:
        said.append("The arms did not see the same batches.")
    if odd := [arm for arm, share in found["initial"].items() if share < 1]:
        said.append(f"Another initial network than the baseline's: {', '.join(odd)}.")
    if hidden := found["not_comparable"]:
        said.append(f"Where the representation is denoised too ({', '.join(hidden)}), held-out losses are not comparable.")
    return " ".join([*filter(None, said), _again(found.get("again"))]).strip()


def _again(again: Mapping[str, Any] | None) -> str:
    if not again or again["largest_difference"] is None:
        return ""
    if again["largest_difference"] == 0:
        return f"A second run of {again['run']} gave the same {again['compared']} numbers over {again['steps']:,} steps."
    largest = number(again["largest_difference"])
    return f"A second run of {again['run']} differs by up to {largest} over {again['steps']:,} steps."
