"""``multigen sample``: samples 0 to n - 1 of a trained model.

States are kept in the run's folder batch by batch as they are drawn: what is interrupted goes on where it was, in as many
processes as there are then, and ``multigen evaluate`` finds them there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from multigen import describe, distributed
from multigen.cli.evaluate import about
from multigen.cli.trained import Trained, load
from multigen.describe import digest
from multigen.evaluate import ranges, sample_batches, states_folder
from multigen.files import make_folder, write_json
from multigen.modality import Drawn, Written
from multigen.state import MultigenError

SHOWN = 1024
"""So many samples at most are drawn into one picture."""


def main(config: Any) -> None:
    model = load(config)
    n, seed, e = model.settings["n"], model.settings["seed"], model.experiment
    path = folder_of(model)
    write = writer(path, e.modality)
    if distributed.rank() == 0:
        make_folder(path.parent if write else path)  # before the work, which could not be kept otherwise
    batches = ranges(n, model.settings["batch_size"])
    kept = states_folder(model.run.folder, e.sampler, e.denoiser, e.processes, seed)
    draw = partial(sample_batches, e.sampler, e.denoiser, e.processes, e.modality, seed=seed, device=model.device, folder=kept)
    if distributed.world() > 1:
        for _ in draw(distributed.shard(batches)):
            pass
        distributed.barrier()
    if distributed.rank() == 0:
        save(draw(batches), model, path, write)


def save(drawn: Drawn, model: Trained, path: Path, write: Callable[[Drawn, int, Path], Path] | None) -> None:
    """One file, or a folder with a picture of the samples."""
    made = f"step {model.checkpoint.step:,} ({model.weights})"
    if write:
        write(drawn, model.settings["n"], path)
        write_json(f"{path}.json", origin(model))
        print(f"{model.settings['n']:,} samples of {made} in {path}, how they were made in {path}.json")
        return
    samples = [sample for some, _ in drawn for sample in some]
    modality = model.experiment.modality
    modality.save(samples, path)
    picture = modality.draw(samples[:SHOWN], path / "all.png")
    shown = "all of them" if len(samples) <= SHOWN else f"the first {SHOWN:,}"
    valid = sum(sample is not None for sample in samples)
    print(f"{valid:,} samples of {made} in {path}, {shown} in {picture}")


def writer(path: Path, modality: Any) -> Callable[[Drawn, int, Path], Path] | None:
    """What writes such a file; None for a folder.

    Raises:
        MultigenError: the name ends like a file's, and the modality writes no such file.
    """
    formats: Mapping[str, Any] = modality.formats if isinstance(modality, Written) else {}
    if path.suffix in formats:
        return formats[path.suffix]
    if re.fullmatch(r"\.[a-z]{2,5}", path.suffix) and not path.is_dir():
        raise MultigenError(f"out={path}: choices are a folder and files that end in {sorted(formats)}")
    return None


def origin(model: Trained) -> dict[str, Any]:
    """How samples were made, for whoever measures them later."""
    e = model.experiment
    made = {"count": model.settings["n"], "seed": model.settings["seed"], "sampler": describe.plain(e.sampler)}
    return {**about(model), "samples": made, "experiment": e.name, "versions": describe.versions(model.device)}


def folder_of(model: Trained) -> Path:
    """``out=``, or a folder of its own for each way of sampling: other lengths, patterns or labels are another way."""
    if model.settings["out"]:
        return Path(model.settings["out"])
    asked = [model.settings["modality"]] if model.settings.get("modality") else []
    way = digest(model.experiment.config["sampler"], model.weights, model.settings["seed"], *asked)[:8]
    return model.run.samples / f"step_{model.checkpoint.step:08d}-{way}"
