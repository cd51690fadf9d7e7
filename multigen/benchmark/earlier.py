"""Results of an earlier call in the same folder, which a call for less would replace."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from multigen.benchmark.suite import Suite
from multigen.files import make_folder, read_json

WRITTEN = ("results.json", "results.md", "figure.png", "report.html")


def set_aside(folder: Path, plan: Suite) -> str:
    """Move results away that hold more than `plan` asks for; a line that says so, "" if there are none."""
    if not (folder / "results.json").is_file():
        return ""
    before = read_json(folder / "results.json")["suite"]
    more = [f"arm {arm}" for arm in before["arms"] if arm not in plan.arms]
    more += [f"seed {seed}" for seed in before["seeds"] if seed not in plan.seeds]
    more += [f"{before['steps']:,} steps"] if before["steps"] > plan.steps else []
    if not more:
        return ""
    into = next(path for i in count(1) if not (path := folder / "earlier" / str(i)).exists())
    for name in WRITTEN:
        if (folder / name).is_file():
            (folder / name).replace(make_folder(into) / name)
    return f"\nearlier results, which also hold {', '.join(more)}, are in {into} now; their runs stay where they are"
