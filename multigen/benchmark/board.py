"""What a person sees while a benchmark runs: all runs in one bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from multigen.cache.progress import duration

_PATIENCE = 30.0
"""Seconds between lines where there is no terminal."""


class Board:
    """Shows how far all runs are, on standard error, and how long the rest will take at the pace so far."""

    def __init__(self) -> None:
        self._status: Any = None
        self._first: int | None = None
        self._begun = self._said = 0.0

    def __enter__(self) -> Board:
        self._begun = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, runs: Mapping[str, tuple[int, int, str]], budget: float | None) -> None:
        """Name -> (step, steps, status); `budget` is what is left of it in seconds."""
        done = sum(step for step, _, _ in runs.values())
        self._first = done if self._first is None else self._first
        text = words(runs, self._left(done, sum(steps for _, steps, _ in runs.values())), budget)
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() - self._said > _PATIENCE:
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _left(self, done: int, total: int) -> float | None:
        """Seconds, at the pace since the beginning."""
        made = done - (self._first or 0)
        return (total - done) * (time.monotonic() - self._begun) / made if made else None


def words(runs: Mapping[str, tuple[int, int, str]], left: float | None, budget: float | None) -> str:
    """One line.

    >>> words({"a-0": (10, 10, "done"), "b-0": (4, 10, "running")}, 75.0, 60.0)
    '1 of 2 runs, 70 % of all steps; b-0 at 4 of 10; 1 min 15 s left, budget 1 min 0 s'
    """
    done, total = sum(step for step, _, _ in runs.values()), sum(steps for _, steps, _ in runs.values())
    finished = sum(status == "done" for _, _, status in runs.values())
    active = [f"{name} at {step:,} of {steps:,}" for name, (step, steps, status) in runs.items() if status == "running"]
    times = ["" if left is None else f"{duration(left)} left", "" if budget is None else f"budget {duration(budget)}"]
    said = [
        f"{finished} of {len(runs)} runs, {done / total:.0%} of all steps",
        ", ".join(active),
        ", ".join(filter(None, times)),
    ]
    return "; ".join(part for part in said if part).replace("%", " %", 1)
