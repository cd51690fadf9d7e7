"""Numbers of a benchmark in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigen.report.blocks import number


def estimated(final: Mapping[str, Any]) -> str:
    """A mean, and its interval if it has one."""
    return number(final["mean"]) + (f" ({spread(final['interval'])})" if final["interval"] else "")


def spread(interval: Sequence[float] | None) -> str:
    return f"{number(interval[0])} to {number(interval[1])}" if interval else ""


def alone(about: Mapping[str, Any]) -> str:
    """How the only seed of an arm ended."""
    gain = about["gain"]["values"][0]
    return "ahead" if gain > 0 else "behind" if gain < 0 else "level"


def standing(about: Mapping[str, Any]) -> str:
    """How an arm ends beside the baseline."""
    if len(about["gain"]["values"]) == 1:
        return alone(about)
    words = {"better": "better than the baseline", "worse": "worse than the baseline"}
    return words.get(about["standing"], "which may be chance")


def times(ratio: float, what: str, interval: Sequence[float] | None = None) -> str:
    """How many times sooner or later in steps, or whatever is counted, with the interval of that.

    >>> times(2.0, "steps", [0.5, 8.0]), times(0.5, "time")
    ('2.00x sooner in steps (0.50x to 8.00x)', '2.00x later in time')
    """
    sooner, ends = ratio >= 1, interval or []
    shown, *within = (x if sooner else 1 / x for x in (ratio, *(ends if sooner else reversed(ends))))
    around = f" ({within[0]:.2f}x to {within[1]:.2f}x)" if within else ""
    return f"{shown:.2f}x {'sooner' if sooner else 'later'} in {what}{around}"
