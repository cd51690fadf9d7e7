"""``multigen sample``: samples 0 to n - 1 of a trained model, into a folder or into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multigen import buckets, distributed
from multigen.cli.trained import Trained, load
from multigen.describe import digest
from multigen.evaluate import sample_batches
from multigen.files import make_folder
from multigen.modality import Filed


def main(config: Any) -> None:
    model = load(config)
    e, n, seed = model.experiment, model.settings["n"], model.settings["seed"]
    target = target_of(model)
    if distributed.rank() == 0:
        make_folder(target.parent if filed(model, target) else target)  # before the work, which could not be kept otherwise
    plan = buckets.batches(e.modality, n, model.settings["batch_size"], seed)
    batches = sample_batches(e.sampler, e.denoiser, e.processes, e.modality, distributed.shard(plan), seed, model.device)
    samples = distributed.gather([sample for drawn, _ in batches for sample in drawn])
    if distributed.rank() == 0:
        write(buckets.sorted_by(plan, samples), model, target)
        show_padding(e.modality, n, plan, seed)


def write(samples: list[Any], model: Trained, target: Path) -> None:
    modality = model.experiment.modality
    if one := filed(model, target):
        one.write(samples, target)
    else:
        modality.save(samples, target)
    picture = modality.draw(samples, target.with_suffix(".png") if one else target / "all.png")
    valid = sum(sample is not None for sample in samples)
    print(f"{valid:,} samples of step {model.checkpoint.step:,} ({model.weights}) in {target}, all of them in {picture}")


def show_padding(modality: Any, n: int, plan: list[Any], seed: int) -> None:
    """How much of the work was for nothing, where samples differ in size."""
    if isinstance(modality, buckets.Sized):
        share = buckets.padding(modality.sizes(range(n), seed), plan)
        print(f"{share:.1%} of the sites in {len(plan):,} batches were padding")


def filed(model: Trained, target: Path) -> Filed | None:
    """The modality, if all samples go to one file: its name ends as the modality's files do."""
    modality = model.experiment.modality
    return modality if isinstance(modality, Filed) and target.suffix.lower() in modality.formats else None


def target_of(model: Trained) -> Path:
    """``out=``, or a folder of its own for each way of sampling: other lengths, patterns or labels are another way."""
    if model.settings["out"]:
        return Path(model.settings["out"])
    asked = [model.settings["modality"]] if model.settings.get("modality") else []
    way = digest(model.experiment.config["sampler"], model.weights, model.settings["seed"], *asked)[:8]
    return model.run.samples / f"step_{model.checkpoint.step:08d}-{way}"
