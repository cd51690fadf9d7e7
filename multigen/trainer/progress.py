"""What a person sees while training: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_PATIENCE = 15.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Shows the step, the losses and the speed on standard error.

    Args:
        total: the last step.
        start: the step that training goes on from.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, start: int = 0, enabled: bool = True) -> None:
        self._total, self._start, self._enabled = total, start, enabled
        self._bar: Any = None
        self._said = -math.inf

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total, completed=self._start, text="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One step was made."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """New numbers."""
        text = describe(values)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        elif self._enabled and (time.monotonic() - self._said > _PATIENCE or step == self._total):
            self._said = time.monotonic()
            print(f"step {step}/{self._total}  {text}", file=sys.stderr, flush=True)


def describe(values: Mapping[str, float]) -> str:
    """The losses and the speed in a few words.

    >>> describe({"loss": 0.5, "loss/denoise": 0.25, "gradient_norm": 1.0, "examples_per_second": 812.3, "peak_share": 0.31})
    'loss 0.5  denoise 0.25  812 examples/s  31% of peak'
    """
    words = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items() if name.startswith("loss")]
    if "examples_per_second" in values:
        words.append(f"{values['examples_per_second']:.3g} examples/s")
    if "peak_share" in values:
        words.append(f"{values['peak_share']:.0%} of peak")
    return "  ".join(words)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    counts, rest = Column(no_wrap=True), Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        MofNCompleteColumn(table_column=counts),
        BarColumn(bar_width=12),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}", table_column=rest),
    )
    return Bar(*columns, console=Console(stderr=True), expand=True)
