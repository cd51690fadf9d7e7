"""``multigen prepare``: data, and what frozen encoders say about them."""

from __future__ import annotations

from typing import Any

from multigen.build.experiment import Experiment
from multigen.cache import Job, prepare_all
from multigen.cli import settings as own
from multigen.cli.catalogue import choose
from multigen.distributed import resolve
from multigen.modality import whole
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config)
    if not settings.get("data"):
        raise MultigenError(f"prepare needs data=NAME or experiment=NAME: {choose('data')}; {choose('experiment')}")
    experiment = Experiment(settings)
    if folder := experiment.prepare_data():
        print(f"data are in {folder}")
    experiment.prepare_weights()
    prepare_targets(experiment, settings)


def prepare_targets(experiment: Experiment, settings: dict[str, Any]) -> None:
    """Cache the targets of all of the experiment's data sets."""
    if not experiment.encoders:
        return
    targets, (_, *others) = jobs(experiment, settings), map(whole, experiment.datasets.values())
    prepare_all(targets, [experiment.storage(job.name) for job in targets], others, jobs=settings["jobs"])


def jobs(experiment: Experiment, settings: dict[str, Any]) -> list[Job]:
    """What each encoder is to do on the training split."""
    first, modality = whole(next(iter(experiment.datasets.values()))), experiment.modality_with(experiment.encoders)
    same = {"batch_size": settings["batch_size"], "device": resolve(settings["device"]), "workers": settings["workers"]}
    return [Job(first, modality, encoder, name, **same) for name, encoder in experiment.encoders.items()]
