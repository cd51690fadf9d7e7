"""Saying what a long job will cost, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def duration(seconds: float) -> str:
    """
    >>> duration(0.4), duration(75), duration(7300)
    ('1 s', '1 min 15 s', '2 h 1 min')
    """
    whole = max(1, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def amount(size: float) -> str:
    """
    >>> amount(532), amount(7.2e6)
    ('532 B', '7.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def pass_of(targets: Sequence[str], took: str) -> list[str]:
    """The lines about each target of one pass over the data, and how long it takes.

    >>> pass_of(["target 'a': 5 kB"], "about 3 s"), pass_of(["target 'a': 5 kB", "target 'b': 8 kB"], "about 3 s")
    (["target 'a': 5 kB, about 3 s"], ["target 'a': 5 kB", "target 'b': 8 kB", '2 targets in one pass, about 3 s'])
    """
    return [f"{targets[0]}, {took}"] if len(targets) == 1 else [*targets, f"{len(targets)} targets in one pass, {took}"]


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal (nothing elsewhere); yields what to call with the number done so far."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.update(task, completed=done)
