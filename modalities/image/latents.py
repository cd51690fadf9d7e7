"""Pictures as latents of an autoencoder (Rombach et al. 2022): what ImageNet is trained in at 256 x 256 and above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.image.autoencoder import Decoder
from modalities.image.latent_data import place, read_manifest
from modalities.image.modality import Image, Labelled, Picture, grid, save_png
from multigen.files import atomic_write
from multigen.modality import Drawn, Encoder, Example, collate_targets
from multigen.random import Noise
from multigen.state import Batch, MultigenError, State

Sample = Picture | NDArray[np.float32]
"""A picture, uint8 (H, W, 3); or a latent, float32 (C, h, w), where there is no decoder."""


class Latents:
    """Latents of one size. An example holds the posterior's ``latent_mean`` and ``latent_std``, each (C, size, size), or
    both as ``moments`` (2 C, size, size); its ``label``; and for teachers ``raw`` and ``caption``, as in `Image`.

    The batch holds ``clean[component]``: (B, C, size, size), drawn from the posterior with the example's own key, so that each
    step sees another draw and a resumed run the same, then shifted and scaled.

    Args:
        size: side of the latents.
        classes, labels, component, channels, encoders, columns: as in `Image`.
        scale, shift: clean = (latent - shift) * scale; one number, or one per channel; None: as measured of `latents`.
        decoder: makes pictures of samples: a folder or name for `Decoder`, or any function (B, C, size, size) -> (B, 3, H, W)
            in -1 .. 1. None leaves samples as latents: they are saved as arrays, and drawn in false colours.
        latents: name or folder of the prepared latents that are learned from. A decoder of other latents is refused. Where
            the folder is not at hand, which sampling does not need, nothing can be compared, and `scale` is to be given.

    Raises:
        MultigenError: scale or shift is to be read from latents that are not there.
    """

    def __init__(
        self,
        size: int = 32,
        classes: int = 1000,
        labels: str | int | Sequence[float] | Labelled = "balanced",
        component: str = "image",
        channels: int = 4,
        scale: float | Sequence[float] | None = 0.18215,
        shift: float | Sequence[float] | None = 0.0,
        decoder: str | Any | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        columns: int | None = None,
        latents: str | None = None,
    ) -> None:
        self.states = Image(size, classes, labels, component, channels, encoders=encoders)
        self.component, self.columns = component, columns
        known = {} if latents is None else _known(latents, needed=scale is None or shift is None)
        chosen = [known.get(key) if x is None else x for key, x in (("scale", scale), ("shift", shift))]
        if None in chosen:
            raise MultigenError("scale and shift are measured of prepared latents: name those by `latents`, or give numbers")
        self.scale, self.shift = (torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in chosen)  # (C or 1, 1, 1)
        self.decoder = Decoder(decoder) if isinstance(decoder, str) else decoder
        self._autoencoder: dict[str, str] | None = known.get("autoencoder")

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return self.states.encoders

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        key = torch.tensor(keys)  # (B,)
        moments = [_moments(e) for e in examples]
        mean, std = (torch.from_numpy(np.stack(part)).float() for part in zip(*moments, strict=True))  # (B, C, h, w) each
        if tuple(mean.shape[1:]) != (expected := (self.states.channels, self.states.size, self.states.size)):
            raise MultigenError(f"latents are of shape {tuple(mean.shape[1:])}, the modality expects {expected}")
        drawn = mean + std * Noise(key).fold("posterior").normal(mean.shape[1:])  # (B, C, h, w)
        label = torch.tensor([int(e.get("label", 0)) for e in examples])  # (B,)
        raw = self.states.teachers_view(examples) if self.encoders else {}
        batch = self.states.batch((drawn - self.shift) * self.scale, label, key)
        return batch.replace(target=collate_targets(examples), raw=raw)

    def encode(self, batch: Batch) -> Batch:
        return self.states.encode(batch)

    def template(self, index: Sequence[int], seed: int) -> Batch:
        return self.states.template(index, seed)

    def decode(self, state: State, template: Batch) -> list[Sample | None]:
        """None for a sample with a value that is not finite."""
        clean = state[self.component].detach().float().cpu()  # (B, C, h, w)
        latents = clean / self.scale + self.shift  # (B, C, h, w)
        finite = clean.isfinite().flatten(1).all(1)  # (B,)
        self._check_decoder()
        made = latents.numpy() if self.decoder is None else _pictures(self.decoder(latents.nan_to_num()))
        return [one if ok else None for one, ok in zip(made, finite, strict=True)]

    def _check_decoder(self) -> None:
        """Refuse the decoder of another autoencoder than the one that made the latents."""
        if self._autoencoder and isinstance(self.decoder, Decoder) and self.decoder.digest != self._autoencoder["digest"]:
            made = f"the latents were made by {self._autoencoder['name']} ({self._autoencoder['digest'][:8]})"
            other = f"the encoder of {self.decoder.path} ({self.decoder.digest[:8]}) makes others"
            raise MultigenError(f"{made}, and {other}: modality.decoder names one that goes with them")

    def save(self, samples: Sequence[Sample | None], folder: Path) -> list[Path]:
        """One PNG each, or one ``.npy`` for a latent, named by position; nothing for what is None."""
        return [_save(sample, folder / f"{i:06d}") for i, sample in enumerate(samples) if sample is not None]

    @property
    def formats(self) -> tuple[str, ...]:
        """Of pictures; latents have none."""
        return self.states.formats if self.decoder is not None else ()

    def write(self, drawn: Drawn, count: int, path: Path) -> Path:
        """As `Image.write`."""
        return self.states.write(drawn, count, path)

    def draw(self, samples: Sequence[Sample | None], path: Path) -> Path:
        pictures = [None if sample is None else _shown(sample, self.scale, self.shift) for sample in samples]
        size = next((len(p) for p in pictures if p is not None), self.states.size)
        columns = self.columns or max(1, math.ceil(math.sqrt(len(samples))))
        return save_png(grid(pictures, columns, size, zoom=max(1, 96 // size)), path)


def _known(latents: str, needed: bool) -> dict[str, Any]:
    """The manifest of prepared latents; nothing if they are not there, unless it is needed."""
    folder = place(latents)
    return read_manifest(folder) if needed or (folder / "manifest.json").is_file() else {}


def _moments(example: Example) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and deviation, (C, h, w) each."""
    if "moments" in example:
        mean, std = np.split(example["moments"], 2)
        return mean, std
    if "latent_mean" not in example or "latent_std" not in example:
        raise MultigenError(f"an example holds no latent_mean and latent_std, and no moments; it holds {sorted(example)}")
    return example["latent_mean"], example["latent_std"]


def _is_picture(sample: Sample) -> TypeGuard[Picture]:
    return sample.dtype == np.uint8


def _pictures(decoded: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in -1 .. 1 -> uint8 (B, H, W, 3)."""
    pixels = (decoded.float().cpu() / 2 + 0.5).clamp(0, 1) * 255  # (B, 3, H, W)
    return pixels.round().byte().permute(0, 2, 3, 1).numpy()


def _shown(sample: Sample, scale: Tensor, shift: Tensor) -> Picture:
    """A picture as it is; of a latent its first channels as colours, three deviations to each side."""
    if _is_picture(sample):
        return sample
    channels = ((torch.from_numpy(sample) - shift) * scale)[:3]  # (3 or fewer, h, w)
    colours = channels if len(channels) == 3 else channels[:1].expand(3, -1, -1)  # (3, h, w)
    return _pictures(colours[None] / 3)[0]


def _save(sample: Sample, stem: Path) -> Path:
    if _is_picture(sample):
        return save_png(sample, stem.with_suffix(".png"))
    with atomic_write(stem.with_suffix(".npy")) as file:
        np.save(file, sample)
    return stem.with_suffix(".npy")
