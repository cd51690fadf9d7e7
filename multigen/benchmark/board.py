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
_WINDOW = 300.0
"""So many seconds are looked back for the pace."""

Runs = Mapping[str, tuple[int, int, str]]
"""Name -> (step, steps, status): waiting | preparing | running | stopped | done | failed."""


class Board:
    """Shows how far all runs are, on standard error, and how long the rest will take."""

    def __init__(self) -> None:
        self._status: Any = None
        self._pace = Pace()
        self._said = -_PATIENCE

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, runs: Runs, budget: float | None) -> None:
        """`budget` is what is left of it in seconds."""
        now = time.monotonic()
        text = words(runs, self._pace.left(*steps(runs), now), budget)
        if self._status is not None:
            self._status.update(text)
        elif now - self._said > _PATIENCE:
            self._said = now
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)


class Pace:
    """Steps a second from the first ones made, over the last minutes: what takes long now and then is soon forgotten."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []  # when there were more steps than before, and how many
        self._last: int | None = None

    def left(self, done: int, total: int, now: float) -> float | None:
        """Seconds that the rest takes; None while that is not known.

        Args:
            done: steps of `total`. Less than before, where a run failed, begins anew.
            now: seconds on a clock.
        """
        if self._last is None or done < self._last:
            self._seen.clear()
        elif done > self._last:
            self._seen.append((now, done))
        self._last = done
        while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW:
            del self._seen[0]
        if len(self._seen) < 2:
            return None
        begun, first = self._seen[0]
        return (total - done) * (now - begun) / (self._seen[-1][1] - first)


def steps(runs: Runs) -> tuple[int, int]:
    """Made, and of how many. Nobody works on what has failed."""
    known = [(step, of) for step, of, status in runs.values() if status != "failed"]
    return sum(step for step, _ in known), sum(of for _, of in known)


def words(runs: Runs, left: float | None, budget: float | None) -> str:
    """One line.

    >>> words({"a-0": (10, 10, "done"), "b-0": (4, 10, "running"), "c-0": (0, 10, "failed")}, 75.0, 60.0)
    '1 of 3 runs, 70 % of all steps, 1 failed; b-0 at 4 of 10; 1 min 15 s left, budget 1 min 0 s'
    """
    done, total = steps(runs)
    count = {kind: sum(status == kind for _, _, status in runs.values()) for kind in ("done", "failed")}
    active = [_at(name, *run) for name, run in runs.items() if run[2] in ("running", "preparing")]
    times = ["" if left is None else f"{duration(left)} left", "" if budget is None else f"budget {duration(budget)}"]
    failed = f", {count['failed']} failed" if count["failed"] else ""
    said = [
        f"{count['done']} of {len(runs)} runs, {100 * done / max(total, 1):.0f} % of all steps{failed}",
        ", ".join(active),
        ", ".join(filter(None, times)),
    ]
    return "; ".join(part for part in said if part)


def _at(name: str, step: int, of: int, status: str) -> str:
    return f"{name} preparing" if status == "preparing" else f"{name} at {step:,} of {of:,}"
