"""Preparing latents, killed at any moment and started again, ends with the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import killed, server

KILLS = int(os.environ.get("MULTIGEN_KILLS", "4"))
"""How often the test kills; set it to 20 and more for a thorough look."""

SECONDS = 1.5
"""The longest life that it grants."""


def _main(source: str, name: str, root: str, jobs: int) -> None:
    os.setsid()  # a process group of its own, as a shell gives to a job
    os.fsync = lambda handle: None  # slow, and a matter of power cuts, not of kills
    import torch

    from modalities.image.autoencoder_training import Recipe
    from modalities.image.latent_prepare import prepare

    torch.set_num_threads(1)
    recipe = Recipe(channels=(8, 8), latent=2, steps=8, batch_size=2, every=2)
    chosen = {"device": "cpu", "share": 20.0, "shard": 4, "batch_size": 4, "autoencoder": recipe}
    prepare(source, name, None, 32, jobs=jobs, root=root, **chosen)


@pytest.fixture(scope="module")
def start() -> Iterator[Any]:
    """Starts preparations, from a server process that has torch loaded already."""
    with server(["modalities.image.latent_prepare", "diffusers.models.autoencoders.autoencoder_kl"]) as context:

        def run(source: Path, name: str, root: Path, jobs: int = 1) -> BaseProcess:
            process = context.Process(target=_main, args=(str(source), name, str(root), jobs))
            process.start()
            return process

        yield run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    from PIL import Image

    for i in range(30):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((50, 40)).save(file, "PNG")
        path.write_bytes(file.getvalue()[: 200 if i == 7 else None])  # one is cut off
    return tmp_path / "pictures"


def content(folder: Path) -> dict[str, bytes]:
    """Every file but locks, and but how long the training of the autoencoder took."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if path.name != "training.json"}


def test_killed_at_random_moments(start: Any, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    process = start(source, "data", tmp_path / "whole")
    process.join()
    assert process.exitcode == 0
    whole = content(tmp_path / "whole" / "data")
    assert {"manifest.json", "vae/config.json", "pictures/manifest.json"} <= whole.keys()
    assert sum(name.endswith(".safetensors") and name.startswith("cache/") for name in whole) == 8
    *_, root = killed(lambda place, _: start(source, "data", place), tmp_path, KILLS, SECONDS)
    process = start(source, "data", root, jobs=2)
    process.join()
    assert process.exitcode == 0
    assert content(root / "data") == whole
