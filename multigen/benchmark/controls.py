"""Arms whose targets are wrong on purpose (`multigen.cache.pairing`), and what they explain of the arms that they control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigen.benchmark.bootstrap import clearly, student
from multigen.benchmark.words import estimated, standing

OWN = "own"
"""The pairing of an arm that is no control."""
_WRONG = {"random": "random targets", "shuffled": "wrong pairs"}
_SHARED = {"random": "regularisation", "shuffled": "the distribution of what is represented"}
"""What a control has in common with guided arms; it lacks what the representation says of its example."""


def pairings(found: Mapping[str, Any]) -> dict[str, str]:
    """Arm -> whose representation its examples are given: the suite's word, else the experiment's."""
    arms, configs = found["suite"]["arms"], found["configs"]
    return {arm: a["settings"].get("pairing", configs.get(arm, {}).get("pairing", OWN)) for arm, a in arms.items()}


def guided(found: Mapping[str, Any]) -> list[str]:
    """The arms that are neither baseline nor control."""
    return [arm for arm, pairing in pairings(found).items() if pairing == OWN and arm != found["suite"]["baseline"]]


def twins(found: Mapping[str, Any], control: str) -> list[str]:
    """The guided arms that a control is but for its targets."""
    arms = found["suite"]["arms"]
    own = _but_pairing(arms[control])
    return [arm for arm in guided(found) if _but_pairing(arms[arm]) == own]


def _but_pairing(about: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return about["experiment"], {key: x for key, x in about["settings"].items() if key != "pairing"}


def explained(found: Mapping[str, Any], quality: Mapping[str, Any]) -> list[str]:
    """One sentence for each control: where it ends, and what of its twins' gains it explains."""
    base = found["suite"]["baseline"]
    kinds = {arm: x for arm, x in pairings(found).items() if x != OWN and arm in quality["arms"] and arm != base}
    return [_control(arm, kind, twins(found, arm), quality["arms"]) for arm, kind in kinds.items()]


def _control(arm: str, kind: str, twins: Sequence[str], arms: Mapping[str, Any]) -> str:
    about, there = arms[arm], [twin for twin in twins if twin in arms]
    whose = f", {' and '.join(there)} otherwise" if there else ""
    ends = f"Control: {_WRONG.get(kind, kind)} ({arm}{whose}) end at {estimated(about['final'])}, {standing(about)}"
    if len(about["final"]["values"]) == 1:
        return f"{ends}: one seed explains nothing."
    better = {twin: arms[twin] for twin in there if arms[twin]["standing"] == "better"}
    if not better:
        return f"{ends}{': there is no clear gain to explain' if there else ''}."
    return f"{ends}: {'; '.join(_share(about, twin, x, _SHARED.get(kind, kind)) for twin, x in better.items())}."


def _share(about: Mapping[str, Any], arm: str, of: Mapping[str, Any], owed: str) -> str:
    """How much of an arm's gain a control has too, and whether the arm is ahead of it beyond chance."""
    share = 100 * about["gain"]["mean"] / of["gain"]["mean"]
    more = [a - b for a, b in zip(of["gain"]["values"], about["gain"]["values"], strict=True)]
    ahead = clearly(student(more)) == 1
    if share >= 100:
        return f"all of {arm}'s gain may be owed to {owed}"
    if about["standing"] == "better":
        rest = f"but {arm} is clearly ahead" if ahead else f"and {arm} is not clearly ahead, so all of it may be"
        return f"{share:.0f} % of {arm}'s gain may be owed to {owed}, {rest}"
    has = f"{share:.0f} % of {arm}'s gain" if share > 0 else "no gain"
    if ahead:
        return f"it has {has}, and {arm} is clearly ahead, so {arm}'s gain is not owed to {owed} alone"
    return f"it has {has}, and {arm} is not clearly ahead: whether {arm}'s gain is owed to {owed} stays open"
