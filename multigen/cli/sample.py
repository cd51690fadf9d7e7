"""``multigen sample``: samples 0 to n - 1 of a trained model.

States are kept in the run's folder batch by batch as they are drawn: what is interrupted goes on where it was, in as many
processes as there are then, and ``multigen evaluate`` finds them there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from multigen import buckets, describe, distributed
from multigen.cli.evaluate import about, weights_of
from multigen.cli.trained import Trained, load
from multigen.describe import digest
from multigen.evaluate import sample_batches, states_folder
from multigen.files import make_folder, write_json
from multigen.modality import Drawn, Filed
from multigen.state import MultigenError

SHOWN = 1024
"""So many samples at most are drawn into one picture."""


def main(config: Any) -> None:
    model = load(config)
    n, seed, e = model.settings["n"], model.settings["seed"], model.experiment
    target = folder_of(model)
    filed = is_file(target, e.modality)
    if distributed.rank() == 0:
        make_folder(target.parent if filed else target)  # before the work, which could not be kept otherwise
    plan = buckets.batches(e.modality, n, model.settings["batch_size"], seed)
    kept = states_folder(model.run.folder, e.sampler, e.denoiser, e.processes, seed)
    draw = partial(sample_batches, e.sampler, e.denoiser, e.processes, e.modality, seed=seed, device=model.device, folder=kept)
    if distributed.world() > 1:
        for _ in draw(distributed.shard(plan)):
            pass
        distributed.barrier()
    if distributed.rank() == 0:
        parts = buckets.ranges(n, model.settings["batch_size"])
        (write if filed else save)(buckets.in_order(e.modality, plan, draw(plan), parts, seed), model, target)
        show_padding(e.modality, n, plan, seed)


def show_padding(modality: Any, n: int, plan: Sequence[Sequence[int]], seed: int) -> None:
    """How much of the work was for nothing, where samples differ in size."""
    if isinstance(modality, buckets.Sized):
        share = buckets.padding(modality.sizes(range(n), seed), plan)
        print(f"{share:.1%} of the sites in {len(plan):,} batches were padding")


def write(drawn: Drawn, model: Trained, path: Path) -> None:
    """One file, and beside it how the samples were made."""
    cast(Filed, model.experiment.modality).write(drawn, model.settings["n"], path)
    write_json(f"{path}.json", origin(model))
    print(f"{model.settings['n']:,} samples of {made_of(model)} in {path}, how they were made in {path}.json")


def save(drawn: Drawn, model: Trained, folder: Path) -> None:
    """A folder of files, and a picture of the samples."""
    samples = [sample for some, _ in drawn for sample in some]
    modality = model.experiment.modality
    modality.save(samples, folder)
    picture = modality.draw(samples[:SHOWN], folder / "all.png")
    shown = "all of them" if len(samples) <= SHOWN else f"the first {SHOWN:,}"
    valid = sum(sample is not None for sample in samples)
    print(f"{valid:,} samples of {made_of(model)} in {folder}, {shown} in {picture}")


def made_of(model: Trained) -> str:
    return f"step {model.checkpoint.step:,} ({model.weights})"


def is_file(target: Path, modality: Any) -> bool:
    """Whether all samples go to one file: its name ends as the modality's files do.

    Raises:
        MultigenError: the name ends like that of a file which the modality does not write.
    """
    formats = modality.formats if isinstance(modality, Filed) else ()
    if target.suffix in formats:
        return True
    if formats and re.fullmatch(r"\.[a-z]{2,5}\d?", target.suffix, re.IGNORECASE) and not target.is_dir():
        raise MultigenError(f"out={target}: choices are a folder and files that end in {list(formats)}")
    return False


def origin(model: Trained) -> dict[str, Any]:
    """How samples were made, for whoever measures them later."""
    e = model.experiment
    made = {"count": model.settings["n"], "seed": model.settings["seed"], "sampler": describe.plain(e.sampler)}
    return {**_known(model), "samples": made, "experiment": e.name, "versions": describe.versions(model.device)}


def _known(model: Trained) -> dict[str, Any]:
    """Which weights these were and, if the data are at hand, which sampling does not need, what they were trained on."""
    try:
        return about(model)
    except (MultigenError, KeyError):
        return {"checkpoint": weights_of(model), "data": None}


def folder_of(model: Trained) -> Path:
    """``out=``, or a folder of its own for each way of sampling: other lengths, patterns or labels are another way."""
    if model.settings["out"]:
        return Path(model.settings["out"])
    asked = [model.settings["modality"]] if model.settings.get("modality") else []
    way = digest(model.experiment.config["sampler"], model.weights, model.settings["seed"], *asked)[:8]
    return model.run.samples / f"step_{model.checkpoint.step:08d}-{way}"
