"""One command as a Hydra application: composed from ``configs/COMMAND.yaml``, and silent on the disk."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from multigen.build import config_dir
from multigen.cli.catalogue import help_text
from multigen.cli.errors import explain
from multigen.state import MultigenError

_FLAGS = {
    "--help",
    "-h",
    "--multirun",
    "-m",
    "--cfg",
    "-c",
    "--resolve",
    "--package",
    "-p",
    "--info",
    "-i",
    "--config-dir",
    "-cd",
}
"""Hydra's flags that make sense here; the rest only confuse its parser into pages of usage."""

_OPEN = {"sample": ("modality.", "metrics."), "evaluate": ("modality.", "metrics."), "benchmark": ("domain.",)}
"""Command -> how the settings begin that may be any."""


class _Escape(BaseException):
    """Carries a command's own error through Hydra, which would print its own lines about any `Exception`."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


def run(command: str, arguments: Sequence[str]) -> None:
    """Compose the command's configuration and call ``multigen.cli.COMMAND.main`` on it, once per job of a multirun.

    Raises:
        MultigenError: the arguments do not make a configuration, or the command refused them.
    """
    if unknown := [a for a in arguments if a.startswith("-") and a.split("=")[0] not in _FLAGS]:
        raise MultigenError(f"unknown option {unknown[0]!r}; settings are written key=value, see `multigen {command} --help`")
    if {"--help", "-h"} & set(arguments):
        print(help_text(command))
        return
    with tempfile.TemporaryDirectory(prefix="multigen-") as scratch:
        try:
            _hydra(command, [f"hydra.sweep.dir={scratch}", *_settings_first(_open(arguments, command))])
        except _Escape as escape:
            raise escape.cause from escape.cause.__cause__
        except Exception as error:
            raise (explain(error, command, arguments) or error) from error


def _open(arguments: Sequence[str], command: str) -> list[str]:
    """Settings that may be any, since they are known when something else is read: a run's modality, a suite's arms."""
    opened = _OPEN.get(command)
    return [f"++{a}" if opened and a.startswith(opened) else a for a in arguments]


def _settings_first(arguments: Sequence[str]) -> list[str]:
    """Settings before flags: Hydra's parser loses settings that stand on both sides of a flag."""
    return sorted(arguments, key=lambda a: a.startswith("-") or "=" not in a)


def _hydra(command: str, arguments: Sequence[str]) -> None:
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, do not print and exit: `main` prints
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a `_target_` may be the user's own; last, so that it hides nothing
    sys.argv = [f"multigen {command}", *arguments]
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(_task(command))()


def _task(command: str) -> Callable[[Any], None]:
    def task(config: Any) -> None:
        try:
            import_module(f"multigen.cli.{command}").main(config)
        except BaseException as error:
            raise _Escape(error) from error

    return task
