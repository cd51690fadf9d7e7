"""Two processes train as one does, with the same batch cut in two."""

from __future__ import annotations

import json
import os
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


def test_parts_come_together_in_order(folders: tuple[Path, Path]) -> None:
    assert read_json(folders[1] / "gathered.json") == {"items": list(range(13)), "counts": [6, 7], "world": 2}


def test_alone_every_part_is_the_whole() -> None:
    assert distributed.world() == 1 and distributed.rank() == 0
    assert distributed.gather(distributed.shard([1, 2, 3])) == [1, 2, 3]
    assert distributed.highest(3) == 3 and distributed.total(torch.ones(())) == 1
