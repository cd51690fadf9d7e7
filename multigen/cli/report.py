"""``multigen report``: the page of one run, or of several beside one another."""

from __future__ import annotations

from typing import Any

from multigen.build import plain
from multigen.report import write_report
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = plain(config)
    if not settings["run"]:
        raise MultigenError("which run? give run=FOLDER, or run=[FOLDER,FOLDER]")
    print(f"report: {write_report(settings['run'], settings['out'], settings['title'])}")
