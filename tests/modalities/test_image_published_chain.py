"""What the files of ImageNet's experiments say prepares them does, with tiny models in the place of published ones."""

from __future__ import annotations

import io
from pathlib import Path

import hub_models
import numpy as np
import pytest
from PIL import Image as Pillow

from modalities.image.latent_data import LatentData
from multigen.cli.main import run
from multigen.run import Run

SMALL = [
    "data.vae=null", "data.pixels=16", "data.train.size=8", "data.raw_size=32", "device=cpu",
    "+data.prepare.autoencoder={_target_: modalities.image.autoencoder_training.Recipe, channels: [8, 8], steps: 1}",
]  # fmt: skip
NETWORK = [
    "denoiser.width=16", "denoiser.depth=16", "denoiser.heads=2", "objective.terms.patches.projector.out=32",
    "objective.terms.captions.projector.out=32", "modality.classes=2", "modality.scale=null", "modality.shift=null",
    "trainer.steps=1", "trainer.batch_size=4", "trainer.workers=0", "trainer.precision=no", "trainer.log_to=[]",
    "trainer.progress=false", "trainer.observers.samples=null", "trainer.observers.validation.limit=2",
]  # fmt: skip
REED = "experiment=image/imagenet256_reed"


def pictures(folder: Path) -> Path:
    """As ImageNet lies on a disk: sides, and classes in them."""
    random = np.random.default_rng(0)
    for side, count in (("train", 6), ("val", 2)):
        for i in range(count):
            path = folder / side / f"n{i % 2:08d}" / f"{i}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Pillow.fromarray(random.integers(0, 256, (40, 36, 3), np.uint8)).save(file, "JPEG")
            path.write_bytes(file.getvalue())
    return folder


def test_reed_on_imagenet_reads_what_the_commands_of_its_file_prepare(tmp_path, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    monkeypatch.setenv("MULTIGEN_DATA", str(tmp_path / "data"))
    source, captions, folder = pictures(tmp_path / "imagenet"), tmp_path / "captions.jsonl", tmp_path / "run"
    seeing, talking = hub_models.seeing("dinov2", tmp_path / "dino"), hub_models.talking(tmp_path / "qwen")

    assert run(["prepare", "data=imagenet", f"source={source}", *SMALL]) == 0
    assert run(["train", REED, f"run={folder}", *SMALL, *NETWORK]) != 0
    assert "latents imagenet256 (train) have no target 'tokens'" in capsys.readouterr().err
    dino = ["encoder=dinov2", f"encoders.tokens.model={seeing}"]
    assert run(["prepare", REED, f"source={source}", *SMALL, *dino]) == 0
    asked = ["prompt=describe", "tokens=3", *SMALL]
    assert run(["caption", "image/imagenet256_reed", f"model={talking}", f"out={captions}", *asked]) == 0
    qwen = ["encoder=qwen2_vl", f"encoders.caption.model={talking}", "encoders.caption.layer=1"]
    assert run(["prepare", REED, *SMALL, *qwen, f"encoders.caption.captions={captions}"]) == 0
    source.rename(tmp_path / "gone")
    seeing.rename(tmp_path / "no teacher")
    talking.rename(tmp_path / "no model")
    assert run(["train", REED, f"run={folder}", *SMALL, *NETWORK]) == 0
    (row,) = [row for row in Run(folder).history() if "loss" in row]
    assert {"loss/denoise/image", "loss/patches", "loss/captions"} <= row.keys()
    target = LatentData("imagenet256", 8, "valid", ["tokens", "caption"], raw_size=32)[0]["target"]
    assert target["tokens"].shape == (16, 32) and target["caption"].shape == (32,)
