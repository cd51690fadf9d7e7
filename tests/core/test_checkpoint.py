"""Checkpoints: whole or not there, readable without running code."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from multigen import checkpoint, files
from multigen.state import MultigenError

TENSORS = {
    "model": {"denoiser.w": torch.arange(6.0).reshape(2, 3), "head.w": torch.ones(1)},
    "ema_0.9": {"w": torch.ones(2, 3)},
}


def save(folder: Path, step: int = 1, keep: int = 3) -> Path:
    return checkpoint.save(folder, step, TENSORS, {"note": {"lr": 0.1}}, keep)


def test_round_trip(tmp_path: Path) -> None:
    found = checkpoint.read(save(tmp_path, 7))
    assert found.step == 7 and found.state["note"] == {"lr": 0.1} and found.names == ["model", "ema_0.9"]
    for name, tensors in TENSORS.items():
        loaded = found.tensors(name)
        assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    with pytest.raises(MultigenError, match=r"'ema_0\.99'.*did you mean 'ema_0\.9'"):
        found.tensors("ema_0.99")


def test_the_last_ones_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (9, 10, 99_999_999, 100_000_000):
        save(tmp_path, step, keep=3)
    assert [p.name for p in checkpoint.paths(tmp_path)] == ["step_00000010", "step_99999999", "step_100000000"]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 100_000_000
    assert len(os.listdir(tmp_path)) == 3


def test_those_of_every_so_many_steps_are_kept_besides(tmp_path: Path) -> None:
    for step in range(10, 80, 10):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2, keep_every=30)
    assert [int(p.name[-2:]) for p in checkpoint.paths(tmp_path)] == [30, 60, 70]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    path = save(tmp_path)
    (path / "model.safetensors").write_bytes(b"torn")
    checkpoint.read(save(tmp_path))
    assert os.listdir(tmp_path) == [path.name]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "missing") is None


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "missing", "altered"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path, how: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    if (how, name) == ("altered", "state.json"):
        how = "truncated"
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad / name, how)
    with pytest.raises(MultigenError, match=name) as raised:
        checkpoint.read(bad)
    assert "\n" not in str(raised.value)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.latest(tmp_path)
    assert found is not None and found.path == good and name in caplog.text
    damage(good / name, how)
    with pytest.raises(MultigenError, match="no checkpoint in"):
        checkpoint.latest(tmp_path)


def test_only_the_files_that_are_asked_for_are_checked(tmp_path: Path) -> None:
    path = save(tmp_path)
    damage(path / "model.safetensors", "altered")
    assert checkpoint.read(path, ["ema_0.9"]).tensors("ema_0.9").keys() == {"w"}


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    files.write_json(path / "state.json", {**files.read_json(path / "state.json"), "format": 99})
    with pytest.raises(MultigenError, match="format 99"):
        checkpoint.read(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_loading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path)
    torch.save({"w": Bomb()}, path / "model.safetensors")
    state = files.read_json(path / "state.json")
    name = "model.safetensors"
    state["files"][name] = {"bytes": (path / name).stat().st_size, "sha256": files.sha256(path / name)}
    files.write_json(path / "state.json", state)
    with pytest.raises(MultigenError, match=r"model\.safetensors is damaged"):
        checkpoint.read(path).tensors("model")
    assert not (tmp_path / "exploded").exists()


def test_shared_and_strided_tensors_come_back(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": base, "b": base, "t": base.T, "row": base[1]}
    loaded = checkpoint.read(checkpoint.save(tmp_path, 1, {"x": tensors}, {})).tensors("x")
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "it lacks 'weight' .and 1 more"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2), "x": torch.ones(1)}, "the network has no 'x'"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"'weight' is \[3, 2\] there and \[2, 2\] here"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(MultigenError, match=message):
        checkpoint.restore(nn.Linear(2, 2), tensors, "somewhere")


@pytest.mark.parametrize(("weights", "name", "value"), [(None, "ema_0.9", 1.0), ("model", "model", 5.0)])
def test_a_denoiser_is_loaded_averaged_or_as_trained(tmp_path: Path, weights: str | None, name: str, value: float) -> None:
    denoiser = nn.Module()
    denoiser.w = nn.Parameter(torch.zeros(2, 3))
    assert checkpoint.load_denoiser(denoiser, checkpoint.read(save(tmp_path)), weights) == name
    assert denoiser.w[1, 2] == value


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_optimisers_go_on_to_the_bit(tmp_path: Path, make) -> None:
    def train(net: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            net(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    net = nn.Linear(2, 2)
    optimizer = make(net.parameters())
    train(net, optimizer)
    tensors, values = checkpoint.pack_optimizer(optimizer)
    found = checkpoint.read(checkpoint.save(tmp_path, 1, {"optimizer": tensors}, {"optimizer": values}))
    other = nn.Linear(2, 2)
    other.load_state_dict(net.state_dict())
    resumed = make(other.parameters())
    checkpoint.unpack_optimizer(resumed, found.tensors("optimizer"), found.state["optimizer"])
    train(net, optimizer)
    train(other, resumed)
    assert torch.equal(net.weight, other.weight)


@pytest.mark.parametrize(("limit", "state", "name"), [(2000, 0, "model.safetensors"), (6000, 9000, "state.json")])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, limit: int, state: int, name: str) -> None:
    """A limit on file sizes is what a test can set without being root; the disk answers in the same place."""
    good = save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(MultigenError, match=rf"^cannot write .*/step_00000002/{name}: File too large$"):
            checkpoint.save(tmp_path, 2, {"model": {"w": torch.zeros(1000)}}, {"note": "x" * state})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == [good.name]
    checkpoint.read(good)


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="only root may mount a small disk")
def test_a_really_full_disk(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        good = save(tmp_path, 1)
        with pytest.raises(MultigenError, match=r"/step_00000002/model\.safetensors: No space left on device$") as raised:
            checkpoint.save(tmp_path, 2, {"model": {"w": torch.zeros(100_000)}}, {})
        assert "\n" not in str(raised.value)
        assert os.listdir(tmp_path) == [good.name]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
