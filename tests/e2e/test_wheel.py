"""The wheel holds all that is needed away from the checkout: code, modalities, configurations, the report's page. The source
distribution holds what its Makefile and its tests read as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel installs."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def multigen(installed: Path, cwd: Path, *arguments: str) -> str:
    """Run a command with the wheel's files in front of everything else."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "MULTIGEN_DATA": str(cwd / "data")}
    command = [sys.executable, "-m", "multigen.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_configuration(installed):
    shipped = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    packed = {p.relative_to(installed / "multigen/_configs") for p in (installed / "multigen/_configs").rglob("*.yaml")}
    assert packed == shipped
    assert (installed / "multigen/report/report.html.j2").is_file()
    assert not (installed / "tests").exists()


def test_source_distribution_holds_what_make_demo_and_the_tests_read():
    sdist = pytest.importorskip("hatchling.builders.sdist")
    packed = {Path(file.distribution_path) for file in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    read = [p for folder in ("configs", "data/examples", ".benchmark") for p in (ROOT / folder).rglob("*") if p.is_file()]
    read += [ROOT / "Makefile", ROOT / "data/README.md", *(ROOT / "tests").rglob("*.py")]
    assert {p.relative_to(ROOT) for p in read} <= packed


def test_wheel_lists_trains_and_reports(installed, tmp_path):
    assert "points/vanilla" in multigen(installed, tmp_path, "list")
    settings = ["trainer.steps=2", "trainer.batch_size=8", "data.train.count=32", "device=cpu", "trainer.log_to=[]"]
    multigen(installed, tmp_path, "train", "experiment=points/vanilla", "run=run", "trainer.observers.samples.n=2", *settings)
    multigen(installed, tmp_path, "report", "run=run")
    assert {p.name for p in tmp_path.iterdir()} == {"run"} and (tmp_path / "run/report.html").is_file()
