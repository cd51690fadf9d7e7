"""``multigen prepare``: data, and what frozen encoders say about them."""

from __future__ import annotations

from typing import Any

from multigen.build.experiment import Experiment
from multigen.cache import Job, prepare
from multigen.cli import settings as own
from multigen.cli.catalogue import choose
from multigen.distributed import resolve
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config)
    if not settings.get("data"):
        raise MultigenError(f"prepare needs data=NAME or experiment=NAME: {choose('data')}; {choose('experiment')}")
    experiment = Experiment(settings)
    if folder := experiment.prepare_data():
        print(f"data are in {folder}")
    for name in experiment.encoders:
        prepare_target(experiment, name, settings)


def prepare_target(experiment: Experiment, name: str, settings: dict[str, Any]) -> None:
    """Cache one target of all of the experiment's data sets."""
    first, *others = experiment.datasets.values()
    job = Job(
        first,
        experiment.modality_with(experiment.encoders),
        experiment.encoders[name],
        name,
        batch_size=settings["batch_size"],
        device=resolve(settings["device"]),
        workers=settings["workers"],
    )
    prepare(job, experiment.storage(name), others, jobs=settings["jobs"])
