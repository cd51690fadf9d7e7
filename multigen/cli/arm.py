"""One run of a benchmark, in a process of its own: ``python -m multigen.cli.arm RUN STEP PARENT`` trains RUN as far as STEP.

RUN holds its configuration, which `multigen benchmark` put there. What is missing is prepared first. PARENT is the number of
the process that started it, with which it ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from multigen import describe
from multigen.benchmark.start import start
from multigen.build.experiment import Experiment
from multigen.cache import Job
from multigen.cli.main import guarded
from multigen.cli.prepare import jobs, prepare_targets
from multigen.files import write_json
from multigen.observers import Until
from multigen.run import Run
from multigen.trainer import Interrupted, Trainer

_PREPARING = {"batch_size": 16, "workers": 0, "jobs": 1}


def main(arguments: Sequence[str]) -> None:
    folder, until = arguments[0], int(arguments[1])
    _end_with(int(arguments[2]))
    stored = Run(folder).stored()
    experiment, run = Experiment(stored), Run(folder, stored)
    begun = (run.folder / "start.json").is_file()
    settings = {**_PREPARING, "device": stored.get("device", "auto")}
    if not begun:
        experiment.prepare_data()
        if stored.get("targets") == "cached":
            prepare_targets(experiment, settings)
    trainer = experiment.trainer(run)
    if not begun:
        kept = stored.get("targets") == "cached" or stored.get("pairing", "own") != "own"
        data = describe.dataset(experiment.datasets["train"])
        write_json(run.folder / "start.json", {**start(trainer, _teachers(experiment, settings), kept), "data": data})
    train(trainer, until)


def train(trainer: Trainer, until: int) -> None:
    """Go on as far as a step, and save."""
    trainer.observers = [*trainer.observers, Until(until)]
    try:
        trainer.fit()
    except Interrupted:
        if trainer.step < until:
            raise


def _teachers(experiment: Experiment, settings: dict[str, object]) -> list[Job]:
    return jobs(experiment, settings) if experiment.encoders else []


def _end_with(parent: int) -> None:
    """Stop, saved, when the benchmark was killed, were it while this process began: nobody else would end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
