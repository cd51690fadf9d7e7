"""A paragraph from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigen.benchmark.bootstrap import clearly, student
from multigen.report.blocks import number

CONTROLS = ("null", "shuffled")
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
    guided = _guided(first)
    said = [
        _setting(found, first),
        *guided,
        _controls(found["suite"], first),
        _aim(first) if guided else "",
        *(_other(quality) for quality in found["quality"][1:]),
        _trust(found),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _setting(found: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    base, seeds = found["suite"]["baseline"], found["seeds"]
    ended = _value(quality["arms"][base]["final"])
    many = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    first = quality["reach"]["steps"]["arms"][base]["mean"] if quality["reach"] else None
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
        how = "with separated intervals" if about["separated"] else "seed by seed, though the intervals overlap"
        return f"{arm} ends {about['standing']}, at {ended}, {how}"
    if seeds == 1:
        return f"{arm} ends {_alone(about)}, at {ended}, in its only seed"
    return f"{arm} ends at {ended}, which may be chance ({wins} of {seeds} seeds ahead of the baseline)"


def _alone(about: Mapping[str, Any]) -> str:
    """How the only seed ended."""
    gain = about["gain"]["values"][0]
    return "ahead" if gain > 0 else "behind" if gain < 0 else "level"


def _speed(arm: str, quality: Mapping[str, Any]) -> str:
    """How soon the arm came to the baseline's final value."""
    if not (reach := quality["reach"]):
        return ""
    steps = reach["steps"]["arms"][arm]
    if steps["mean"] is None:
        some = f"in {steps['reached']} of {steps['runs']} runs only" if steps["reached"] else "in none of its runs"
        return f", and comes to the baseline's final value {some}"
    ratios = {axis: reach[axis]["arms"][arm]["ratio"] for axis in reach if reach[axis]["arms"][arm]["ratio"]}
    more = [f"{_times(ratios[axis])} in {words}" for axis, words in _AXES.items() if axis in ratios]
    most = "at most " if steps["at_most"] else ""  # not looked at before
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


def _controls(suite: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    """What the arms with wrong targets say about the others' gain."""
    there = {arm: quality["arms"][arm] for arm in CONTROLS if arm in quality["arms"]}
    if not there:
        return ""
    words = {"null": "random targets (null)", "shuffled": "wrong pairs (shuffled)"}
    said = "; ".join(f"{words[arm]} end at {_value(x['final'])}, {_standing(x)}" for arm, x in there.items())
    return f"Controls{_twins(suite, there)}: {said}: {_meaning(there, _better(quality))}."


def _twins(suite: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Which guided arms the controls are but for their targets."""
    own = {suite["arms"][arm]["experiment"] for arm in there}
    same = [arm for arm, about in suite["arms"].items() if about["experiment"] in own and arm not in CONTROLS]
    return f", {' and '.join(same)} with other targets" if same else ""


def _meaning(there: Mapping[str, Any], better: Mapping[str, Any]) -> str:
    """What controls explain of the gains of the arms that end better."""
    if _single(there):
        return "with one seed they explain nothing yet"
    if not better:
        return "no guided arm is better than chance explains, so there is no gain to explain"
    near = [
        f"{arm} is not clearly ahead of {control}" for arm, x in better.items() for control, y in there.items() if _near(x, y)
    ]
    gaining = [arm for arm, x in there.items() if x["standing"] == "better"]
    if gaining:
        owed = " and to ".join(_SHARED[arm] for arm in gaining)
        parts = "; ".join(_parts(there[arm], better) for arm in gaining)
        beyond = f"; {'; '.join(near)}, so all of that gain may be" if near else ""
        return f"with {' and '.join(gaining)} there is a gain too ({parts}), so that much may be owed to {owed}{beyond}"
    if near:
        return f"they gain nothing clear themselves, but {'; '.join(near)}: what the gain is owed to stays open"
    owed = " or to ".join(_SHARED[arm] for arm in there)
    return f"they gain nothing clear, so the gain of {' and '.join(better)} is not owed to {owed}"


def _parts(control: Mapping[str, Any], better: Mapping[str, Any]) -> str:
    """A control's gain as a share of the others'."""
    return ", ".join(
        f"{100 * control['gain']['mean'] / x['gain']['mean']:.0f} % of that of {arm}" for arm, x in better.items()
    )


_SHARED = {"null": "regularisation", "shuffled": "the distribution of what is represented"}
"""What a control has in common with guided arms; it lacks what the representation says of its example."""


def _single(arms: Mapping[str, Any]) -> bool:
    """There is one seed, which tells nothing of chance."""
    return any(len(about["final"]["values"]) == 1 for about in arms.values())


def _near(arm: Mapping[str, Any], control: Mapping[str, Any]) -> bool:
    """The arm's gain is not larger than the control's, seed by seed, beyond chance."""
    more = [a - b for a, b in zip(arm["gain"]["values"], control["gain"]["values"], strict=True)]
    return clearly(student(more)) < 1


def _better(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The guided arms that end better than the baseline."""
    return {arm: x for arm, x in quality["arms"].items() if x["standing"] == "better" and arm not in CONTROLS}


def _standing(about: Mapping[str, Any]) -> str:
    if len(about["gain"]["values"]) == 1:
        return _alone(about)
    return {"better": "better than the baseline", "worse": "worse than the baseline"}.get(
        about["standing"], "which may be chance"
    )


def _aim(quality: Mapping[str, Any]) -> str:
    """Whether any guided arm needs half the steps and ends better."""
    if _single(quality["arms"]):
        return "The aim, half the steps and a better end with separated intervals, cannot be judged by one seed."
    reach = quality["reach"]["steps"]["arms"] if quality["reach"] else {}
    better = [arm for arm, about in _better(quality).items() if about["separated"] and arm in reach]
    met = [arm for arm in better if (reach[arm]["ratio"] or 0) >= AIM]
    if met:
        return f"The aim, half the steps and a better end with separated intervals, is met by {' and '.join(met)}."
    return "The aim, half the steps and a better end with separated intervals, is not met."


def _other(quality: Mapping[str, Any]) -> str:
    """A further number in one sentence."""
    groups: dict[str, list[str]] = {}
    for arm, about in quality["arms"].items():
        kind = about["standing"]
        groups.setdefault(_alone(about) if kind == "undecided" and len(about["gain"]["values"]) == 1 else kind, []).append(arm)
    base = groups.pop("baseline")[0]
    said = [f"{', '.join(arms)} {kind}" for kind, arms in sorted(groups.items())]
    ended = _value(quality["arms"][base]["final"])
    return f"By {quality['words']} ({ended} for {base}): {'; '.join(said)}." if said else ""


def _trust(found: Mapping[str, Any]) -> str:
    """What a reader has to know before believing it."""
    done, of = found["finished"]
    said = [f"Only {done} of {of} runs are finished." if done < of else ""]
    if failed := [name for name, run in found["state"].get("runs", {}).items() if run["status"] == "failed"]:
        said.append(f"Failed: {', '.join(failed)}.")
    if found["left_out"]:
        said.append(f"Left out, since no step of them is saved: {', '.join(found['left_out'])}.")
    if found["unknown"]:
        said.append(f"Not logged by the baseline: {', '.join(found['unknown'])}.")
    said += [_gaps(quality) for quality in found["quality"]]
    if len(found["seeds"]) == 1:
        said.append("One seed tells nothing of the spread.")
    elif found["end"]:
        said.append(
            "Better and worse are by Student's t over seeds: of twenty arms that do not differ, one is called so by chance."
        )
    if not found["same_batches"]:
        said.append("The arms did not see the same batches.")
    if odd := [arm for arm, share in found["initial"].items() if share < 1]:
        said.append(f"Another initial network than the baseline's: {', '.join(odd)}.")
    if hidden := found["not_comparable"]:
        said.append(f"Where the representation is denoised too ({', '.join(hidden)}), held-out losses are not comparable.")
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
    if not again or again["largest_difference"] is None:
        return ""
    if again["largest_difference"] == 0:
        return f"A second run of {again['run']} gave the same {again['compared']} numbers over {again['steps']:,} steps."
    largest = number(again["largest_difference"])
    return f"A second run of {again['run']} differs by up to {largest} over {again['steps']:,} steps."
