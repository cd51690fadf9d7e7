"""A run's folder: one writer, one configuration, metrics that never tear."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from multigen import describe, files
from multigen.run import Run, owning
from multigen.state import MultigenError

CONFIG = {"name": "x", "optimizer": {"lr": 1e-5, "betas": (0.9, 0.999)}, "trainer": {"steps": 10, "ema": [0.9], "workers": 0}}


def test_the_configuration_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", CONFIG)
    with run.open():
        pass
    assert Run(tmp_path / "run").stored() == {**CONFIG, "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999]}}
    assert "multigen" in files.read_json(tmp_path / "run" / "versions.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": {"lr": 2e-5, "betas": (0.9, 0.999)}}, ["optimizer.lr was 1e-05 and is 2e-05"]),
        ({"optimizer": {"betas": (0.9, 0.9)}}, ["optimizer.lr was 1e-05 and is 'absent'", "optimizer.betas was"]),
        ({"seed": 1}, ["seed was 'absent' and is 1"]),
        ({"trainer": {"steps": 20, "ema": [0.9], "workers": 4}, "device": "cpu", "sampler": {"steps": 3}, "name": "y"}, []),
    ],
)
def test_going_on_with_another_configuration_names_what_differs(tmp_path: Path, change: dict, words: list[str]) -> None:
    with Run(tmp_path, CONFIG).open():
        pass
    now = Run(tmp_path, {**CONFIG, **change})
    if words:
        with pytest.raises(MultigenError) as raised, now.open():
            pass
        assert all(word in str(raised.value) for word in words) and "\n" not in str(raised.value)
        assert Run(tmp_path).stored()["name"] == "x"
        assert now.digest != Run(tmp_path, CONFIG).digest
    else:
        with now.open():
            assert Run(tmp_path).stored()["trainer"]["steps"] == 20
        assert now.digest == Run(tmp_path, CONFIG).digest


def test_versions_name_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    monkeypatch.setattr(describe, "__file__", str(tmp_path / "multigen" / "describe.py"))
    describe._commit.cache_clear()
    assert "commit" not in describe.versions()
    for command in (["init"], ["add", "."], ["commit", "-m", "x", "--allow-empty"]):
        (tmp_path / "file").touch()
        subprocess.run([*git, *command], check=True, capture_output=True)
    describe._commit.cache_clear()
    clean = describe.versions()["commit"]
    (tmp_path / "file").write_text("changed")
    assert describe.versions()["commit"] == clean, "git is asked once"
    describe._commit.cache_clear()
    assert describe.versions()["commit"] == f"{clean}-dirty"
    describe._commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert "commit" not in describe.versions()
    describe._commit.cache_clear()


@pytest.mark.parametrize("content", [None, "a: [", "- just\n- a list\n"])
def test_what_is_not_a_run_folder_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(MultigenError, match=tmp_path.name):
        Run(tmp_path).stored()


def test_a_second_writer_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    refusal = f"another process .number {os.getpid()}"
    with Run(tmp_path).open():
        for _ in range(2):  # the refused one must not have taken the lock along
            with pytest.raises(MultigenError, match=refusal), Run(tmp_path).open():
                pass
    with Run(tmp_path).open():
        pass


def test_who_waits_goes_on_when_the_other_writer_has_ended(tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        with owning(tmp_path):
            begun.set()
            time.sleep(1)
            ended.set()

    begun, writer = threading.Event(), threading.Thread(target=write)
    writer.start()
    begun.wait()
    with pytest.raises(MultigenError, match=f"another process .number {os.getpid()}"):
        Run(tmp_path).wait(0.3)
    Run(tmp_path).wait(60)
    assert ended.is_set()
    writer.join()


def test_a_killed_writer_leaves_no_lock_even_if_its_children_live_on(tmp_path: Path) -> None:
    says, hears = os.pipe()
    writer = os.fork()
    if writer == 0:
        with Run(tmp_path).open():
            child = os.fork()
            if child:
                os.write(hears, f"{child}\n".encode())
            time.sleep(60)
        os._exit(0)
    child = int(os.read(says, 32))
    try:
        with pytest.raises(MultigenError, match=f"number {writer}"), Run(tmp_path).open():
            pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with Run(tmp_path).open():
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(says)
        os.close(hears)


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.open():
        pass
    files.temporary(run.checkpoints / "step_1").mkdir()
    files.temporary(tmp_path / "config.yaml").touch()
    with run.open():
        assert not list(run.checkpoints.iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "checkpoints", "versions.json"}


def test_a_folder_that_cannot_be_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MultigenError, match="cannot write"), Run(tmp_path / "file" / "run").open():
        pass


def test_metrics_are_rewound_to_the_step_and_torn_lines_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (2, 4, 6):
        run.log(step, {"loss": step / 2, "bad": float("nan")})
    with open(run.metrics, "ab") as file:
        file.write(b'{"step": 8, "lo')
    assert [entry["step"] for entry in run.history()] == [2, 4, 6]
    run.rewind(4)
    run.log(6, {"loss": 1.0})
    assert run.metrics.read_text().splitlines() == [
        '{"step": 2, "loss": 1.0, "bad": null}',
        '{"step": 4, "loss": 2.0, "bad": null}',
        '{"step": 6, "loss": 1.0}',
    ]


def test_rewinding_nothing_makes_nothing(tmp_path: Path) -> None:
    Run(tmp_path).rewind(0)
    assert not list(tmp_path.iterdir()) and Run(tmp_path).history() == []
