"""Work that is killed at random moments, for the tests of what goes on afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any


def killed(begin: Callable[[Path, int], Any], above: Path, kills: int, seconds: float) -> Iterator[Path]:
    """The folder after each kill. Work that comes to its end before it is killed has to succeed, and begins in another one.

    Args:
        begin: start a process in a folder, so many kills after the first.
        above: where the folders shall lie.
        seconds: the longest that a process lives.
    """
    moments, folders, number = random.Random(0), (above / f"killed {i}" for i in range(1_000)), 0
    folder = next(folders)
    while number < kills:
        process = begin(folder, number)
        process.join(moments.uniform(0, seconds))
        if process.exitcode is not None:
            assert process.exitcode == 0
            folder = next(folders)
            continue
        process.kill()
        process.join()
        number += 1
        yield folder


@contextmanager
def server(modules: Sequence[str]) -> Iterator[ForkServerContext]:
    """Starts processes from one that has these modules loaded already, and finds what this one finds."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    yield context
    os.environ["PYTHONPATH"] = before
