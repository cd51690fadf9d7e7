"""``multigen sample``: samples 0 to n - 1 of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multigen import distributed
from multigen.cli.trained import Trained, load
from multigen.describe import digest
from multigen.evaluate import ranges, sample_batches
from multigen.files import make_folder


def main(config: Any) -> None:
    model = load(config)
    n, seed = model.settings["n"], model.settings["seed"]
    folder = folder_of(model)
    if distributed.rank() == 0:
        make_folder(folder)  # before the work, which could not be kept otherwise
    mine = distributed.shard(ranges(n, model.settings["batch_size"]))
    e = model.experiment
    batches = sample_batches(e.sampler, e.denoiser, e.processes, e.modality, mine, seed, model.device)
    samples = distributed.gather([sample for drawn, _ in batches for sample in drawn])
    if distributed.rank() == 0:
        write(samples, model, folder)


def write(samples: list[Any], model: Trained, folder: Path) -> None:
    model.experiment.modality.save(samples, folder)
    picture = model.experiment.modality.draw(samples, folder / "all.png")
    valid = sum(sample is not None for sample in samples)
    print(f"{valid:,} samples of step {model.checkpoint.step:,} ({model.weights}) in {folder}, all of them in {picture}")


def folder_of(model: Trained) -> Path:
    """``out=``, or a folder of its own for each way of sampling: other lengths, patterns or labels are another way."""
    if model.settings["out"]:
        return Path(model.settings["out"])
    asked = [model.settings["modality"]] if model.settings.get("modality") else []
    way = digest(model.experiment.config["sampler"], model.weights, model.settings["seed"], *asked)[:8]
    return model.run.samples / f"step_{model.checkpoint.step:08d}-{way}"
