"""A trained model out of a run's folder, for the commands that use one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multigen import checkpoint, distributed
from multigen.build import Config
from multigen.build.experiment import Experiment
from multigen.build.make import check
from multigen.cli import settings as own
from multigen.files import nearest
from multigen.kinds import hints
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
    results: Path
    """The folder for what is measured: the run's, or one of its own for a checkpoint that was named."""


def load(config: Any) -> Trained:
    """The model that ``run=`` names, see `source`, on the device that ``device=`` names, sampled as ``sampler=`` says.

    Raises:
        MultigenError: it is no run folder, holds no whole checkpoint, or lacks the weights.
    """
    settings = own.read(config)
    if not settings["run"]:
        raise MultigenError("which run? give run=FOLDER, as `multigen train` named it")
    run, one = located(settings["run"])
    stored = run.stored()
    device = distributed.accelerator("no", settings["device"]).device
    stored["modality"] = {**(stored.get("modality") or {}), **(settings.get("modality") or {})}
    stored["sampler"] = with_weak(sampler_of(stored.get("sampler") or {}, settings.get("sampler") or {}), device)
    experiment = Experiment(with_given(stored, settings.get("given") or []))
    found = opened(run, one)
    weights = checkpoint.load_denoiser(experiment.denoiser, found, settings["weights"])
    experiment.denoiser.to(device)
    results = run.folder / "evaluation" / found.path.name if one else run.folder
    return Trained(experiment, run, settings, found, weights, device, results)


def located(given: Path | str) -> tuple[Run, Path | None]:
    """A run, and the folder of the checkpoint where `given` names one of the run's: ``RUN/checkpoints/step_00050000``.

    Whatever lies behind links, a checkpoint is the run's in whose ``checkpoints/`` it is, as it is written or as links lead.

    Raises:
        MultigenError: it is neither; where it is close to a checkpoint, with those that there are.
    """
    path = Path(given)
    written, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    for place in (written, real):
        owner = Run(place.parent.parent)
        if owner.begun and place in checkpoint.paths(owner.checkpoints):
            near = path.parent.parent  # as the user names the run, where the checkpoint's name is behind its own
            return Run(near) if place == written and path.parent.name == owner.checkpoints.name else owner, place
    run = Run(path)
    for owner in () if run.begun else (Run(written.parent), Run(written.parent.parent)):
        if owner.begun and owner.checkpoints in (written, written.parent):
            known = [other.name for other in checkpoint.paths(owner.checkpoints)]
            raise MultigenError(f"{path} is no checkpoint; " + (f"choices are {known}" if known else "there are none yet"))
    run.require()
    return run, None


def source(given: Path | str) -> tuple[Run, checkpoint.Checkpoint]:
    """A run and its newest checkpoint, or the one that `given` names, see `located`.

    Raises:
        MultigenError: it is neither, the run has no checkpoint yet, or none that is whole.
    """
    run, one = located(given)
    return run, opened(run, one)


def opened(run: Run, one: Path | None) -> checkpoint.Checkpoint:
    """The checkpoint that was named, or the run's newest."""
    found = checkpoint.read(one) if one else checkpoint.latest(run.checkpoints)
    if found is None:
        raise MultigenError(f"{run.folder} holds no checkpoint yet")
    return found


def restore(denoiser: Any, run: Run, one: Path | None, weights: str | None) -> None:
    """Weights by name from the checkpoint `one` of a run, or its newest; or from the folder of another, or from a file."""
    path = Path(weights or "")
    if weights and (path / "state.json").is_file():
        checkpoint.load_denoiser(denoiser, checkpoint.read(path))
    elif path.suffix == ".safetensors" or path.is_file():
        checkpoint.restore(denoiser, _tensors(path), path)
    else:
        checkpoint.load_denoiser(denoiser, opened(run, one), weights)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The denoiser's weights in a file of a checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise MultigenError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise MultigenError(f"{path} is no checkpoint's .safetensors file: {error}") from None
    own = {k.removeprefix("denoiser."): x for k, x in tensors.items() if k.startswith("denoiser.")}
    return own or tensors


def network(run: str, device: str) -> Any:
    """The averaged denoiser of a run, or of one of its checkpoints, to guide another network away from."""
    weak, found = source(run)
    denoiser = Experiment(weak.stored()).denoiser
    checkpoint.load_denoiser(denoiser, found)
    return denoiser.to(device).eval()


def with_weak(sampler: Config, device: torch.device) -> Config:
    """Autoguidance: ``sampler.guide.weak=RUN`` is the network of that run, or of that checkpoint of a run."""
    guide = sampler.get("guide") or {}
    if not isinstance(guide.get("weak"), str):
        return sampler
    weak = {"_target_": "multigen.cli.trained.network", "run": guide["weak"], "device": str(device)}
    return {**sampler, "guide": {**guide, "weak": weak}}


def with_given(config: Config, names: Sequence[str]) -> Config:
    """The configuration with some components given: templates fill them in, and the sampler holds them at t = 1."""
    if not names:
        return config
    if unknown := sorted(set(names) - set(config.get("processes") or {})):
        raise MultigenError(f"given: {unknown[0]!r} is no component: {nearest(unknown[0], config.get('processes') or {})}")
    if "grids" not in hints(check(config["sampler"], "sampler")):
        raise MultigenError(f"given= needs a sampler with a grid, which {config['sampler']['_target_']} has not")
    held = {name: {"_target_": "multigen.sampling.Hold"} for name in names}
    sampler = {**config["sampler"], "grids": {**(config["sampler"].get("grids") or {}), **held}}
    return {**config, "modality": {**config["modality"], "given": list(names)}, "sampler": sampler}


def sampler_of(stored: Config, given: Config) -> Config:
    """The sampler that the command line names, or the run's own with what the command line changes about it."""
    merged = overlaid(stored, given)
    if "_target_" not in given and stored.get("grids") and merged.get("grid") != stored.get("grid"):
        grids = sorted(stored["grids"])
        raise MultigenError(
            f"the run's sampler has grids of its own for {grids}, which sampler.grid does not reach; name a sampler"
        )
    return merged


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
