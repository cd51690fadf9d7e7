"""What there is to choose from, read from the configuration files themselves.

A command's help is the comment that its file begins with; an experiment's description is the first line of its comment.
"""

from __future__ import annotations

from pathlib import Path

from multigen.build import config_dir, options


def help_text(command: str) -> str:
    """The leading comment of ``configs/COMMAND.yaml``; its ``{experiments}``, ``{domains}``, ``{samplers}`` become lists."""
    lists = {"{experiments}": "experiment", "{domains}": "domain"}
    lines = []
    for line in comment(config_dir() / f"{command}.yaml"):
        lines += _listed(lists[line.strip()]) if line.strip() in lists else [line]
    return "\n".join(lines).replace("{samplers}", ", ".join(options("sampler")))


def choose(group: str) -> str:
    """The end of an error message: what a group offers."""
    return f"choices of {group} are {options(group)}"


def experiments() -> dict[str, str]:
    """Name -> one line about it."""
    return described("experiment")


def described(group: str) -> dict[str, str]:
    """Choice of a group -> one line about it."""
    return {name: describe(config_dir() / group / f"{name}.yaml") for name in options(group)}


def describe(path: Path) -> str:
    return next((line for line in comment(path) if line.strip()), "")


def comment(path: Path) -> list[str]:
    """The lines of the comment that a file begins with, less the ``#`` and Hydra's ``@package`` line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line[1:].removeprefix(" "))
    return lines


def _listed(group: str) -> list[str]:
    known = described(group)
    width = max(map(len, known), default=0)
    return [f"  {name:{width}}  {text}" for name, text in known.items()]
