"""``multigen benchmark`` as a person uses it."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest
import torch

from modalities.image.example import Noise
from modalities.molecule.example import Chains
from multigen import checkpoint
from multigen.benchmark.runner import saved
from multigen.benchmark.suite import suite
from multigen.cli import arm
from multigen.cli.main import run
from multigen.cli.suite import prepare
from multigen.cli.trained import opened
from multigen.describe import hash_tensors
from multigen.files import read_json, write_json
from multigen.run import Run, owning
from multigen.state import MultigenError


class Zigzags(Chains):
    """Whatever molecules an experiment reads."""

    def __init__(self, **settings) -> None:
        pass


class Pictures(Noise):
    """Whatever pictures an experiment reads."""

    def __init__(self, **settings) -> None:
        pass


SMALL = [
    "experiment=points/repa", "device=cpu", "data.train.count=32", "data.valid.count=16", "denoiser.width=16",
    "trainer.batch_size=8", "sampler.grid.steps=2",
]  # fmt: skip
TURNS = ["rounds=2", "steps=1", "samples=4"]


@pytest.fixture(autouse=True)
def anywhere(tmp_path, monkeypatch, data_root):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ratios_are_measured_printed_and_written(anywhere, monkeypatch, capsys):
    def no_compiler(*_, **__):
        raise RuntimeError("no working C++ compiler\nwas found")

    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    assert run(["prepare", "+cache.z.dtype=float32", *(s for s in SMALL if not s.startswith(("trainer", "sampler")))]) == 0
    assert (
        run(["benchmark", "+cache.z.dtype=float32", "targets=cached", "out=speed.json", "sampler_steps=[3]", *SMALL, *TURNS])
        == 0
    )
    said, found = capsys.readouterr().out, read_json("speed.json")
    ratios = found["ratios"]
    assert {name: r["of"] for name, r in ratios.items()} == {
        "alignment": ["step", "vanilla"],
        "online": ["online", "step"],
        "compile": ["compiled", "step"],
        "bf16": ["bf16", "step"],
        "loader": ["loader", "step"],
        "sampler": ["sampler", "network"],
        "events": ["always", "sampler"],
    }
    assert found["samplings"]["3 steps"]["samples_per_second"] > 0 and "3 steps" in said
    assert ratios["events"]["skipped"] == "the sampler asks at every step"
    assert ratios["compile"]["skipped"] == "no working C++ compiler was found"
    assert "compile skipped: no working C++ compiler was found" in said
    for name in ("alignment", "online", "bf16", "loader", "sampler"):
        assert 0 < ratios[name]["wall"]["low"] <= ratios[name]["wall"]["median"] <= ratios[name]["wall"]["high"]
        assert ratios[name]["cpu"]["median"] > 0 and name in said
    assert all(len(t["wall"]) == 2 for t in found["times"].values())
    assert all(0 < t["peak_share"] < 2 and t["examples_per_second"] > 0 for t in found["trainings"].values())
    assert found["sizes"]["network_evaluations"] == 2 and found["versions"]["threads"]
    assert {p.name for p in anywhere.iterdir()} - {"data"} == {"speed.json"}


def test_what_cannot_be_measured_is_said(capsys):
    assert run(["benchmark", "measure=[alignment,online]", *SMALL, *TURNS]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "online skipped: cached target 'z'" in said and "multigen prepare experiment=points/repa" in said


def test_mistakes_are_one_line(capsys):
    cases = {
        ("benchmark",): "experiment=NAME or compare=[RUN,RUN]",
        ("benchmark", *SMALL, "measure=[compil]"): "did you mean 'compile'",
        ("benchmark", *SMALL, "rounds=0"): "rounds is at least 1",
        ("benchmark", *SMALL, "steps=many"): "steps is 'many', expected int",
        ("benchmark", *SMALL, "targets=cached"): "multigen prepare experiment=points/repa",
        ("benchmark", "compare=[nowhere]"): "nowhere is not a run folder",
    }
    for arguments, said in cases.items():
        assert run(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and said in err


def test_trained_arms_are_compared(anywhere, capsys):
    given = [s for s in SMALL if not s.startswith("experiment")]
    quick = ["trainer.steps=4", "trainer.progress=false", "trainer.log_to=[]", "++trainer.observers.validation.every=2"]
    for name in ("vanilla", "repa"):
        assert run(["train", f"experiment=points/{name}", f"run=runs/{name}", *given, *quick, "trainer.log_every=2"]) == 0
    assert run(["benchmark", "compare=[runs/*]", "out=compared"]) == 0
    assert run(["benchmark", "compare={a:[runs/repa],b:[runs/vanilla]}", "baseline=a", "out=again"]) == 0
    said = capsys.readouterr().out
    assert "| points/vanilla | points/repa |" in said and "steps to valid/denoise/point" in said
    found = read_json("compared/comparison.json")
    assert found["baseline"] == "points/vanilla" and list(found["curves"]) == ["valid/denoise/point"]
    assert found["curves"]["valid/denoise/point"]["points/repa"]["steps"] == [2, 4]
    assert read_json("again/comparison.json")["baseline"] == "a"


SMOKE = [
    "benchmark", "domain=smoke", "device=cpu", "out=smoke", "domain.steps=4", "repeat=2", "arms=[vanilla,shuffled]", "jobs=2",
    "domain.validation.every=2", "domain.samples={every:4,n:20}", "domain.measures={every:4,n:20,batch_size:20}",
    "domain.settings={trainer.batch_size:8,trainer.log_every:2,data.train.count:64,data.valid.count:32,sampler.grid.steps:2}",
]  # fmt: skip


def test_arms_are_trained_compared_and_drawn(anywhere, capsys):
    """Every part of a benchmark, in processes of its own, and then once more with nothing left to do."""
    assert run(SMOKE) == 0
    said, found = capsys.readouterr().out, read_json("smoke/results.json")
    assert "After 4 steps with one seed, vanilla has a held-out denoising loss of" in said
    assert "A second run of shuffled-0 gave the same" in said and found["again"]["largest_difference"] == 0
    assert found["numbers"]["same_batches"] and found["initial"] == {"vanilla": 1.0, "shuffled": 1.0}
    assert found["runs"]["shuffled-0"]["start"]["teacher"]["flops_per_example"] > 0
    assert found["runs"]["vanilla-0"]["start"]["flops_per_step"] > 0 and found["configs"]["shuffled"]["pairing"] == "shuffled"
    assert [q["of"] for q in found["numbers"]["quality"]] == ["valid/denoise/point", "sample/energy_distance"]
    assert {p.name for p in (anywhere / "smoke").iterdir()} == {
        ".lock", "runs", "state.json", "results.json", "results.md", "figure.png", "report.html",
    }  # fmt: skip
    assert [part["step"] for part in found["runs"]["vanilla-0"]["versions"]] == [0]
    before = (anywhere / "smoke/report.html").read_text()
    assert run(["benchmark", "redraw=smoke"]) == 0 and (anywhere / "smoke/report.html").read_text() == before
    assert run(SMOKE) == 0 and read_json("smoke/results.json")["runs"] == found["runs"], "nothing was left to do"
    said = capsys.readouterr().err
    assert "2 runs of 4 steps and 2 steps of one of them again, 2 side by side, " in said and " each, in smoke" in said
    for changed, why in {
        "domain.settings={trainer.batch_size:16}": "holds a run of another configuration: trainer.batch_size was 8 and is 16",
        "domain.measures={n:10}": "measured in another way so far: trainer.observers.measures.n was 20 and is 10",
        "domain.settings={sampler.grid.steps:3}": "measured in another way so far: sampler.grid.steps was 2 and is 3",
    }.items():
        assert run([*SMOKE, changed]) == 2
        said = capsys.readouterr().err
        assert why in said and said.endswith("choose out=FOLDER\n") and said.count("\n") == 1
    with owning(anywhere / "smoke"):
        assert run(SMOKE) == 2
    assert capsys.readouterr().err == f"error: smoke is being written by another process (number {os.getpid()})\n"


def test_a_run_waits_for_the_one_that_a_killed_benchmark_left(anywhere):
    quick = {"trainer.batch_size": 8, "data.train.count": 32, "data.valid.count": 16}
    domain = {"name": "toy", "arms": {"vanilla": "points/vanilla"}, "steps": 4, "seeds": 1, "settings": quick}
    plan = suite({**domain, "quality": [{"of": "valid", "words": "loss"}]})
    prepare(plan, anywhere, "cpu")
    left = Run(anywhere / "runs" / "vanilla-0")
    held, ended = threading.Event(), threading.Event()

    def leave():
        with owning(left.folder):
            held.set()
            time.sleep(2)
            ended.set()

    orphan = threading.Thread(target=leave)
    orphan.start()
    held.wait()
    arm.main([str(left.folder), "2", str(os.getppid())])
    assert ended.is_set() and saved(left.folder) == 2
    arm.main([str(left.folder), "2", str(os.getppid())])
    assert saved(left.folder) == 2, "what is done already is not gone beyond"
    orphan.join()


def test_an_arm_starts_from_another_runs_weights_and_goes_on_without_it(anywhere):
    domain = {"name": "toy", "steps": 4, "seeds": 1, "quality": [{"of": "valid", "words": "loss"}]}
    quick = {"trainer.batch_size": 8, "data.train.count": 32, "data.valid.count": 16, "targets": "online"}
    source, tuned = (Run(anywhere / name / "runs" / "repa-0") for name in ("source", "tuned"))
    for one, settings in ((source, {}), (tuned, {"start": str(source.folder)})):
        arms = {"repa": {"experiment": "points/repa", "settings": settings}}
        prepare(suite({**domain, "arms": arms, "settings": quick}), one.folder.parents[1], "cpu")
        arm.main([str(one.folder), "2", str(os.getppid())])
    found = opened(source, None)
    averaged = found.tensors(checkpoint.averages(found)[0])
    initial = [read_json(one.folder / "start.json")["initial"] for one in (source, tuned)]
    assert initial[1] == {k: hash_tensors({"0": x})[:12] for k, x in averaged.items()} != initial[0]
    shutil.rmtree(source.folder)
    arm.main([str(tuned.folder), "4", str(os.getppid())])
    assert saved(tuned.folder) == 4


def test_runs_are_changed_all_or_none_and_keep_their_versions(anywhere):
    domain = {"name": "toy", "steps": 4, "seeds": 1, "quality": [{"of": "valid", "words": "loss"}]}
    arms = {"vanilla": "points/vanilla", "repa": "points/repa"}
    prepare(suite({**domain, "arms": arms}), anywhere, "cpu")
    runs = [Run(anywhere / "runs" / f"{arm}-0") for arm in arms]
    assert all({x.name for x in one.folder.iterdir()} == {".lock", "config.yaml"} for one in runs)
    made_by = {"torch": "of then", "precision": "bf16"}
    for one in runs:
        write_json(one.folder / "versions.json", made_by)
    other = {**arms, "repa": {"experiment": "points/repa", "settings": {"trainer.batch_size": 3}}}
    with pytest.raises(MultigenError, match=r"repa-0 holds a run of another configuration: trainer\.batch_size"):
        prepare(suite({**domain, "steps": 6, "arms": other}), anywhere, "cpu")
    assert [one.stored()["trainer"]["steps"] for one in runs] == [4, 4]
    prepare(suite({**domain, "steps": 6, "arms": arms}), anywhere, "cpu")
    assert [one.stored()["trainer"]["steps"] for one in runs] == [6, 6]
    assert all(read_json(one.folder / "versions.json") == made_by for one in runs)


def test_mistakes_in_a_suite_are_one_line(capsys):
    cases = {
        ("domain=smok",): "did you mean 'smoke'",
        ("domain=smoke", "arms=[vanila]"): "did you mean 'vanilla'",
        ("domain=smoke", "arms=[points/vanila]"): "arm 'points/vanila': unknown experiment",
        ("domain=smoke", "budget=60"): "a number and a unit",
        ("domain=smoke", "domain.setings={}"): "domain has no 'setings': did you mean 'settings'",
        ("domain=smoke", "jobs=many"): "jobs is 'many'",
        ("domain=smoke", "jobs=0"): "jobs is at least 1, got 0",
        (
            "domain=smoke",
            "trainer.steps=5",
        ): "a benchmark of a domain does not read trainer.steps; what its runs do is",
        ("redraw=nowhere",): "nowhere/results.json does not exist",
    }
    for arguments, said in cases.items():
        assert run(["benchmark", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and said in err, err


def test_a_modality_adds_what_it_wants_compared(monkeypatch, capsys):
    monkeypatch.setattr("modalities.molecule.ccd.Ccd", Zigzags)
    small = [
        "experiment=molecule/vanilla", "device=cpu", "denoiser.width=8", "denoiser.sets=4", "denoiser.layers=2", "samples=4",
        "denoiser.heads=2", "trainer.batch_tokens=32", "trainer.precision='no'", "rounds=2", "steps=1", "out=speed.json",
    ]  # fmt: skip
    assert run(["benchmark", "measure=[coupling,egnn]", "sampler_steps=[1,2]", *small]) == 0
    said, found = capsys.readouterr().out, read_json("speed.json")
    assert {name: r["of"] for name, r in found["ratios"].items()} == {name: ["step", name] for name in ("coupling", "egnn")}
    assert all(r["wall"]["median"] > 0 for r in found["ratios"].values()) and list(found["samplings"]) == [
        "1 steps",
        "2 steps",
    ]
    assert 0 <= found["sizes"]["padding"]["training"] < 1 and 0 <= found["sizes"]["padding"]["sampling"] < 1
    assert "padding: " in said and "with optimal transport / without" in said


def test_a_network_adds_what_it_wants_compared(monkeypatch, capsys):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    monkeypatch.setattr("modalities.image.data.Emoji", Pictures)
    small = [
        "experiment=image/emoji_vanilla", "data.train.size=8", "modality.classes=3", "modality.labels=balanced",
        "denoiser.width=16", "denoiser.heads=2", "denoiser.depth=2", "device=cpu", "metrics={}", "trainer.batch_size=4",
        "trainer.precision='no'", "rounds=2", "steps=1", "out=speed.json",
    ]  # fmt: skip
    assert run(["benchmark", "measure=[plain_sit,plain_sit_compiled]", *small]) == 0
    found = read_json("speed.json")
    assert {name: r["of"] for name, r in found["ratios"].items()} == {
        "plain_sit": ["step", "plain_sit"],
        "plain_sit_compiled": ["compiled", "plain_sit_compiled"],
    }
    assert all(r["wall"]["median"] > 0 for r in found["ratios"].values())
    assert "the network / a plain SiT" in capsys.readouterr().out
