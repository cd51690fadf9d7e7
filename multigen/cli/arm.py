"""One run of a benchmark, in a process of its own: ``python -m multigen.cli.arm RUN STEP PARENT`` trains RUN as far as STEP.

RUN holds its configuration, which `multigen benchmark` put there. What is missing is prepared first. PARENT is the number of
the process that started it, with which it ends: saved, or killed if that takes too long. Whoever starts the benchmark again
meanwhile waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from multigen import describe
from multigen.benchmark.runner import PATIENCE, TO_SAVE, saved
from multigen.benchmark.start import start, versions
from multigen.build.experiment import Experiment
from multigen.cache import Job
from multigen.cli.main import guarded
from multigen.cli.prepare import jobs, prepare_targets
from multigen.cli.train import take_weights
from multigen.files import read_json, write_json
from multigen.observers import Until
from multigen.run import Run
from multigen.trainer import Interrupted, Trainer

_PREPARING = {"batch_size": 16, "workers": 0, "jobs": 1}


def main(arguments: Sequence[str]) -> None:
    folder, until = arguments[0], int(arguments[1])
    _end_with(int(arguments[2]))
    stored = Run(folder).stored()
    experiment, run = Experiment(stored), Run(folder, stored)
    run.wait(PATIENCE)
    if saved(run.folder) >= until:  # by the one that was waited for
        return
    begun = (run.folder / "start.json").is_file()
    settings = {**_PREPARING, "device": stored.get("device", "auto")}
    if not begun:
        experiment.prepare_data()
        experiment.prepare_weights()
        if stored.get("targets") == "cached":
            prepare_targets(experiment, settings)
    take_weights(experiment, run)
    trainer = experiment.trainer(run)
    if not begun:
        kept = stored.get("targets") == "cached" or stored.get("pairing", "own") != "own"
        data = describe.dataset(experiment.datasets["train"])
        write_json(run.folder / "start.json", {**start(trainer, _teachers(experiment, settings), kept), "data": data})
    note_versions(run, versions(trainer))
    train(trainer, until)


def note_versions(run: Run, now: Mapping[str, str]) -> None:
    """Add to the run's ``parts.json`` which versions it goes on with from which step, where these are others than before."""
    path, step = run.folder / "parts.json", saved(run.folder)
    known = read_json(path) if path.is_file() else [{"step": 0, "versions": read_json(run.folder / "start.json")["versions"]}]
    before = [part for part in known if part["step"] < step]  # what came of later ones was never saved
    if not before or before[-1]["versions"] != now:
        before.append({"step": step, "versions": now})
    write_json(path, before)


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
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(TO_SAVE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
