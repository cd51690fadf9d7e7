"""``multigen report``: the page of one run, or of several beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multigen.build import plain
from multigen.build.make import check
from multigen.modality import Reported
from multigen.report import Part, labels, read, viewer, write_report
from multigen.state import MultigenError


def main(config: Any) -> None:
    settings = plain(config)
    if not settings["run"]:
        raise MultigenError("which run? give run=FOLDER, or run=[FOLDER,FOLDER]")
    if settings["fetch"]:
        viewer.fetch()
    print(f"report: {report(settings['run'], settings['out'], settings['title'])}")


def report(runs: str | Path | Sequence[str | Path], path: str | Path | None = None, title: str | None = None) -> Path:
    """Write the page, with the parts that the runs' modalities have of their own."""
    records = [read(folder) for folder in ([runs] if isinstance(runs, (str, Path)) else runs)]
    more = {label: parts(record.config) for label, record in zip(labels(records), records, strict=True)}
    return write_report(runs, path, title, more)


def parts(config: Mapping[str, Any]) -> Sequence[Part]:
    """What the modality's class adds to the page; nothing if the class cannot be found: the page is written all the same."""
    node = config.get("modality")
    if not isinstance(node, dict) or "_target_" not in node:
        return ()
    try:
        found = check(node, "modality")
    except MultigenError:
        return ()
    return found.parts() if isinstance(found, Reported) else ()
