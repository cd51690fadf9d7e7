"""Prepare latents of one's own pictures: list them, encode each with an autoencoder, measure scale and shift.

The encoding is a target of `multigen.cache` like any other: in shards, by several processes and on several devices, resumed
where it was killed, verified by checksums, and announced with its size and time before it begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalities.image import pictures
from modalities.image.autoencoder import Posterior
from modalities.image.autoencoder_training import Recipe, Training
from modalities.image.index import make_index, tell_left_out
from modalities.image.latent_data import place
from modalities.image.modality import Image
from modalities.image.pictures import Pictures, Some
from modalities.image.sources import open_source
from multigen import cache, files
from multigen.cache import Job, Storage
from multigen.cache.encode import spaced
from multigen.cache.read import Reader
from multigen.distributed import resolve
from multigen.state import MultigenError
from multigen.store import SPLITS

FORMAT = 1
MEASURED = 10_000
"""Pictures from which scale and shift are measured, evenly spaced."""


def prepare(
    path: str | Path | None,
    name: str,
    vae: str | None,
    pixels: int = 256,
    share: float = 10.0,
    classed: bool = True,
    strict: bool = False,
    jobs: int = 1,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    shard: int = 512,
    autoencoder: Recipe | None = None,
    root: str | Path | None = None,
) -> Path:
    """Make latents of pictures, or go on, or verify what is there. Returns their folder.

    Args:
        path: of the pictures, see `modalities.image.sources`; None for where they were before.
        name: of the folder below the data root, or its path.
        vae: the autoencoder, see `modalities.image.autoencoder.load`; None to train one on these pictures.
        pixels: side of the pictures, after the crop.
        share: per cent of the pictures that are held out, where the source does not say itself what is on which side.
        classed: whether the source's folders and numbers are classes.
        strict: stop at a picture or folder that cannot be read, instead of leaving it out.
        jobs: processes that encode. On several devices of the kind `device` they take turns.
        batch_size: pictures a call of the autoencoder.
        workers: processes that read pictures, for each of those that encode.
        device: where the autoencoder runs.
        shard: pictures a file, and what an interruption loses at most.
        autoencoder: how one is trained, where `vae` is None. It lies in ``vae`` of the folder.
        root: the data root.

    Raises:
        MultigenError: there are no pictures, or none that can be read; the disk is too small; the folder holds other latents.
    """
    folder = place(name, root)
    source = open_source(pictures.check_path(path, folder / "pictures"))
    make_index(source, folder / "pictures", share, classed, strict)
    data = Pictures(folder / "pictures", pixels, source.path, strict)
    where = resolve(device)
    posterior = Posterior(vae or str(_trained(data, autoencoder or Recipe(), folder / "vae", where)))
    recipe = {"format": FORMAT, "autoencoder": posterior.digest, "pixels": pixels, "crop": pictures.CROP}
    about = {
        "recipe": recipe,
        "autoencoder": {"name": vae or f"{name}/vae", "digest": posterior.digest},
        "latent": posterior.shape(pixels),
        "pixels": pixels,
    }
    _refuse_others(folder, recipe)
    modality = Image(pixels, classes=0, encoders={"moments": posterior})
    job = Job(data, modality, posterior, "moments", batch_size, where, workers)
    (moments,) = cache.prepare(job, Storage(shard=shard), root=folder, jobs=jobs)
    return _finish(folder, data, Reader(moments), about)


def _trained(data: Pictures, recipe: Recipe, folder: Path, device: torch.device) -> Path:
    """An autoencoder of the pictures themselves, measured on those that are held out."""
    if data.size % (factor := 2 ** (len(recipe.channels) - 1)):
        told = f"an autoencoder of {len(recipe.channels)} levels needs pictures of a multiple of {factor} pixels"
        raise MultigenError(f"{told}, not {data.size}: change data.pixels or data.autoencoder.channels")
    sides = data.store.column("split")  # (N,)
    held_out = np.flatnonzero(sides != 0)  # (n,)
    train = Some(data, np.flatnonzero(sides == 0))
    training = Training(recipe, train, Some(data, held_out) if len(held_out) else train, folder, device)
    if (folder.parent / "manifest.json").is_file() and not training.done:
        told = "its autoencoder is damaged, or of other pictures or settings"
        raise MultigenError(f"{folder.parent} holds latents, and {told}; give another data.name, or remove it")
    return training.prepare()


def _refuse_others(folder: Path, recipe: dict[str, Any]) -> None:
    """Latents that are there stay, unless they would become the same."""
    if not (folder / "manifest.json").is_file():
        return
    found = files.read_json(folder / "manifest.json").get("recipe", {})
    if other := next((key for key in recipe if found.get(key) != recipe[key]), None):
        told = f"its {other} is {found.get(other)}, not {recipe[other]}"
        raise MultigenError(f"{folder} holds other latents ({told}); give another data.name, or remove it")


def _finish(folder: Path, data: Pictures, moments: Reader, about: dict[str, Any]) -> Path:
    """Look at what was encoded, and write the manifest that vouches for it."""
    skipped = [unread(data, row) for row in range(len(moments)) if not np.size(moments[row])]
    if len(skipped) == len(data):
        raise MultigenError(f"none of the {len(data):,} pictures of {data.path} can be read: {skipped[0]['reason']}")
    told = f"{len(skipped):,} of {len(data):,} pictures that cannot be read"
    tell_left_out([left["reason"] for left in skipped], told, " in the manifest")
    sides = data.store.column("split")  # (N,)
    whole = np.ones(len(data), np.bool_)  # (N,)
    whole[[left["row"] for left in skipped]] = False
    count = {side: int((sides[whole] == i).sum()) for i, side in enumerate(SPLITS) if (sides[whole] == i).any()}
    measured = measure(moments, np.flatnonzero(whole & (sides == 0)))
    print(f"scale {_short(measured['scale'])} and shift {_short(measured['shift'])}, from {measured['examples']:,} pictures")
    known = ("name", "path", "licence", "attribution", "groups")
    said = {key: data.store.manifest[key] for key in known if key in data.store.manifest}
    where = moments.folder.relative_to(folder).as_posix()
    files.write_json(
        folder / "manifest.json", {**said, **about, **measured, "count": count, "moments": where, "skipped": skipped}
    )
    return folder


def unread(data: Pictures, row: int) -> dict[str, Any]:
    """Which picture was left out, and why."""
    item = data.store[row]
    try:
        data.picture(item)
    except MultigenError as error:
        return {"row": row, "name": item["name"], "reason": str(error)}
    return {"row": row, "name": item["name"], "reason": f"{item['name']} could not be read when it was encoded, and now can"}


def measure(moments: Reader, rows: np.ndarray) -> dict[str, Any]:
    """Scale and shift that give draws of the posterior mean 0 and variance 1 in each channel, over pictures and places.

    By the law of total variance, Var(z) = Var(mean) + E(std^2).
    """
    if not len(rows):
        raise MultigenError("no picture is left for training: nothing to measure the latents' scale from")
    chosen = rows[spaced(len(rows), MEASURED)]  # (n,)
    sums = np.zeros((2, moments.width // 2))  # (2, C): of z, and of z^2
    places = 0
    for row in chosen:
        mean, std = np.split(np.asarray(moments[int(row)], np.float64), 2, axis=-1)  # (h, w, C) each
        sums += np.stack([mean.sum((0, 1)), (mean**2 + std**2).sum((0, 1))])  # (2, C)
        places += mean.shape[0] * mean.shape[1]
    first, second = sums / places  # (C,) each
    deviation = np.sqrt(np.maximum(second - first**2, 1e-12))  # (C,)
    return {"scale": (1 / deviation).tolist(), "shift": first.tolist(), "examples": len(chosen)}


def _short(numbers: list[float]) -> list[float]:
    return [float(f"{number:.4g}") for number in numbers]
