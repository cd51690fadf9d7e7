"""An interrupted run that goes on ends as if it had not been interrupted, to the bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_toys import trainer

from multigen import checkpoint
from multigen.run import Run
from multigen.trainer import Interrupted, Trainer

SETTINGS = {"accumulate": 2, "log_every": 3, "checkpoint_every": 5}
"""With dropout, batch statistics and a curriculum (see `training_toys`); lines and checkpoints fall on different steps."""


class InterruptAt:
    every = 1

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = list(steps)

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        if step in self.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}


def result(folder: Path) -> tuple[dict[str, str], Any, list[dict[str, Any]]]:
    """All that a run leaves, but for the speed: checksums of its last files, the meter's state, the metrics."""
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None and found.step == 12
    sums = {name: entry["sha256"] for name, entry in found.state["files"].items()}
    metrics = [
        {k: v for k, v in e.items() if k not in ("step_seconds", "examples_per_second", "peak_share")}
        for e in Run(folder).history()
    ]
    return sums, (found.state["meter"], found.state["optimizer"]), metrics


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer(folder, **SETTINGS).fit()
    return result(folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 3, 5, 8, 11])
def test_interrupted_once(tmp_path: Path, uninterrupted: Any, step: int, workers: int) -> None:
    with pytest.raises(Interrupted):
        trainer(tmp_path, **SETTINGS, workers=workers, observers=[InterruptAt([step])]).fit()
    trainer(tmp_path, **SETTINGS, workers=workers).fit()
    assert result(tmp_path) == uninterrupted


def test_interrupted_after_every_step_with_changing_workers(tmp_path: Path, uninterrupted: Any) -> None:
    for step in range(1, 12):
        with pytest.raises(Interrupted):
            trainer(tmp_path, **SETTINGS, workers=step % 3 % 2, observers=[InterruptAt(range(12))]).fit()
    trainer(tmp_path, **SETTINGS).fit()
    assert result(tmp_path) == uninterrupted


def test_seconds_a_step_are_those_of_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step n takes n seconds, a look 100, and between two parts of the run a day passes."""
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr("multigen.trainer.speed.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr("multigen.trainer.loop.peak_flops", lambda *_: 1.0)
    step = Trainer.train_step

    def timed(self: Trainer, batches: Any) -> None:
        step(self, batches)
        clock.now += self.step

    class Look(InterruptAt):
        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            clock.now += 100.0
            if step == 10 and self.steps:
                raise KeyboardInterrupt
            return super().__call__(trainer, step)

    monkeypatch.setattr(Trainer, "train_step", timed)
    for stop in (4, 5, 8, 11):
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            trainer(tmp_path, **SETTINGS, observers=[Look([stop])]).fit()
        clock.now += 86_400.0
    trainer(tmp_path, **SETTINGS, observers=[Look([])]).fit()
    found = [entry["step_seconds"] for entry in Run(tmp_path).history() if "step_seconds" in entry]
    assert found == pytest.approx([2.0, 5.0, 8.0, 11.0])
