"""A small autoencoder of one's own, for pictures that are far from those that published ones were trained on, or far smaller.

It is an `AutoencoderKL` of diffusers (Rombach et al. 2022) without their perceptual and adversarial losses: the mean absolute
error of pictures, and a little of the KL divergence to N(0, 1) that keeps latents together. Interrupted, its training goes on
from its last checkpoint, to the same weights.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multigen import checkpoint, describe, files
from multigen.cache.encode import spaced
from multigen.cache.progress import bar, duration
from multigen.checkpoint import pack_optimizer, unpack_optimizer
from multigen.curriculum import Ramp
from multigen.distributed import chosen
from multigen.loader import indices
from multigen.modality import Dataset
from multigen.random import Noise, keys
from multigen.state import MultigenError, at_least

MEASURED = 256
"""Held-out pictures on which reconstructions are measured."""


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on besides the pictures."""

    channels: tuple[int, ...] = (16, 32, 32)
    """Of each level; a level halves the side of the one before, so that latents are smaller by 2^(levels - 1)."""
    latent: int = 4
    """Channels of latents."""
    layers: int = 1
    """Residual blocks of a level."""
    steps: int = 300
    batch_size: int = 16
    rate: float = 2e-3
    """Learning rate, falling to 0 as a cosine."""
    kl: float = 1e-4
    """Weight of the divergence, a mean over the latent's numbers; the error is a mean over pixels in -1 .. 1."""
    every: int = 100
    """Steps between checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, latent=self.latent, layers=self.layers, steps=self.steps, batch_size=self.batch_size, every=self.every)
        at_least(1, channels=min(self.channels, default=0))
        object.__setattr__(self, "channels", tuple(self.channels))

    def rate_at(self, step: int) -> float:
        """A short rise, then half a period of a cosine, which would be 0 a step after the last."""
        return Ramp(self.rate, warmup=0.04, fall="cosine", horizon=1, total=self.steps + 1, offset=1)(step)

    def network(self) -> Any:
        """With the initial weights of the seed."""
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise MultigenError("training an autoencoder needs the package 'diffusers'; data.vae=FOLDER names one") from None
        levels = len(self.channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * levels,
                up_block_types=["UpDecoderBlock2D"] * levels,
                block_out_channels=self.channels,
                layers_per_block=self.layers,
                latent_channels=self.latent,
                norm_num_groups=math.gcd(8, *self.channels),
                scaling_factor=1.0,
            )


@dataclass(frozen=True)
class Training:
    """One autoencoder to be.

    Args:
        recipe: how.
        train: its items hold ``image``, uint8 (S, S, 3). One whose ``readable`` is false is replaced by the next.
        held_out: what reconstructions are measured on, without such items.
        folder: where it shall lie, as diffusers reads it, with ``training.json``: how, and how well.
        device: where it is trained.
    """

    recipe: Recipe
    train: Dataset
    held_out: Dataset
    folder: Path
    device: torch.device

    @property
    def about(self) -> dict[str, Any]:
        """What it depends on."""
        return {"recipe": json.loads(json.dumps(asdict(self.recipe))), "pictures": self.train.fingerprint}

    @property
    def done(self) -> bool:
        """Whether it is there, unchanged."""
        if not (self.folder / "training.json").is_file():
            return False
        found = files.read_json(self.folder / "training.json")
        paths = {self.folder / name: checksum for name, checksum in found["files"].items()}
        same = all(found.get(key) == value for key, value in self.about.items())
        return same and all(path.is_file() and files.sha256(path) == checksum for path, checksum in paths.items())

    def prepare(self) -> Path:
        """Train it, or go on, unless it is there. Only one of several processes trains; the others wait."""
        from filelock import FileLock

        files.make_folder(self.folder.parent)
        with FileLock(self.folder.with_suffix(".lock")):
            if self.done:
                return self.folder
            kept = self.folder.with_name(f".{self.folder.name}-{describe.digest(self.about)[:8]}")
            network, seconds = self._fit(kept)
            found = self.reconstructions(network)
            print(f"autoencoder: {told(found)}")
            self._write(network, {**self.about, "seconds": round(seconds), "device": str(self.device), "held_out": found})
            shutil.rmtree(kept, ignore_errors=True)
        return self.folder

    def _fit(self, kept: Path) -> tuple[Any, float]:
        """The trained network, and how long this took; checkpoints lie in `kept`."""
        files.remove_temporaries(files.make_folder(kept))
        network = self.recipe.network().to(self.device).train()
        optimizer = torch.optim.AdamW(network.parameters(), self.recipe.rate, weight_decay=0.0)
        first, before = _restore(network, optimizer, kept)
        begun, seconds = time.perf_counter(), before
        with bar("training the autoencoder", self.recipe.steps) as show:
            for step in range(first, self.recipe.steps):
                self._step(network, optimizer, step)
                seconds = before + time.perf_counter() - begun
                show(step + 1)
                self._announce(step - first, time.perf_counter() - begun, self.recipe.steps - first)
                if (step + 1) % self.recipe.every == 0 or step + 1 == self.recipe.steps:
                    _save(network, optimizer, kept, step + 1, seconds)
        return network.eval(), seconds

    def _announce(self, step: int, seconds: float, left: int) -> None:
        """Say what it will take once the first steps have shown it."""
        if step == 2:
            size = self.recipe.batch_size
            print(
                f"training an autoencoder: {left:,} steps of {size} pictures, about {duration(seconds / 3 * left)}", flush=True
            )

    def _step(self, network: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
        positions = range(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        rows = indices(self.recipe.seed, positions, len(self.train))
        pixels = self._pixels([readable(self.train, row) for row in rows])  # (B, 3, S, S)
        noise = Noise(keys(self.recipe.seed, positions, "autoencoder"))
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(step)
        optimizer.zero_grad()
        loss(network, pixels, noise, self.recipe.kl, chosen("auto", self.device)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    def _pixels(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(S, S, 3) each -> (B, 3, S, S) in -1 .. 1."""
        stacked = torch.from_numpy(np.stack(pictures))  # (B, S, S, 3)
        return stacked.permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1  # (B, 3, S, S)

    @torch.no_grad()
    def reconstructions(self, network: Any) -> dict[str, float]:
        """How far held-out pictures are from what is made of their latents' means, and, as a yardstick, from themselves
        reduced to as many pixels as a latent has places: the mean absolute error in 0 .. 255, and the mean PSNR."""
        found: dict[str, list[float]] = {"error": [], "psnr": [], "reduced_error": [], "reduced_psnr": []}
        items = (self.held_out[i] for i in spaced(len(self.held_out), MEASURED))
        pictures = [item["image"] for item in items if item.get("readable", True)]
        if not pictures:
            raise MultigenError("none of the held-out pictures can be read: nothing to measure the autoencoder on")
        for start in range(0, len(pictures), self.recipe.batch_size):
            pixels = self._pixels(pictures[start : start + self.recipe.batch_size])  # (B, 3, S, S)
            latent = network.encode(pixels).latent_dist.mean  # (B, C, h, w)
            small = F.interpolate(pixels, latent.shape[2:], mode="area")  # (B, 3, h, w)
            large = F.interpolate(small, pixels.shape[2:], mode="bicubic")  # (B, 3, S, S)
            for prefix, made in (("", network.decode(latent).sample), ("reduced_", large)):
                off = (made.clamp(-1, 1) - pixels) * 127.5  # (B, 3, S, S)
                found[f"{prefix}error"] += off.abs().mean((1, 2, 3)).tolist()
                found[f"{prefix}psnr"] += (20 * torch.log10(255 / off.square().mean((1, 2, 3)).sqrt())).tolist()
        return {"pictures": len(pictures), **{name: float(np.mean(values)) for name, values in found.items()}}

    def _write(self, network: Any, about: dict[str, Any]) -> None:
        part = files.temporary(self.folder)
        with files.writing(self.folder):
            network.cpu().save_pretrained(part)
            checksums = {p.name: files.sha256(p) for p in sorted(part.iterdir())}
            files.write_json(part / "training.json", {**about, "files": checksums})
            shutil.rmtree(self.folder, ignore_errors=True)
            part.rename(self.folder)
            files.sync_folder(self.folder.parent)


def loss(network: Any, pixels: Tensor, noise: Noise, weight: float, precision: str = "no") -> Tensor:
    """Mean absolute error of a reconstruction from a draw of the posterior, plus `weight` times its divergence: ()."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        posterior = network.encode(pixels).latent_dist
        draw = noise.normal(posterior.mean.shape[1:]).to(pixels.device)  # (B, C, h, w)
        made = network.decode(posterior.mean + posterior.std * draw).sample  # (B, 3, S, S)
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()  # (B, C, h, w) each
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()  # ()
    return F.l1_loss(made.float(), pixels) + weight * divergence  # ()


def readable(data: Dataset, row: int) -> NDArray[np.uint8]:
    """The picture in a row, or the first that can be read of those behind it, in a circle: (S, S, 3).

    Raises:
        MultigenError: none can be.
    """
    for i in range(len(data)):
        if (item := data[(row + i) % len(data)]).get("readable", True):
            return item["image"]
    raise MultigenError(f"none of the {len(data):,} pictures to train the autoencoder on can be read")


def told(found: dict[str, float]) -> str:
    """The quality of reconstructions in words."""
    own = f"off by {found['error']:.2f} of 255, PSNR {found['psnr']:.2f} dB, on {found['pictures']} held-out pictures"
    return f"{own} (reduced to as many places: {found['reduced_error']:.2f}, {found['reduced_psnr']:.2f} dB)"


def _save(network: Any, optimizer: torch.optim.Optimizer, kept: Path, step: int, seconds: float) -> None:
    tensors, values = pack_optimizer(optimizer)
    weights = {"model": network.state_dict(), "optimizer": tensors}
    checkpoint.save(kept, step, weights, {"values": values, "seconds": seconds}, keep=2)


def _restore(network: Any, optimizer: torch.optim.Optimizer, kept: Path) -> tuple[int, float]:
    """Go back to the last checkpoint: the steps that were made, and the seconds that they took."""
    if (found := checkpoint.latest(kept)) is None:
        return 0, 0.0
    checkpoint.restore(network, found.tensors("model"), found.path)
    unpack_optimizer(optimizer, found.tensors("optimizer"), found.state["values"])
    return found.step, float(found.state["seconds"])
