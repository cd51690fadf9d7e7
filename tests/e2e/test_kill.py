"""Runs that are killed, at any moment, go on from their last checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import training_toys
from killing import killed, server

from multigen import checkpoint, files
from multigen.run import Run

KILLS = int(os.environ.get("MULTIGEN_KILLS", "4"))
"""How often the random test kills; set it to 20 and more for a thorough look."""

SECONDS = 2.0
"""The longest life that it grants."""

EVERY = 3
SETTINGS = {"steps": 300, "checkpoint_every": EVERY, "log_every": 1, "keep": 2}


def _main(folder: str, settings: str) -> None:
    os.setsid()  # a process group of its own, as a shell gives to a job
    os.fsync = lambda handle: None  # slow, and a matter of power cuts, not of kills
    sys.exit(training_toys.main(folder, settings))


@pytest.fixture(scope="module")
def start() -> Iterator[Any]:
    """Starts trainings, from a server process that has torch loaded already."""
    with server(["training_toys", "accelerate", "torch._dynamo", "torch.distributed.tensor"]) as context:

        def run(folder: Path, **settings: Any) -> BaseProcess:
            process = context.Process(target=_main, args=(str(folder), json.dumps(settings)))
            process.start()
            return process

        yield run


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not any(entry["step"] >= step for entry in Run(folder).history()):
        assert time.monotonic() < deadline, "training does not get on"
        time.sleep(0.01)


def sums(folder: Path) -> dict[str, Any]:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None and found.step == SETTINGS["steps"]
    return found.state["files"]  # type: ignore[no-any-return]


def test_killed_at_random_moments(start: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    process = start(whole, **SETTINGS)
    process.join()
    for folder in killed(lambda place, number: start(place, **SETTINGS, workers=number % 2), tmp_path, KILLS, SECONDS):
        logged = max((entry["step"] for entry in Run(folder).history()), default=0)
        found = checkpoint.latest(folder / "checkpoints")
        assert (found.step if found else 0) >= (logged - 1) // EVERY * EVERY, "more than the steps since a checkpoint is lost"
    process = start(folder, **SETTINGS)
    process.join()
    assert process.exitcode == 0
    assert sums(folder) == sums(whole)
    assert [entry["step"] for entry in Run(folder).history()] == list(range(1, SETTINGS["steps"] + 1))
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_spares_the_workers_until_the_step_is_saved(
    start: Any, tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a terminal's Ctrl-C and a cluster's scheduler send it."""
    process = start(tmp_path, **{**SETTINGS, "checkpoint_every": 1000}, workers=2, pause=0.02)
    wait_for_step(tmp_path, 5)
    os.killpg(process.pid, number)
    process.join(30)
    assert process.exitcode == 128 + number
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == Run(tmp_path).history()[-1]["step"] >= 5


def test_killed_at_every_line_of_a_save(tmp_path: Path) -> None:
    """Exhaustive, where the random test may never hit: what a process that dies at any line of a save leaves behind."""
    save(tmp_path / "live", 1)
    save(tmp_path / "live", 2)
    with states_at_every_line(tmp_path / "live") as states:
        save(tmp_path / "live", 3)
    assert len(states) > 10
    for number, state in enumerate(states):
        folder = tmp_path / str(number)
        restore(folder, state)
        found = checkpoint.latest(folder)
        assert found is not None and found.step in (2, 3)
        assert torch.equal(found.tensors("model")["w"], torch.full((4,), float(found.step)))
        files.remove_temporaries(folder)
        save(folder, 3)
        assert [p.name for p in sorted(folder.iterdir())] == ["step_00000002", "step_00000003"]


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, step, {"model": {"w": torch.full((4,), float(step))}, "optimizer": {}}, {}, keep=2)


Content = dict[str, bytes | None]
"""Path -> content of a file, None of a folder."""


def content(folder: Path) -> Content:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def restore(folder: Path, state: Content) -> None:
    folder.mkdir()
    for name, data in state.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)


@contextmanager
def states_at_every_line(folder: Path) -> Iterator[list[Content]]:
    """The folder's different contents before each line of `checkpoint`, `files` and the library that removes folders."""
    states: list[Content] = []

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in (checkpoint.__file__, files.__file__, shutil.__file__):
            return None
        if event == "line" and (now := content(folder)) not in states[-1:]:
            states.append(now)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield states
    finally:
        sys.settrace(before)
