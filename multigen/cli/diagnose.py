"""``multigen diagnose``: what each block of a trained model knows of each representation, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multigen import checkpoint, describe
from multigen.build import Config, compose
from multigen.build.experiment import Experiment
from multigen.cli.errors import explain
from multigen.cli.trained import Trained, load
from multigen.denoiser import check_taps
from multigen.diagnose import MEASURES, Settings, draw, study
from multigen.diagnose.study import tap_names
from multigen.files import make_folder, write_json
from multigen.state import MultigenError


def main(config: Any) -> None:
    model = load(config)
    settings = model.settings
    keys = ("levels", "examples", "rows", "neighbours", "clusters", "seed")
    how = Settings(**{key: settings[key] for key in keys})
    e = with_teachers(model.experiment, settings["teachers"])
    terms = {} if settings["teachers"] else restored(model)
    known = tap_names(model.experiment.denoiser, model.experiment.diffusion.objective.taps)
    check_taps(settings["taps"] or (), known)
    found = study(
        model.experiment.denoiser,
        e.processes,
        terms,
        e.modality,
        e.valid if "valid" in e.datasets else e.train,
        settings["taps"] or known,
        how,
        settings["targets"],
        settings["batch_size"],
        model.device,
    )
    folder = make_folder(settings["out"] or model.results)
    write(found, model, how, folder)
    show(found)
    print(f"diagnosis: {folder}/diagnosis.json and .png")


def with_teachers(experiment: Experiment, name: str | None) -> Experiment:
    """The same experiment with the representations of another one."""
    if name is None:
        return experiment
    overrides = [f"experiment={name}"]
    try:
        other = compose("train", overrides)
    except MultigenError:
        raise
    except Exception as error:
        raise (explain(error, "train", overrides) or error) from error
    return Experiment(_taught(experiment.config, other))


def _taught(config: Config, other: Config) -> Config:
    """With the other's encoders, and with the representations that the other reads out of prepared data."""
    data, named = config["data"], (other["data"] or {}).get("targets")
    reading = {k: {**node, "targets": named} for k, node in data.items() if isinstance(node, Mapping) and "targets" in node}
    return config | {key: other[key] for key in ("encoders", "cache", "targets")} | {"data": data | (reading if named else {})}


def restored(model: Trained) -> Mapping[str, Any]:
    """The run's terms, with the projectors that were trained."""
    e = model.experiment
    denoiser = {f"denoiser.{k}": x for k, x in e.denoiser.state_dict().items()}
    checkpoint.restore(e.diffusion, model.checkpoint.tensors("model") | denoiser, model.checkpoint.path)
    return e.diffusion.to(model.device).objective.terms


def write(found: dict[str, Any], model: Trained, how: Settings, folder: Path) -> None:
    weights = {"step": model.checkpoint.step, "weights": model.weights}
    about = {"checkpoint": weights, "settings": describe.plain(how), "versions": describe.versions(model.device)}
    write_json(folder / "diagnosis.json", found | about)
    draw(found, folder / "diagnosis.png")


def show(found: Mapping[str, Any]) -> None:
    """For each representation and measure the best tap, its mean over the noise levels, and what chance gives."""
    for name, best in found["best"].items():
        values = found["targets"][name]
        for measure in MEASURES:
            if (tap := best[measure]) is not None:
                chance = values["chance"]["pooled" if values["pooled"][tap] else "sites"][measure]
                mean = sum(values[measure][tap]) / len(found["levels"])
                print(f"{name:12} {measure:7} {tap:10} {mean:.3f} (chance {chance:.3f})")
    for term, own in found["trained"].items():
        print(f"{term:12} cosine of its own projector at {own['tap']}: {', '.join(f'{x:.3f}' for x in own['cosine'])}")
