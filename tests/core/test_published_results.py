"""What the README says of a benchmark is what stands in the benchmark's JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from multigen.benchmark.page import tables
from multigen.benchmark.results import derive
from multigen.benchmark.table import markdown
from multigen.benchmark.verdict import verdict
from multigen.files import read_json

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent for path in ROOT.glob(".benchmark/*/results.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_says_what_was_measured(folder):
    raw = read_json(folder / "results.json")
    found = {**raw, **derive(raw)}
    for i in range(0, 2 * len(found["quality"]), 2):
        assert markdown(tables(found)[i]) in README
    assert f".benchmark/{folder.name}/figure.png" in README and (folder / "figure.png").is_file()
    assert " ".join(verdict(found).split()) in " ".join(README.split())


def test_there_are_results():
    assert FOLDERS
