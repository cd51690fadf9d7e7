"""Hydra's and OmegaConf's errors in one line that names the thing and the nearest valid names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from multigen.build import compose, groups, options
from multigen.files import nearest
from multigen.state import MultigenError


def explain(error: Exception, command: str, arguments: Sequence[str]) -> MultigenError | None:
    """The mistake behind an error that was raised while composing a configuration; None for anything else."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return MultigenError(f"cannot read {error.override!r}: settings are written key=value")
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if not isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):  # ValueError: a group set to null
        return None
    if "Ambiguous value" in str(error):
        given = str(error).split("'")[1]
        return MultigenError(f"{given} names several values: start a multirun with -m, or write a list as key=[value,value]")
    return _unknown_key(command, arguments) or MultigenError(_one_line(error))


def _missing(error: Any) -> MultigenError:
    group, _, name = str(error.missing_cfg_file).partition("/")
    return MultigenError(f"unknown {group} {name!r}: {nearest(name, options(group))}")


def _unknown_key(command: str, arguments: Sequence[str]) -> MultigenError | None:
    """An error for the first override that sets a key which the configuration does not have; None if all have theirs."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    known = groups(command)
    chosen = [a.partition(",")[0] for a in arguments if a.partition("=")[0] in known]  # of a sweep, the first
    try:
        config = compose(command, [*chosen, *_search_path(arguments)], resolve=False)
    except (HydraException, OmegaConfBaseException, ValueError):  # the mistake is another one
        return None
    keys = (a.partition("=")[0] for a in arguments if "=" in a and not a.startswith(("+", "~", "-", "hydra")))
    return next((error for key in keys if key not in known and (error := _absent(key, config, known))), None)


def _search_path(arguments: Sequence[str]) -> list[str]:
    """``--config-dir FOLDER`` as a setting."""
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith("-") else [a])]
    folders = [after for flag, after in pairwise(words) if flag in ("--config-dir", "-cd")]
    return [f"hydra.searchpath=[file://{Path(x).absolute()}]" for x in folders[-1:] if Path(x).is_dir()]


def _absent(key: str, config: dict[str, Any], groups: list[str]) -> MultigenError | None:
    node: Any = config
    path = key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, dict):
            return MultigenError(f"unknown key {key!r}: {'.'.join(path[:depth])!r} is a single value")
        if part not in node:
            return MultigenError(f"unknown key {key!r}: {nearest(key, _names(path[:depth], node, groups))}")
        node = node[part]
    return None


def _names(path: list[str], node: dict[str, Any], groups: list[str]) -> list[str]:
    names = [".".join([*path, str(name)]) for name in node]
    return names if path else sorted({*names, *groups})


def _one_line(error: BaseException) -> str:
    """Hydra's own words, and those of the error behind it, without line breaks."""
    lines = [str(error), str(error.__cause__ or "")]
    return " ".join(" ".join(lines).split()) or type(error).__name__
