"""``multigen evaluate``: metrics of samples, the loss on held-out data, and the report of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multigen import checkpoint, describe, distributed
from multigen.build import Config
from multigen.build.make import make
from multigen.cli import settings as own
from multigen.cli.catalogue import choose
from multigen.cli.report import report
from multigen.cli.trained import Trained, load, overlaid
from multigen.evaluate import evaluate, evaluate_finished, validation_loss
from multigen.files import make_folder, nearest, read_json
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config, samples=str | None)
    if settings["samples"]:
        finished(settings)
    else:
        of_run(config)


def finished(settings: Config) -> None:
    """Measure samples that were made elsewhere."""
    if not settings["metrics"]:
        raise MultigenError(f"which metrics? give metrics=NAME: {choose('metrics')}")
    device = str(distributed.accelerator("no", settings["device"]).device)
    nodes = {k: {**node, "device": device} if "device" in node else node for k, node in settings["metrics"].items()}
    samples, metrics = make(settings["reader"], "reader")(settings["samples"]), make(named(nodes), "metrics")
    path = settings["samples"].rstrip("/")
    origin, out = Path(f"{path}.json"), Path(settings["out"] or f"{path}.evaluation.json")
    about = {"made_by": read_json(origin) if origin.is_file() else None}
    result = evaluate_finished(samples, metrics, out, settings["batch_size"], about)
    if distributed.rank() == 0:
        show(result)
        print(f"written to {out}")


def named(metrics: Config) -> Config:
    """The same nodes, if each is a component: a misspelt name makes an empty one."""
    known = [name for name, node in metrics.items() if node is None or "_target_" in node]
    if wrong := sorted(set(metrics) - set(known)):
        raise MultigenError(f"metrics.{wrong[0]} is no metric here: {nearest(wrong[0], known)}")
    return metrics


def with_data(metrics: Config, reference: str | None, data: Config) -> Config:
    """The metrics, each with the run's data in the place of what it compares with and nobody named."""
    own = {"reference": data["train"], "train": data["train"], "held_out": data.get("valid")}

    def filled(node: Config) -> Config:
        named = {"reference": reference} if reference and "reference" in node else {}
        return {**node, **{key: x for key, x in own.items() if key in node and node[key] is None}, **named}

    return {name: node and filled(node) for name, node in metrics.items()}


def of_run(config: Any) -> None:
    """Measure a run's samples."""
    model = load(config)
    e, chosen = model.experiment, model.settings["metrics"]
    metrics = named(overlaid(e.config.get("metrics") or {}, chosen))
    e.config["metrics"] = with_data(metrics, model.settings["reference"], e.config["data"])
    how = overlaid(e.config.get("evaluate") or {}, model.settings["evaluate"])
    into = make_folder(model.settings["out"] or model.results)
    result = evaluate(
        e.sampler,
        e.denoiser,
        e.processes,
        e.modality,
        e.metrics,
        model.run.folder,
        n=how["n"],
        seed=how["seed"],
        batch_size=model.settings["batch_size"],
        device=model.device,
        held_out=e.datasets.get("valid"),
        about={**about(model), "validation": validation(model, how)},
        into=into,
    )
    if distributed.rank() == 0:
        show(result)
        its_own = into.samefile(model.run.folder)
        print(f"report: {report(into)}" if its_own else f"written to {into / 'evaluation.json'}")


def about(model: Trained) -> dict[str, Any]:
    """Which weights are measured, and what they were trained on."""
    return {"checkpoint": weights_of(model), "data": describe.dataset(model.experiment.datasets["train"])}


def weights_of(model: Trained) -> dict[str, Any]:
    return {"step": model.checkpoint.step, "weights": model.weights}


def validation(model: Trained, how: dict[str, Any]) -> dict[str, float] | None:
    """The held-out loss of the weights that are sampled from; None where there is no held-out set, or none is wanted."""
    e = model.experiment
    if "valid" not in e.datasets or how["repeats"] < 1:
        return None
    denoiser = {f"denoiser.{k}": x for k, x in e.denoiser.state_dict().items()}
    checkpoint.restore(e.diffusion, model.checkpoint.tensors("model") | denoiser, model.checkpoint.path)
    options = {"batch_size": model.settings["batch_size"], "repeats": how["repeats"], "seed": how["seed"]}
    loss = validation_loss(
        e.diffusion.to(model.device), e.valid, e.modality, device=model.device, step=model.checkpoint.step, **options
    )
    parts = {f"loss/{name}": value for name, value in loss.parts.items()}
    return {"loss": loss.total, **parts, **perplexities(loss.parts), "draws": loss.draws}


def perplexities(parts: Mapping[str, float]) -> dict[str, float]:
    """The exponential of every bound on -log p per site (`multigen.objective.Recall`): of the mean, not the mean of any.

    >>> perplexities({"recall/nll": 0.0, "denoise/x": 1.0})
    {'recall/perplexity': 1.0}
    """
    named = {name.removesuffix("nll"): value for name, value in parts.items() if name.rpartition("/")[2] == "nll"}
    return {f"{name}perplexity": math.exp(min(value, 700.0)) for name, value in named.items()}


def show(result: dict[str, Any]) -> None:
    """The numbers, one a line."""
    measures = {**(result.get("validation") or {}), **result["metrics"]}
    width = max(map(len, measures), default=0)
    for name, value in measures.items():
        print(f"{name:{width}}  {value:.6g}")
