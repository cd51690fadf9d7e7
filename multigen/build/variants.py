"""One experiment with one thing changed: what a measurement compares."""

from __future__ import annotations

from typing import Any

from multigen.build.compose import Config
from multigen.build.make import check
from multigen.modality import Alternative, Compared


def variants(config: Config) -> dict[str, Config]:
    """Configurations by name; those that come to the same thing in this experiment are equal.

    ``step`` is the experiment as it is configured; ``vanilla`` lacks its alignment terms and their encoders. All train in one
    process that makes its own batches, so that nothing works in the background of another's turn, and nobody looks on. What
    the modality and the denoiser want compared is added under their own names.
    """
    bare = _with_trainer(config, compile=False, workers=0, observers={}, log_to=[])
    step, cached = _with_targets(bare, config["targets"]), _with_targets(bare, "cached")
    return {
        "step": step,
        "vanilla": without_alignment(cached),
        "cached": cached,
        "online": _with_targets(step, "online"),
        "compiled": _with_trainer(step, compile=True),
        "fp32": _with_trainer(step, precision="no"),
        "bf16": _with_trainer(step, precision="bf16"),
        **{name: alternative.config for name, alternative in alternatives(step).items()},
    }


def alternatives(config: Config) -> dict[str, Alternative]:
    """What the modality and the denoiser want compared; nothing if they have no such wish."""
    classes: list[Any] = [check(config[key], key) for key in ("modality", "denoiser") if config.get(key)]
    wishes = [one.alternatives(config) for one in classes if isinstance(one, Compared)]
    return {name: one for wish in wishes for name, one in wish.items()}


def without_alignment(config: Config) -> Config:
    """The same without the terms that have a target, and without the encoders that made those targets."""
    objective = config["objective"]
    terms = {name: term for name, term in objective["terms"].items() if "target" not in term}
    targets = {term["target"] for term in objective["terms"].values() if "target" in term}
    kept = {
        "objective": objective | {"terms": terms, "weights": _only(objective.get("weights"), set(terms))},
        "encoders": _without(config.get("encoders"), targets),
        "cache": _without(config.get("cache"), targets),
    }
    return _with_targets(config | kept, config["targets"])


def _with_targets(config: Config, targets: str) -> Config:
    return config | {"targets": targets if config.get("encoders") else "cached"}


def _with_trainer(config: Config, **settings: Any) -> Config:
    return config | {"trainer": config["trainer"] | settings}


def _only(entries: dict[str, Any] | None, names: set[str]) -> dict[str, Any]:
    return {k: v for k, v in (entries or {}).items() if k in names}


def _without(entries: dict[str, Any] | None, names: set[str]) -> dict[str, Any]:
    return {k: v for k, v in (entries or {}).items() if k not in names}
