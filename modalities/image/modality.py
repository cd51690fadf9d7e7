"""Pictures as a modality: one component with one site, a class label as condition, teachers of picture and caption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.image import sets
from multigen import random
from multigen.files import atomic_write
from multigen.modality import Drawn, Encoder, Example, collate_targets, encode_text, run_encoders, unmade
from multigen.random import Noise
from multigen.state import Batch, MultigenError, State

Picture = NDArray[np.uint8]
"""(H, W, C)."""


@runtime_checkable
class Labelled(Protocol):
    """A data set that knows its labels."""

    labels: NDArray[np.int64]


class Image:
    """Pictures of one size.

    The batch holds ``clean[component]``: (B, C, H, W), normalised, with mask and free Bool (B,), and ``cond["label"]``: Long
    (B,). When there are encoders to read them, also ``raw["image"]``: uint8 (B, C, R, R) and ``raw["caption"]``: uint8 (B, L).

    Args:
        size: pixels of the side.
        classes: number of labels; 0 makes pictures without a label.
        labels: of templates. "balanced": sample i is of class i % classes; "uniform": drawn, each class alike; a number: that
            class; weights (one per class), or a data set: drawn with its frequencies.
        component: name of the component.
        channels: number of colours C.
        mean, std: clean = (picture / 255 - mean) / std; one number, or one per channel. The default gives -1 .. 1.
        flip: mirror each training picture with chance 1/2. Needs teachers online: cached targets are of the picture as it was.
        joint: representations that are made together with the picture: name -> number T of tokens and width D.
        encoders: teachers by target name.
        columns: of `draw`; by default as many as rows.
    """

    def __init__(
        self,
        size: int = 32,
        classes: int = 9,
        labels: str | int | Sequence[float] | Labelled = "balanced",
        component: str = "image",
        channels: int = 3,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        flip: bool = False,
        joint: Mapping[str, Sequence[int]] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        columns: int | None = None,
    ) -> None:
        self.size, self.classes, self.component, self.channels = size, classes, component, channels
        self.mean, self.std = (torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in (mean, std))  # (C or 1, 1, 1)
        self.flip, self.columns, self.joint = flip, columns, dict(joint or {})
        self.encoders: Mapping[str, Encoder] = encoders or {}
        self.labels = _label_rule(labels, classes)

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        key = torch.tensor(keys)  # (B,)
        images = self._stack([e["image"] for e in examples])  # (B, C, H, W)
        if tuple(images.shape[1:]) != (expected := (self.channels, self.size, self.size)):
            raise MultigenError(f"pictures are of shape {tuple(images.shape[1:])}, the modality expects {expected}")
        raw = self.teachers_view(examples) if self.encoders else {}
        target = collate_targets(examples)
        if self.flip:
            images, raw = self._flipped(images, raw, key, bool(target))
        label = torch.tensor([int(e.get("label", 0)) for e in examples])  # (B,)
        clean = (images.float() / 255 - self.mean) / self.std  # (B, C, H, W)
        return self.batch(clean, label, key).replace(target=target, raw=raw)

    def batch(self, clean: Tensor, label: Tensor, key: Tensor) -> Batch:
        real = {self.component: torch.ones(len(clean), dtype=torch.bool)}  # (B,)
        if self.classes and (worst := int(label.max())) >= self.classes:
            raise MultigenError(f"label {worst} is not below the modality's {self.classes} classes")
        return Batch({self.component: clean}, real, real, key, cond={"label": label} if self.classes else {})

    @staticmethod
    def _stack(pictures: Sequence[Picture]) -> Tensor:
        """Uint8 (H, W, C) each -> (B, C, H, W)."""
        if len(shapes := {p.shape for p in pictures}) > 1:
            raise MultigenError(f"pictures of one batch have different shapes: {sorted(shapes)}")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def teachers_view(self, examples: Sequence[Example]) -> State:
        """What teachers see."""
        found: State = {}
        if "raw" in examples[0]:
            found["image"] = self._stack([e["raw"] for e in examples]).contiguous()  # (B, C, R, R)
        if "readable" in examples[0]:
            found["readable"] = torch.tensor([e["readable"] for e in examples])  # (B,)
        for text in ("caption", "name"):
            if text in examples[0]:
                found[text] = encode_text([e[text] for e in examples])  # (B, L)
        return found

    def _flipped(self, images: Tensor, raw: State, key: Tensor, cached: bool) -> tuple[Tensor, State]:
        """Mirror what a coin, thrown with the example's key, says."""
        if cached:
            raise MultigenError("flip=true needs targets=online: cached targets are those of the picture as it was")
        mirror = Noise(key).fold("flip").uniform() < 0.5  # (B,)
        pick = mirror[:, None, None, None]  # (B, 1, 1, 1)
        flipped = {k: torch.where(pick, x.flip(-1), x) if k == "image" else x for k, x in raw.items()}
        return torch.where(pick, images.flip(-1), images), flipped

    def encode(self, batch: Batch) -> Batch:
        return run_encoders(batch, self.encoders, self.joint)

    def template(self, index: Sequence[int], seed: int) -> Batch:
        key = random.keys(seed, index, "sample")  # (B,)
        clean = torch.zeros(len(key), self.channels, self.size, self.size)  # (B, C, H, W)
        if isinstance(self.labels, Tensor):
            label = Noise(key).fold("template").categorical(self.labels.expand(len(key), -1))  # (B,)
        else:
            label = torch.tensor([i % max(self.classes, 1) if self.labels is None else self.labels for i in index])  # (B,)
        tokens = {k: (torch.ones(len(key), t, dtype=torch.bool), d) for k, (t, d) in self.joint.items()}  # (B, T)
        return unmade(self.batch(clean, label, key), tokens)

    def decode(self, state: State, template: Batch) -> list[Picture | None]:
        """Uint8 (H, W, C) each; None for a picture with a value that is not finite."""
        clean = state[self.component].detach().float().cpu()  # (B, C, H, W)
        pixels = (clean * self.std + self.mean).clamp(0, 1) * 255  # (B, C, H, W)
        finite = clean.isfinite().flatten(1).all(1)  # (B,)
        pictures = pixels.nan_to_num().round().byte().permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
        return [p if ok else None for p, ok in zip(pictures, finite, strict=True)]

    def save(self, samples: Sequence[Picture | None], folder: Path) -> list[Path]:
        """One PNG each, named by position; nothing for what is None."""
        named = {folder / f"{i:06d}.png": sample for i, sample in enumerate(samples) if sample is not None}
        return [save_png(sample, path) for path, sample in named.items()]

    formats = (".npz",)

    def write(self, drawn: Drawn, count: int, path: Path) -> Path:
        """All pictures and their labels as ADM's evaluation suite reads them, a batch in memory at a time."""
        return sets.write_archive(drawn, count, path)

    def draw(self, samples: Sequence[Picture | None], path: Path) -> Path:
        """A grid on light grey, small pictures enlarged so that each pixel shows."""
        columns = self.columns or max(1, math.ceil(math.sqrt(len(samples))))
        return save_png(grid(samples, columns, self.size, zoom=max(1, 96 // self.size)), path)


def _label_rule(labels: Any, classes: int) -> Tensor | int | None:
    """Weights Float64 (K,) to draw from, one fixed label, or None for one class after another (and where there are none)."""
    if classes == 0:
        return None
    if isinstance(labels, str):
        if labels == "balanced":
            return None
        if labels == "uniform":
            return torch.ones(classes, dtype=torch.float64)  # (K,)
        choices = "'balanced', 'uniform', a class number, weights, or a data set"
        raise MultigenError(f"labels {labels!r}: choices are {choices}")
    if isinstance(labels, int):
        if not 0 <= labels < classes:
            raise MultigenError(f"label {labels} is not in 0 .. {classes - 1}")
        return labels
    weights = np.bincount(labels.labels, minlength=classes) if isinstance(labels, Labelled) else np.asarray(labels, np.float64)
    if weights.shape != (classes,) or weights.sum() <= 0 or weights.min() < 0:
        raise MultigenError(f"labels need {classes} weights, none negative and not all 0; got {weights.tolist()}")
    return torch.from_numpy(weights.astype(np.float64))  # (K,)


def grid(samples: Sequence[Picture | None], columns: int, size: int, zoom: int = 1, gap: int = 2) -> Picture:
    """One picture of all: row by row, a missing one in grey."""
    rows = math.ceil(len(samples) / columns)
    side, channels = size * zoom, next((s.shape[-1] for s in samples if s is not None), 3)
    canvas = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, channels), 224, np.uint8)
    for i, sample in enumerate(samples):
        top, left = (gap + place * (side + gap) for place in divmod(i, columns))
        if sample is not None:
            canvas[top : top + side, left : left + side] = sample.repeat(zoom, 0).repeat(zoom, 1)
    return canvas


def save_png(picture: Picture, path: Path) -> Path:
    """Write uint8 (H, W, 3) or (H, W, 1) as a PNG."""
    from PIL import Image as Pillow

    with atomic_write(path) as file:
        Pillow.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, format="PNG")
    return path
