"""What the progress of a run is counted in: steps, epochs, seconds, FLOPs; the latter two also with what teachers cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Axis = Callable[[Mapping[str, Any], Sequence[float]], list[float] | None]


def _seconds(run: Mapping[str, Any], steps: Sequence[float]) -> list[float] | None:
    at, seconds = run["clock"]
    if not at:
        return None
    clock = np.interp(steps, [0, *at], [0.0, *seconds])  # (n,)
    teacher = run["start"].get("teacher")
    if teacher is not None and not teacher["kept"]:  # it runs within the step
        clock = np.maximum(clock - np.asarray(taught(run, "seconds_per_example", steps) or 0.0), 0.0)  # (n,)
    return clock.tolist()


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


def epochs(run: Mapping[str, Any]) -> float:
    """Of one step."""
    return run["start"]["examples_per_step"] / run["start"]["train_examples"]
