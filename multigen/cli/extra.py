"""Commands that modalities bring: ``multigen design`` is of proteins, and the core knows no protein.

``modalities/NAME/commands.py`` may hold ``COMMANDS``: a mapping of names to `Command`. The module is imported whenever the
command line starts, so it imports nothing heavy itself.
"""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, NoReturn

from multigen.state import MultigenError


class Command(NamedTuple):
    """One command of a modality."""

    help: str
    """One line for the list of commands."""
    target: str
    """``package.module:function``, imported when the command is given; called with the arguments, a list of strings."""


class Options(argparse.ArgumentParser):
    """An `argparse` parser whose complaints are a `MultigenError` in one line."""

    def error(self, message: str) -> NoReturn:
        raise MultigenError(f"{message}; see `{self.prog} --help`")


def commands() -> Mapping[str, Command]:
    """Name -> command, of all modalities that are installed."""
    found: dict[str, Command] = {}
    for modality in pkgutil.iter_modules(import_module("modalities").__path__, "modalities."):
        if modality.ispkg and find_spec(f"{modality.name}.commands"):
            found |= import_module(f"{modality.name}.commands").COMMANDS
    return dict(sorted(found.items()))


def run(command: Command, arguments: list[str]) -> None:
    module, _, function = command.target.partition(":")
    getattr(import_module(module), function)(arguments)
