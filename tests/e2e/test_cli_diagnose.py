"""``multigen diagnose`` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multigen import checkpoint
from multigen.cli.main import run
from multigen.run import Run

SMALL = [
    "trainer.steps=3", "trainer.batch_size=8", "trainer.progress=false", "trainer.log_to=[]", "device=cpu",
    "trainer.observers.validation=null", "trainer.observers.samples=null",
    "data.train.count=32", "data.valid.count=40", "denoiser.width=16",
]  # fmt: skip
ASKED = ["examples=40", "clusters=3", "neighbours=3", "levels=[0.2,0.8]", "device=cpu"]


@pytest.fixture(autouse=True)
def anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(name: str, *more: str) -> int:
    return run(["train", f"experiment=points/{name}", f"run={name}", *SMALL, *more])


def error_of(capsys, *arguments: str) -> str:
    assert run(list(arguments)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_run_is_diagnosed_by_its_own_teacher_or_by_another_s(capsys):
    assert train("repa") == train("vanilla") == 0
    assert run(["diagnose", "run=repa", *ASKED]) == 0
    found = json.loads(Path("repa/diagnosis.json").read_text())
    assert found["taps"] == ["block1", "block2", "block3"] and found["levels"] == [0.2, 0.8] and found["examples"] == 40
    for measure in ("cosine", "cka", "cknna", "probe"):
        values = [x for tap in found["taps"] for x in found["targets"]["z"][measure][tap]]
        assert len(values) == 6 and all(-1 <= x <= 1 for x in values)
    assert len(found["trained"]["z"]["cosine"]) == 2 and found["checkpoint"] == {"step": 3, "weights": "ema_0.99"}
    assert Path("repa/diagnosis.png").is_file()
    assert "cknna" in (out := capsys.readouterr().out) and "cosine of its own projector at block1" in out
    assert run(["diagnose", "run=vanilla", "teachers=points/repa", "taps=[block2]", "out=there", *ASKED]) == 0
    other = json.loads(Path("there/diagnosis.json").read_text())
    assert other["taps"] == ["block2"] and other["trained"] == {}
    assert "teachers=EXPERIMENT" in error_of(capsys, "diagnose", "run=vanilla", *ASKED)
    assert "no tap 'block9'" in error_of(capsys, "diagnose", "run=repa", "taps=[block9]", *ASKED)
    assert "did you mean 'points/repa'" in error_of(capsys, "diagnose", "run=vanilla", "teachers=points/rapa", *ASKED)
    assert "examples is 'x'" in error_of(capsys, "diagnose", "run=repa", "examples=x")


def test_a_new_run_starts_from_another_s_weights(capsys):
    assert train("vanilla") == 0
    assert train("repa", "start=vanilla", "optimizer.lr=0.0") == 0
    assert "starts from vanilla (ema_0.99), but for the heads of z" in capsys.readouterr().out
    average = load_file("vanilla/checkpoints/step_00000003/ema_0.99.safetensors")
    started = load_file("repa/checkpoints/step_00000003/model.safetensors")
    assert all(torch.equal(x, started[f"denoiser.{name}"]) for name, x in average.items())
    assert train("repa", "start=vanilla", "optimizer.lr=0.0", "trainer.steps=4") == 0  # goes on, and does not start again
    assert "starts from" not in capsys.readouterr().out
    assert run(["train", "experiment=points/repa", "run=third", "start=repa", *SMALL]) == 0
    assert "starts from repa (ema_0.99)\n" in capsys.readouterr().out
    assert run(["train", "experiment=points/repa", "run=fourth", "start=repa/checkpoints/step_00000003", *SMALL]) == 0
    assert "starts from repa/checkpoints/step_00000003 (ema_0.99)\n" in capsys.readouterr().out
    assert "not a run folder" in error_of(capsys, "train", "experiment=points/repa", "run=x", "start=nowhere", *SMALL)
    wide = ["train", "experiment=points/repa", "run=y", "start=repa", *SMALL, "denoiser.width=24"]
    assert "belongs to another network" in error_of(capsys, *wide)


def test_a_run_of_weights_alone_is_not_resumed(capsys):
    assert train("vanilla") == 0
    source = Run("vanilla")
    tensors = checkpoint.latest(source.checkpoints).tensors("model")
    state = {"config": Run("vanilla", source.stored()).digest, "order": {}}
    checkpoint.save(source.checkpoints, 9, {"model": tensors}, state)
    capsys.readouterr()
    message = error_of(capsys, "train", "resume=vanilla", "trainer.steps=12")
    assert "without an optimiser: begin a new run with start=vanilla" in message
