"""Runs that are killed, at any moment, go on from their last checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import training_toys

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
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_toys", "accelerate", "torch._dynamo", "torch.distributed.tensor"])

    def run(folder: Path, **settings: Any) -> BaseProcess:
        process = context.Process(target=_main, args=(str(folder), json.dumps(settings)))
        process.start()
        return process

    yield run
    os.environ["PYTHONPATH"] = before


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
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    process = start(whole, **SETTINGS)
    process.join()
    moments, killed, finished = random.Random(0), 0, 0
    while killed < KILLS:
        process = start(folder, **SETTINGS, workers=killed % 2)
        process.join(moments.uniform(0, SECONDS))
        if process.exitcode is not None:
            assert process.exitcode == 0
            finished, folder = finished + 1, tmp_path / f"killed {finished}"
            continue
        process.kill()
        process.join()
        killed += 1
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


def test_killed_at_every_line_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exhaustive, where the random test may never hit: at each line that saving executes, the process is gone."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    save(tmp_path / "before", 1)
    save(tmp_path / "before", 2)
    line, ended = 0, False
    while not ended:
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(line))
        child = os.fork()
        if child == 0:
            kill_at_line(line)
            save(folder, 3)
            os._exit(0)
        ended = os.waitpid(child, 0)[1] == 0
        found = checkpoint.latest(folder)
        assert found is not None and found.step in (2, 3)
        assert torch.equal(found.tensors("model")["w"], torch.full((4,), float(found.step)))
        assert not ended or found.step == 3
        files.remove_temporaries(folder)
        save(folder, 3)
        assert [p.name for p in sorted(folder.iterdir())] == ["step_00000002", "step_00000003"]
        line += 1
    assert line > 50


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, step, {"model": {"w": torch.full((4,), float(step))}, "optimizer": {}}, {}, keep=2)


def kill_at_line(count: int) -> None:
    """Kill this process when it is about to execute the `count`-th line of `checkpoint` or `files`."""
    left = count

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in (checkpoint.__file__, files.__file__):
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    sys.settrace(trace)
