"""A trained model out of a run's folder, for the commands that use one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from multigen import checkpoint, distributed
from multigen.build import Config, plain
from multigen.build.experiment import Experiment
from multigen.run import Run
from multigen.state import MultigenError


class Trained(NamedTuple):
    """An experiment whose networks hold a checkpoint's weights."""

    experiment: Experiment
    run: Run
    settings: Config
    """Of the command."""
    checkpoint: checkpoint.Checkpoint
    weights: str
    """Which of the checkpoint's weights the denoiser holds."""
    device: torch.device


def load(config: Any) -> Trained:
    """The model that ``run=`` names, on the device that ``device=`` names, sampled as ``sampler=`` says.

    Raises:
        MultigenError: it is no run folder, holds no whole checkpoint, or lacks the weights.
    """
    settings = plain(config)
    if not settings["run"]:
        raise MultigenError("which run? give run=FOLDER, as `multigen train` named it")
    run = Run(settings["run"])
    stored = run.stored()
    experiment = Experiment({**stored, "sampler": overlaid(stored.get("sampler") or {}, settings["sampler"])})
    found = checkpoint.latest(run.checkpoints)
    if found is None:
        raise MultigenError(f"{run.folder} holds no checkpoint yet")
    weights = checkpoint.load_denoiser(experiment.denoiser, found, settings["weights"])
    device = distributed.accelerator("no", settings["device"]).device
    experiment.denoiser.to(device)
    return Trained(experiment, run, settings, found, weights, device)


def overlaid(stored: Config, given: Config) -> Config:
    """`given` if it is complete; else `stored` with the values of `given` that are not null."""
    if "_target_" in given:
        return given
    merged = dict(stored)
    for key, value in given.items():
        if isinstance(value, dict):
            changed = overlaid(stored.get(key) or {}, value)
            merged |= {key: changed} if changed else {}
        elif value is not None:
            merged[key] = value
    return merged
