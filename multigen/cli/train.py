"""``multigen train``: a new run, or one that goes on."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from multigen import checkpoint, distributed
from multigen.build import Config, plain
from multigen.build.experiment import Experiment
from multigen.cli import settings as own
from multigen.cli.catalogue import choose
from multigen.cli.trained import source
from multigen.run import Run
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config)
    if settings["resume"]:
        settings = own.checked(resumed(config))
    if not settings.get("data"):
        raise MultigenError(f"train needs experiment=NAME or resume=RUN: {choose('experiment')}")
    distributed.accelerator(settings["trainer"]["precision"], settings["device"])  # joins the other processes
    folder = distributed.first(settings["run"] or new_folder(settings))
    # what starts from nothing has the configuration, and so the digest, that it had before there was such a key
    chosen = {key: value for key, value in settings.items() if (key, value) != ("start", None)}
    experiment = Experiment({**chosen, "run": folder})
    run = Run(folder, experiment.config)
    take_weights(experiment, run)
    trainer = experiment.trainer(run)
    trainer.fit()
    if trainer.main:
        print(f"trained {trainer.step:,} steps in {folder}; now: multigen sample run={folder} n=64")


def take_weights(experiment: Experiment, run: Run) -> None:
    """Take the weights of the run that the configuration names, see `source`, if `run` has none of its own."""
    folder = experiment.config.get("start")
    if not folder or checkpoint.paths(run.checkpoints):
        return
    weights, fresh = checkpoint.start(experiment.diffusion, source(folder)[1])
    if distributed.rank() == 0:
        print(f"starts from {folder} ({weights})" + (f", but for the heads of {', '.join(fresh)}" if fresh else ""))


def resumed(config: Any) -> Config:
    """The configuration that a run stores, with what the command line changes; the run itself refuses what may not change."""
    from omegaconf import OmegaConf

    given = own.given()
    if clash := sorted(given & {"run", "experiment"}):
        raise MultigenError(f"resume={config.resume} brings its own {clash[0]}; give one or the other")
    settings = OmegaConf.create(Run(config.resume).stored())
    for key in given - {"resume"}:
        OmegaConf.update(settings, key, OmegaConf.select(config, key), merge=False, force_add=True)
    return {**plain(settings), "run": config.resume, "resume": None}


def new_folder(settings: Config) -> str:
    """``outputs/NAME-seedN-TIME`` below the current folder, with a number behind it if that is taken."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(settings["name"]))
    stem = f"outputs/{name}-seed{settings['seed']}-{time.strftime('%Y%m%d-%H%M%S')}"
    number, folder = 1, stem
    while Path(folder).exists():
        number += 1
        folder = f"{stem}-{number}"
    return folder
