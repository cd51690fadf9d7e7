"""The command line as a person uses it: from any folder, one line for a mistake, nothing left behind."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from multigen import checkpoint
from multigen.cli.evaluate import perplexities
from multigen.cli.main import COMMANDS, run
from multigen.run import Run

SMALL = [
    "trainer.steps=4", "trainer.batch_size=8", "trainer.progress=false", "trainer.log_to=[]", "trainer.log_every=1",
    "trainer.observers.validation.limit=2", "trainer.observers.samples.n=2", "sampler.grid.steps=2", "device=cpu",
    "data.train.count=32", "data.valid.count=16", "denoiser.width=16",
]  # fmt: skip


@pytest.fixture(autouse=True)
def anywhere(tmp_path, monkeypatch):
    """A folder that is not the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(capsys):
    assert run(["train", "experiment=points/vanilla", "run=run", *SMALL]) == 0
    capsys.readouterr()
    return Path("run")


def refused(capsys, *arguments: str) -> str:
    """The message of a command line that is a mistake: one line, and nothing else."""
    code = run(list(arguments))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


POINTS = ["train", "experiment=points/vanilla"]
REPA = ["train", "experiment=points/repa"]

MISTAKES: list[tuple[list[str], list[str]]] = [
    (["trian"], ["'trian'", "did you mean 'train'"]),
    (["train"], ["experiment=NAME", "points/vanilla"]),
    (["train", "--frobnicate"], ["'--frobnicate'", "key=value"]),
    (["train", "steps"], ["'steps'", "key=value"]),
    (["train", "seed=[1"], ["'seed=[1'"]),
    (["train", "experiment=points/vanila"], ["'points/vanila'", "did you mean 'points/vanilla'", "image/demo"]),
    ([*POINTS, "sampler=sed"], ["sampler 'sed'", "did you mean 'sde'", "heun"]),
    ([*POINTS, "trainer.stepz=3"], ["'trainer.stepz'", "did you mean 'trainer.steps'"]),
    ([*POINTS, "trainr.steps=3"], ["'trainr.steps'", "did you mean 'trainer'"]),
    ([*POINTS, "seed.x=3"], ["'seed' is a single value"]),
    ([*POINTS, "denoiser=null"], ["group"]),
    ([*POINTS, "seed=1,2"], ["seed=1,2", "-m"]),
    ([*POINTS, "denoiser._target_=modalities.points.denoiser.MPL"], ["denoiser", "MPL", "did you mean 'MLP'"]),
    ([*POINTS, "denoiser._target_=nowhere.MLP"], ["denoiser", "no module 'nowhere'"]),
    ([*POINTS, "+denoiser.widht=3"], ["denoiser", "'widht'", "did you mean 'width'"]),
    ([*POINTS, "processes.point.predict=velo"], ["processes.point", "'velo'", "velocity, clean"]),
    ([*POINTS, "trainer.steps=0"], ["trainer: steps is at least 1, got 0"]),
    ([*POINTS, "trainer.steps=many"], ["trainer.steps is 'many', expected int"]),
    ([*POINTS, "trainer.steps=4.5"], ["trainer.steps is 4.5, expected int"]),
    ([*POINTS, "trainer.log_every=1.5"], ["trainer.log_every is 1.5, expected int"]),
    ([*POINTS, "trainer.batch_size=abc"], ["trainer.batch_size is 'abc', expected int"]),
    ([*POINTS, "trainer.clip=abc"], ["trainer.clip is 'abc', expected float or null"]),
    ([*POINTS, "trainer.schedule=abc"], ["trainer.schedule is 'abc', expected float or a component"]),
    ([*POINTS, "trainer.log_to=tensorboard"], ["trainer.log_to is 'tensorboard', expected a list"]),
    ([*POINTS, "trainer.ema=[0.9,abc]"], ["trainer.ema[1] is 'abc', expected float"]),
    ([*POINTS, "trainer.workers=-1"], ["trainer: workers is at least 0, got -1"]),
    ([*POINTS, "trainer.workers=abc"], ["trainer.workers is 'abc', expected int"]),
    ([*POINTS, "trainer.observers.validation.every=0"], ["Validation.every is at least 1, got 0"]),
    ([*POINTS, "trainer.observers.samples.every=0"], ["SampleGrid.every is at least 1, got 0"]),
    ([*POINTS, "trainer.observers.samples.n=0"], ["trainer.observers.samples", "n is at least 1, got 0"]),
    ([*POINTS, "objective.weights.denoise=abc"], ["objective.weights.denoise is 'abc', expected float or a component"]),
    ([*POINTS, "optimizer.lr=-1"], ["trainer", "learning rate"]),
    ([*POINTS, "denoiser.width=-4"], ["denoiser: width is at least 1, got -4"]),
    ([*POINTS, "denoiser.depth=0"], ["denoiser: depth is at least 1, got 0"]),
    ([*POINTS, "run=[a,b]"], ["run is ['a', 'b'], expected str or null"]),
    ([*POINTS, "seed=abc"], ["seed is 'abc', expected int"]),
    ([*POINTS, "run=/proc/x"], ["cannot write /proc/x"]),
    (["train", "resume=[a,b]"], ["resume is ['a', 'b'], expected str or null"]),
    (["sample", "run=nowhere", "n=abc"], ["n is 'abc', expected int"]),
    (["sample", "run=nowhere", "n=2.5"], ["n is 2.5, expected int"]),
    (["sample", "run=nowhere", "n=0"], ["n is at least 1, got 0"]),
    (["sample", "run=nowhere", "batch_size=abc"], ["batch_size is 'abc', expected int"]),
    (["sample", "run=nowhere", "seed=abc"], ["seed is 'abc', expected int"]),
    (["evaluate", "run=nowhere", "evaluate.n=many"], ["evaluate.n is 'many', expected int or null"]),
    (["evaluate", "run=nowhere", "evaluate.repeats=-1"], ["evaluate.repeats is at least 0, got -1"]),
    (["prepare", "experiment=points/repa", "jobs=0"], ["jobs is at least 1, got 0"]),
    (["prepare", "experiment=points/repa", "workers=null"], ["workers is null, expected int"]),
    ([*POINTS, "device=tpu"], ["'tpu'", "auto"]),
    ([*REPA, "targets=cashed"], ["'cashed'", "did you mean 'cached'"]),
    ([*REPA, "targets=cached"], ["'z'", "not prepared", "multigen prepare experiment=points/repa"]),
    ([*REPA, "objective.terms.z.tap=block9"], ["block9", "block1"]),
    ([*REPA, "objective.terms.z.target=y"], ["lacks target 'y'", "'z'"]),
    ([*REPA, "objective.terms.z.projector.out=3"], ["(8, 3)", "(8, 8)"]),
    (["train", "experiment=image/demo"], ["multigen prepare data=emoji"]),
    (["train", "resume=nowhere"], ["nowhere", "not a run folder"]),
    (["train", "resume=nowhere", "experiment=points/vanilla"], ["one or the other"]),
    (["sample"], ["run=FOLDER"]),
    (["sample", "run=nowhere"], ["nowhere", "not a run folder"]),
    (["evaluate", "run=nowhere"], ["nowhere", "not a run folder"]),
    (["report", "run=nowhere"], ["nowhere", "not a run folder"]),
    (["prepare", "data=emojis"], ["'emojis'", "did you mean 'emoji'"]),
    (["list", "verbose=1"], ["'verbose'"]),
]  # fmt: skip
"""Arguments, and words that the message must have."""


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistakes_are_one_line(arguments, said, capsys, data_root):
    message = refused(capsys, *small_with(arguments))
    assert all(words in message for words in said), message


def small_with(arguments: list[str]) -> list[str]:
    """A training on points made small, as far as the arguments do not say otherwise."""
    given = {a.partition("=")[0] for a in arguments}
    is_points = arguments[:2] in (POINTS, REPA)
    return [*arguments, *(a for a in SMALL if is_points and a.partition("=")[0] not in given)]


def test_what_a_run_may_not_change(trained, capsys):
    message = refused(capsys, "train", "resume=run", "seed=1")
    assert "run holds a run of another configuration: seed was 0 and is 1" in message
    message = refused(capsys, "train", "experiment=points/vanilla", "run=run", *SMALL, "optimizer.lr=0.5")
    assert "optimizer.lr was" in message and "0.5" in message


def test_a_damaged_checkpoint_is_named(trained, capsys):
    weights = next(trained.glob("checkpoints/*/ema_*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert str(weights) in refused(capsys, "sample", "run=run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out=/proc/x"], "cannot write /proc/x"),
        (["out=run/config.yaml"], "cannot write run/config.yaml: File exists"),
        (["sampler=dopri5", "given=[point]"], "given= needs a sampler with a grid"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(arguments, said, trained, capsys):
    assert said in refused(capsys, "sample", "run=run", "n=2", *arguments)


def test_train_go_on_sample_evaluate_report(trained, anywhere, capsys):
    assert run(["train", "resume=run", "trainer.steps=6"]) == 0
    assert checkpoint.latest(trained / "checkpoints").step == 6
    assert [row["step"] for row in Run(trained).history() if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert run(["sample", "run=run", "n=5", "batch_size=2", "out=five"]) == 0
    assert run(["sample", "run=run", "n=3", "out=three"]) == 0
    five, three = (Path(name, "points.csv").read_text().splitlines() for name in ("five", "three"))
    assert five[:4] == three and len(five) == 6
    assert run(["sample", "run=run", "n=3", "sampler=heun", "sampler.grid.steps=4", "out=heun"]) == 0
    assert Path("heun/points.csv").read_text().splitlines() != three
    assert Path("heun/all.png").is_file()
    itself = ["sampler.guide.scale=2", "sampler.guide.weak=run"]  # guided away from its equal, nothing changes
    assert run(["sample", "run=run", "n=3", *itself, "out=itself"]) == 0
    assert Path("itself/points.csv").read_text().splitlines() == three
    assert run(["evaluate", "run=run", "evaluate.n=8"]) == 0
    said = capsys.readouterr().out
    assert "energy_distance" in said and "loss/denoise/point" in said
    assert "<html" in (trained / "report.html").read_text().lower()
    assert run(["report", "run=[run,run]", "out=both.html"]) == 0
    assert {p.name for p in anywhere.iterdir()} == {"run", "five", "three", "heun", "itself", "both.html"}


def test_a_new_run_is_named_after_its_experiment(anywhere, capsys):
    for _ in range(2):
        assert run(["train", "experiment=points/vanilla", "seed=3", *SMALL]) == 0
    names = sorted(p.name for p in (anywhere / "outputs").iterdir())
    assert len(names) == 2 and all(name.startswith("points_vanilla-seed3-") for name in names)
    assert [p.name for p in anywhere.iterdir()] == ["outputs"]


def test_a_network_and_an_experiment_of_ones_own(anywhere, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("own_network.py").write_text("from modalities.points.denoiser import MLP\nclass Mine(MLP):\n    pass\n")
    Path("mine/experiment").mkdir(parents=True)
    own = "defaults: [/experiment/points/vanilla, _self_]\nname: own\ndenoiser: {_target_: own_network.Mine}"
    Path("mine/experiment/own.yaml").write_text(f"# @package _global_\n{own}\n")
    assert run(["train", "--config-dir", "mine", "experiment=own", "run=run", *SMALL]) == 0
    assert run(["sample", "run=run", "n=2"]) == 0
    capsys.readouterr()
    message = refused(capsys, "train", "--config-dir", "mine", "experiment=own", "trainer.stepz=3")
    assert "did you mean 'trainer.steps'" in message
    assert "nowhere" in refused(capsys, "train", "--config-dir=nowhere", "experiment=own")


def test_multirun(anywhere, capsys):
    common = [
        a for a in SMALL if not a.startswith(("data.", "denoiser."))
    ]  # Hydra reads what all jobs share without an experiment
    assert run(["train", "-m", "experiment=points/vanilla,points/repa", "seed=0,1", *common]) == 0
    runs = [Run(p).stored() for p in (anywhere / "outputs").iterdir()]
    found = {(config["name"], config["seed"]) for config in runs}
    assert found == {(name, seed) for name in ("points/vanilla", "points/repa") for seed in (0, 1)}
    assert [p.name for p in anywhere.iterdir()] == ["outputs"]


def test_a_mistake_stops_a_multirun(capsys):
    message = refused(
        capsys, "train", "-m", "experiment=points/vanilla", "seed=0,1", "device=tpu", *(a for a in SMALL if "device" not in a)
    )
    assert "'tpu'" in message
    assert not Path("outputs").exists()


def test_prepared_targets_train(data_root, capsys):
    small = ["experiment=points/repa", "+cache.z.dtype=float32", *(a for a in SMALL if a.startswith("data."))]
    for _ in range(2):
        assert run(["prepare", *small]) == 0
    assert run(["list"]) == 0
    assert "z of 32 examples as float32" in capsys.readouterr().out
    for targets in ("cached", "online"):
        assert run(["train", *small, *SMALL, f"targets={targets}", f"run={targets}"]) == 0
    cached, online = ([row["loss"] for row in Run(name).history() if "loss" in row] for name in ("cached", "online"))
    assert cached == pytest.approx(online, rel=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_its_keys(command, capsys):
    assert run([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"usage: multigen {command}" in out and err == ""
    assert "hydra" not in out.lower()
    if command in ("train", "prepare"):
        assert "points/vanilla" in out and "examples:" in out


def test_usage_and_version(capsys):
    assert run([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert run(["--version"]) == 0


def test_list_shows_experiments_modalities_and_data(data_root, capsys):
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    assert "image/emoji_reed" in out and "points" in out and str(data_root) in out


def test_defects_keep_their_traceback(monkeypatch):
    """What is not the user's mistake must not look like one."""
    monkeypatch.setattr("multigen.cli.list.experiments", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["list"])


def test_a_disk_that_refuses_is_no_defect(monkeypatch, capsys):
    def experiments():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "somewhere")

    monkeypatch.setattr("multigen.cli.list.experiments", experiments)
    assert "somewhere: Permission denied" in refused(capsys, "list")


def test_debug_shows_where_a_mistake_came_from(capsys):
    assert run(["sample", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_training_saves_and_goes_on(anywhere):
    """Ctrl-C in another process: exit code 130, one line that says how to go on, and no step lost."""
    settings = [*(a for a in SMALL if "steps" not in a), "trainer.steps=100000", "trainer.log_every=5"]
    command = [sys.executable, "-m", "multigen.cli", "train", "experiment=points/vanilla", "run=run", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + 120
    while not Run("run").history() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "multigen train resume=run" in err and "Traceback" not in err
    step = checkpoint.latest(Path("run/checkpoints")).step
    assert run(["train", "resume=run", f"trainer.steps={step + 2}"]) == 0
    assert checkpoint.latest(Path("run/checkpoints")).step == step + 2


def environment() -> dict[str, str]:
    """This process's, with the checkout importable also where it is not installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_two_processes_train_as_one(trained, anywhere):
    command = [*TORCHRUN, "-m", "multigen.cli", "train", "experiment=points/vanilla", "run=two", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    one, two = ([row["loss"] for row in Run(folder).history() if "loss" in row] for folder in (trained, "two"))
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-5)


def test_two_processes_sample_as_one(trained, anywhere):
    arguments = ["sample", "run=run", "n=5", "device=cpu"]
    command = [*TORCHRUN, "-m", "multigen.cli", *arguments, "batch_size=1", "out=two"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("samples of step") == 1
    assert run([*arguments, "out=one"]) == 0
    two, one = (np.loadtxt(f"{name}/points.csv", delimiter=",", skiprows=1) for name in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)  # batches of other sizes round differently


def test_a_bound_in_nats_is_also_said_as_a_perplexity():
    """Of the mean: exponentials of single examples would say more than the model knows."""
    assert perplexities({"recall/nll": math.log(7.0), "denoise/x": 1.0}) == pytest.approx({"recall/perplexity": 7.0})


def test_commands_leave_loggers_as_they_are():
    """That a damaged checkpoint is passed over is said by a logger."""
    assert run(["list"]) == 0
    assert not logging.getLogger("multigen.checkpoint").disabled
