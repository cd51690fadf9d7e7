"""Samples on a large scale: drawn in shards that outlive a kill, by any number of processes, measured from files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from modalities.image.sets import Archive
from multigen.cli.main import run
from multigen.cli.trained import located
from multigen.files import read_json

SMALL = [
    "experiment=image/emoji_vanilla", "data=folder", "data.path=noise", "modality.classes=3", "modality.labels=balanced",
    "trainer.steps=2", "trainer.checkpoint_every=1", "trainer.batch_size=4", "trainer.precision=no", "trainer.progress=false",
    "trainer.log_to=[]", "trainer.observers.validation.limit=2", "trainer.observers.samples.n=2", "sampler.grid.steps=2",
    "denoiser.width=24", "denoiser.depth=1", "metrics.features=null", "device=cpu",
]  # fmt: skip
TEACHER = "metrics.teacher.network.encoder.pretrained=false"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a trained run, and a data root."""
    root = tmp_path_factory.mktemp("made")
    for i, picture in enumerate(np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)):
        path = root / "noise" / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(picture).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIGEN_DATA", str(root / "data"))
        patch.chdir(root)
        assert run(["train", "run=run", *SMALL]) == 0
        yield root


@pytest.fixture(autouse=True)
def inside(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("MULTIGEN_DATA", str(made / "data"))


def command(*arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *launcher, "-m", "multigen.cli", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def states() -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(Path("run/evaluation").glob("*/[0-9]*.safetensors"))}


def test_killed_while_sampling_it_goes_on_where_it_was_in_two_processes():
    arguments = ["sample", "run=run", "n=40", "batch_size=2", "sampler.grid.steps=40", "device=cpu"]
    process = command(*arguments, "out=killed.npz")
    deadline = time.monotonic() + 120
    while len(states()) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = states()
    assert 3 <= len(before) < 20 and not Path("killed.npz").exists()
    again = command(*arguments, "out=killed.npz", processes=2)
    said, wrong = again.communicate()
    assert again.returncode == 0, wrong[-2000:]
    assert said.count("40 samples of step") == 1
    after = states()
    assert len(after) == 20 and before.items() <= after.items()  # what was drawn was not drawn again
    assert run([*arguments, "out=whole.npz"]) == 0
    assert states() == after  # nor by a third call
    for path in after:
        Path(path).unlink()
    assert run([*arguments, "out=fresh.npz"]) == 0
    for name in ("killed", "fresh"):
        assert (Archive(f"{name}.npz")._images == Archive("whole.npz")._images).all()


def test_an_archive_holds_samples_and_labels_and_says_how_they_were_made(capsys):
    assert run(["sample", "run=run", "n=5", "out=samples.npz", "seed=3"]) == 0
    with np.load("samples.npz") as found:
        assert found["arr_0"].shape == (5, 32, 32, 3) and found["arr_1"].tolist() == [0, 1, 2, 0, 1]
    assert run(["sample", "run=run", "n=5", "out=pngs", "seed=3"]) == 0
    assert all((np.asarray(Pillow.open(f"pngs/{i:06d}.png")) == Archive("samples.npz")[i]["image"]).all() for i in range(5))
    origin = read_json("samples.npz.json")
    assert origin["samples"]["seed"] == 3 and origin["samples"]["sampler"]["grid"]["steps"] == 2
    assert origin["checkpoint"]["step"] == 2 and origin["experiment"] == "image/emoji_vanilla"
    assert run(["sample", "run=run", "n=40", "out=uniform.npz", "modality.labels=uniform"]) == 0
    first = Archive("uniform.npz").labels
    assert run(["sample", "run=run", "n=20", "out=uniform.npz", "modality.labels=uniform", "batch_size=3"]) == 0
    assert Archive("uniform.npz").labels.tolist() == first[:20].tolist() != sorted(first[:20])
    capsys.readouterr()
    assert run(["sample", "run=run", "n=5", "out=samples.tar"]) == 2
    assert "choices are a folder and files that end in ['.npz']" in capsys.readouterr().err


def test_a_set_made_elsewhere_is_measured_without_a_run(capsys):
    assert run(["sample", "run=run", "n=6", "out=set.npz"]) == 0
    given = ["metrics=teacher", TEACHER, "metrics.teacher.network.encoder.size=32", "device=cpu"]
    assert run(["evaluate", "samples=set.npz", "reference=set.npz", *given]) == 0
    found = read_json("set.npz.evaluation.json")
    assert found["metrics"]["frechet_efficientnet_lite0"] == pytest.approx(0, abs=1e-6)
    assert found["samples"]["count"] == 6 and found["made_by"]["samples"]["sampler"]["grid"]["steps"] == 2
    known = found["about_metrics"]["teacher"]["statistics"]
    assert known["set"]["name"] == "set.npz" and known["resolution"] == [32, 32] and known["count"] == 6
    for i in range(6):
        Path("folder").mkdir(exist_ok=True)
        Pillow.fromarray(Archive("set.npz")[i]["image"]).save(f"folder/{i}.png")
    assert run(["evaluate", "samples=folder", "reference=set.npz", "out=found.json", *given]) == 0
    assert read_json("found.json")["metrics"] == pytest.approx(found["metrics"], abs=1e-6)
    capsys.readouterr()
    mistakes = {
        "metrics=[]": "which metrics? give metrics=NAME: choices of metrics are",
        "reference=null": "give reference=",
        "samples=nowhere": "nowhere does not exist",
        "metrics=inceptoin": "did you mean 'inception'",
        "metrics.teachr.rows=3": "did you mean 'teacher'",
        "metrics.teacher.row=3": "did you mean 'rows'",
        "samples=3": "samples is 3, expected str",
    }
    for change, said in mistakes.items():
        line = ["samples=set.npz", "reference=set.npz", *(given if "metrics=" not in change else []), change]
        assert run(["evaluate", *line]) == 2
        assert said in capsys.readouterr().err


def test_more_metrics_of_a_run_compare_with_its_own_data():
    given = ["metrics=teacher", TEACHER, "metrics.teacher.network.encoder.size=32", "device=cpu", "evaluate.repeats=0"]
    assert run(["evaluate", "run=run", "evaluate.n=6", *given]) == 0
    found = read_json("run/evaluation.json")
    assert found["metrics"]["frechet_efficientnet_lite0"] > 0
    about = found["about_metrics"]["teacher"]
    assert (
        about["statistics"]["set"]["split"] == "train"
        and "teacher" not in read_json("run/evaluation.json")["config"]["metrics"]
    )


def test_an_earlier_checkpoint_of_the_run_guides_it():
    """Autoguidance: away from the network as it was."""
    assert run(["sample", "run=run", "n=3", "out=plain.npz"]) == 0
    guide = ["sampler.guide.scale=3", "sampler.guide.weak=run/checkpoints/step_00000001"]
    assert run(["sample", "run=run", "n=3", "out=guided.npz", *guide]) == 0
    assert (
        run(["sample", "run=run", "n=3", "out=itself.npz", guide[0], "sampler.guide.weak=run/checkpoints/step_00000002"]) == 0
    )
    plain, guided, itself = (Archive(f"{name}.npz")._images for name in ("plain", "guided", "itself"))
    assert (itself == plain).all() and (guided != plain).any()


def test_an_earlier_checkpoint_is_sampled_and_measured():
    first, last = (f"run/checkpoints/step_0000000{step}" for step in (1, 2))
    for name, source in (("early", first), ("late", last), ("newest", "run")):
        assert run(["sample", f"run={source}", "n=3", f"out={name}.npz"]) == 0
    early, late, newest = (Archive(f"{name}.npz")._images for name in ("early", "late", "newest"))
    assert (late == newest).all() and (early != newest).any()
    assert read_json("early.npz.json")["checkpoint"]["step"] == 1
    asked = ["evaluate.n=6", "device=cpu", "evaluate.repeats=0"]
    for source, folder in (("run", "run"), (first, "run/evaluation/step_00000001"), (f"{last}/", "there")):
        assert run(["evaluate", f"run={source}", *asked, *(["out=there"] if folder == "there" else [])]) == 0
    found = [read_json(f"{folder}/evaluation.json") for folder in ("run", "run/evaluation/step_00000001", "there")]
    assert [one["checkpoint"]["step"] for one in found] == [2, 1, 2]
    assert found[0]["metrics"] == found[2]["metrics"] != found[1]["metrics"]


def test_what_is_near_a_checkpoint_is_told_from_one(capsys, tmp_path, monkeypatch):
    home, first = Path.cwd(), "checkpoints/step_00000001"
    for other in ("other", "disk", "moved/checkpoints", "linked"):  # a run, another disk, and runs whose checkpoints lie there
        (tmp_path / other).mkdir(parents=True)
    for other in ("other", "moved", "linked"):
        (tmp_path / other / "config.yaml").write_text("name: other\n")
    shutil.copytree(home / "run/checkpoints", tmp_path / "disk/kept")
    (tmp_path / "other/best").symlink_to(home / "run" / first)
    (tmp_path / "moved" / first).symlink_to(tmp_path / "disk/kept/step_00000001")
    (tmp_path / "linked/checkpoints").symlink_to(tmp_path / "disk/kept")
    (tmp_path / "loop").symlink_to("loop")
    for given, folder in {
        f"run/{first}/": Path("run"),
        tmp_path / "other/best": home / "run",  # not of the run that the link lies in
        tmp_path / "moved" / first: tmp_path / "moved",
        tmp_path / "linked" / first: tmp_path / "linked",
    }.items():
        owner, path = located(given)
        assert owner.folder == folder and path is not None and path.name == "step_00000001"
    monkeypatch.chdir(home / "run" / first)
    for given in (".", "../step_00000001"):
        owner, path = located(given)
        assert owner.folder.resolve() == (home / "run").resolve() and path == home / "run" / first
    monkeypatch.chdir(home)
    steps = "choices are ['step_00000001', 'step_00000002']"
    for given, said in {
        "run/checkpoints/step_00000007": f"run/checkpoints/step_00000007 is no checkpoint; {steps}",
        "run/checkpoints": f"run/checkpoints is no checkpoint; {steps}",
        "nowhere/checkpoints/step_00000001": "nowhere/checkpoints/step_00000001 is not a run folder",
        "checkpoints/nowhere": "checkpoints/nowhere is not a run folder",
        str(tmp_path / "loop"): "loop is not a run folder",
    }.items():
        assert run(["sample", f"run={given}", "n=3"]) == 2
        assert said in capsys.readouterr().err
    for inside in ("checkpoints", first, "evaluation"):
        (home / "run" / inside).mkdir(exist_ok=True)
        assert run(["report", f"run=run/{inside}"]) == 2
        assert f"run/{inside} is no run folder, but lies in the one of {home / 'run'}" in capsys.readouterr().err
