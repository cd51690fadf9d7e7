"""Two processes train as one does, with the same batch cut in two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_toys

from multigen import checkpoint, distributed
from multigen.files import read_json
from multigen.run import Run
from multigen.state import MultigenError

MODEL = {"dropout": 0.0, "statistics": False}
SETTINGS: dict[str, Any] = {"steps": 12, "accumulate": 2, "log_every": 1, "checkpoint_every": 4}


def weights(folder: Path) -> torch.Tensor:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None and found.step == SETTINGS["steps"]
    return torch.cat([x.flatten() for name in ("model", "ema_0.9") for x in found.tensors(name).values()])


def launch(folder: Path, settings: dict[str, Any], processes: int = 2) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = str(Path(__file__).with_name("two_processes.py"))
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*command, script, str(folder), json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in one process, and one in two that was taken up again in the middle."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    training_toys.main(str(one), json.dumps({**SETTINGS, "model": MODEL}))
    launch(two, {**SETTINGS, "model": MODEL, "stages": [6, 12]})
    return one, two


def test_two_processes_train_as_one(folders: tuple[Path, Path]) -> None:
    one, two = (Run(folder).history() for folder in folders)
    assert [e["step"] for e in one] == [e["step"] for e in two] == list(range(1, 13))
    for name in ("loss", "loss/denoise/point", "loss/align", "gradient_norm"):
        assert [e[name] for e in one] == pytest.approx([e[name] for e in two], rel=1e-4, abs=1e-6), name
    assert torch.allclose(*(weights(folder) for folder in folders), atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named in Linux's /proc")
def test_no_thread_of_the_group_outlives_the_training(folders: tuple[Path, Path]) -> None:
    for rank in (0, 1):
        within, after = read_json(folders[1] / f"threads_{rank}.json")
        assert within > 0 and after == 0, rank


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in one process, and one in two that hold the weights in parts, taken up again in the middle."""
    one, two = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    settings = {**SETTINGS, "model": {**MODEL, "blocks": 2}, "validate": 4}
    training_toys.main(str(one), json.dumps(settings))
    launch(two, {**settings, "shard": True, "stages": [6, 12]})
    return one, two


def test_processes_that_share_the_weights_train_as_one(cut: tuple[Path, Path]) -> None:
    """Gradients, their norm, the averages that are validated, and what is saved in the middle and read back."""
    one, two = (Run(folder).history() for folder in cut)
    for name in ("loss", "gradient_norm"):
        assert [e[name] for e in one if name in e] == pytest.approx([e[name] for e in two if name in e], rel=1e-4), name
    valid = [{e["step"]: e["valid"] for e in found if "valid" in e} for found in (one, two)]
    assert {step: valid[1][step] for step in valid[0]} == pytest.approx(valid[0], rel=1e-4) and set(valid[0]) == {4, 8, 12}
    assert torch.allclose(*(weights(folder) for folder in cut), atol=1e-5)
    held = [read_json(cut[1] / f"held_{rank}.json") for rank in (0, 1)]
    assert sum(held) == read_json(cut[0] / "held_0.json") and max(held) < 0.7 * sum(held)


def test_a_run_in_parts_is_gone_on_with_by_one_process(cut: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(cut[1] / "checkpoints" / "step_00000008", tmp_path / "checkpoints" / "step_00000008")
    training_toys.main(str(tmp_path), json.dumps({**SETTINGS, "model": {**MODEL, "blocks": 2}}))
    assert torch.allclose(weights(tmp_path), weights(cut[0]), atol=1e-5)


def test_what_does_not_go_with_weights_in_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(MultigenError, match=r"shard=true does not go with compile=true"):
        training_toys.trainer(tmp_path, shard=True, compile=True)


def test_parts_come_together_in_order(folders: tuple[Path, Path]) -> None:
    assert read_json(folders[1] / "gathered.json") == {"items": list(range(13)), "counts": [6, 7], "world": 2}


def test_alone_every_part_is_the_whole() -> None:
    assert distributed.world() == 1 and distributed.rank() == 0
    assert distributed.gather(distributed.shard([1, 2, 3])) == [1, 2, 3]
    assert distributed.highest(3) == 3 and distributed.total(torch.ones(())) == 1
