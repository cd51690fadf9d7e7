"""What the README says of a benchmark is what stands in the benchmark's JSON."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from multigen.benchmark.page import redraw, tables
from multigen.benchmark.results import derive
from multigen.benchmark.table import markdown
from multigen.benchmark.verdict import verdict
from multigen.files import read_json
from multigen.report.blocks import number

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent for path in ROOT.glob(".benchmark/*/results.json"))
ARMS = ("vanilla", "repa", "reed", "joint", "null", "shuffled")


def _found(folder):
    raw = read_json(folder / "results.json")
    return {**raw, **derive(raw)}


def _row(folder):
    """A suite's line of the README's table: what every arm ends at, and how much sooner it is at what the baseline ends at."""
    found = _found(folder)
    first = found["quality"][0]
    cells = []
    for arm in ARMS:
        about, reach = first["arms"].get(arm), first["reach"]["steps"]["arms"].get(arm)
        if about is None:
            cells.append("")
        elif arm == "vanilla":
            cells.append(number(about["final"]["mean"]))
        else:
            mark = {"better": " **better**", "worse": " worse"}.get(about["standing"], "")
            ratio = f", {reach['ratio']:.2f}x" if reach["ratio"] is not None and about["standing"] == "better" else ""
            cells.append(number(about["final"]["mean"]) + ratio + mark)
    suite = f"{folder.name}, {found['suite']['steps']:,} steps, {len(found['seeds'])} seeds"
    return f"| {suite}: {first['words']} | {' | '.join(cells)} |"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_says_what_was_measured(folder):
    found = _found(folder)
    assert _row(folder) in README
    assert markdown(tables(found)[0]) in README
    assert f".benchmark/{folder.name}/figure.png" in README and (folder / "figure.png").is_file()
    assert f"(.benchmark/{folder.name}/results.md)" in README
    assert verdict(found) in (folder / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_tables_are_drawn_from_the_results(folder, tmp_path):
    shutil.copy(folder / "results.json", tmp_path)
    redraw(tmp_path)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == (folder / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_there_are_results():
    assert FOLDERS
