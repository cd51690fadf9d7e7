"""``multigen benchmark``: how fast an experiment trains and samples, or what several arms of one reached."""

from __future__ import annotations

from typing import Any

from multigen.cli import settings as own
from multigen.cli import speed
from multigen.cli.catalogue import choose
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config, samples=int)
    if settings["compare"]:
        compare(settings)
    elif settings.get("data"):
        speed.main(settings)
    else:
        raise MultigenError(f"benchmark needs experiment=NAME or compare=[RUN,RUN]: {choose('experiment')}")


def compare(settings: dict[str, Any]) -> None:
    from multigen.benchmark import arms, write_comparison

    folder = settings["out"] or "outputs/comparison"
    print(write_comparison(arms(settings["compare"]), folder, settings["baseline"]))
    print(f"comparison: {folder}/comparison.md, .json and .png")
