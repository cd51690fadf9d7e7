"""The settings that belong to a command itself, not to a component: their kinds, and the least that the numbers may be."""

from __future__ import annotations

import re
from typing import Any, Literal

from multigen.build import Config, plain
from multigen.kinds import misfit
from multigen.state import MultigenError, at_least

_KINDS: dict[str, Any] = {
    "run": str | None,
    "resume": str | None,
    "start": str | None,
    "out": str | None,
    "weights": str | None,
    "device": str,
    "seed": int,
    "n": int,
    "batch_size": int,
    "jobs": int | Literal["auto"],
    "rounds": int,
    "steps": int,
    "samples": int | str | None,
    "reference": str | None,
    "sampler_steps": list[int],
    "measure": list[str] | None,
    "workers": int,
    "repeat": int | None,
    "given": list[str],
    "by": list[str],
    "targets": str | list[str] | None,
    "taps": list[str] | None,
    "levels": Any,
    "teachers": str | None,
    "examples": int,
    "rows": int,
    "neighbours": int,
    "clusters": int,
    "evaluate": dict[str, int | None],
}
_LEAST = {"n": 1, "batch_size": 1, "jobs": 1, "workers": 0, "rounds": 1, "steps": 1, "samples": 1, "repeat": 0}


def read(config: Any, **kinds: Any) -> Config:
    """A command's configuration as plain values.

    Args:
        kinds: of settings that mean something else to this command.

    Raises:
        MultigenError: one of the command's own settings is not of its kind, or too small.
    """
    return checked(plain(config), **kinds)


def checked(settings: Config, **kinds: Any) -> Config:
    """The same settings, if they are of their kinds."""
    for name, kind in {**_KINDS, **kinds}.items():
        if name in settings and (wrong := misfit(settings[name], kind, name)):
            raise MultigenError(wrong)
    numbers = settings | {f"evaluate.{k}": x for k, x in (settings.get("evaluate") or {}).items() if x is not None}
    for name, least in (_LEAST | {"evaluate.n": 1, "evaluate.repeats": 0}).items():
        if isinstance(numbers.get(name), int):
            at_least(least, **{name: numbers[name]})
    return settings


def given() -> set[str]:
    """The keys that the command line sets."""
    from hydra.core.hydra_config import HydraConfig

    return {re.split(r"[=@]", override)[0].lstrip("+~") for override in HydraConfig.get().overrides.task}
