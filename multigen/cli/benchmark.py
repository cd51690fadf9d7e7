"""``multigen benchmark``: arms of a domain side by side, how fast one experiment is, or what trained arms reached."""

from __future__ import annotations

from typing import Any

from multigen.cli import settings as own
from multigen.cli import speed, suite
from multigen.cli.catalogue import choose
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = own.read(config, samples=int)
    if settings["redraw"]:
        suite.again(settings["redraw"])
    elif settings.get("domain"):
        suite.main(settings)
    elif settings["compare"]:
        compare(settings)
    elif settings.get("data"):
        speed.main(settings)
    else:
        choices = f"{choose('domain')}; {choose('experiment')}"
        raise MultigenError(f"benchmark needs domain=NAME, experiment=NAME or compare=[RUN,RUN]: {choices}")


def compare(settings: dict[str, Any]) -> None:
    from multigen.benchmark import arms, write_comparison

    folder = settings["out"] or "outputs/comparison"
    print(write_comparison(arms(settings["compare"], settings["by"]), folder, settings["baseline"]))
    print(f"comparison: {folder}/comparison.md, .json and .png")
