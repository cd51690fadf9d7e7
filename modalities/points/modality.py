"""Points in the plane as a modality: the smallest one that is complete."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from multigen import random
from multigen.files import atomic_write, write_text
from multigen.modality import Dataset, Encoder, Example, collate_targets, place, run_encoders
from multigen.random import Noise
from multigen.state import Batch, State, where


class Sample(NamedTuple):
    """What a person gets."""

    point: NDArray[np.float64]
    """(2,)."""
    label: int | None
    """Its class, if the model makes or reads one."""


class Points:
    """A point (B, 2), its label (B,), and representations of it (B, D).

    Args:
        source: templates take from its examples what is given, and the shapes of everything else.
        components: what is made; "point", "label", and names of encoders.
        conditions: what is read; "label" and names of encoders. A representation that is neither stays a target.
        given: components that templates hold clean instead of leaving them to be made.
        encoders: teachers by target name.
    """

    def __init__(
        self,
        source: Dataset,
        components: Collection[str] = ("point",),
        conditions: Collection[str] = (),
        given: Collection[str] = (),
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        self.source, self.components, self.conditions, self.given = source, components, conditions, given
        self.encoders: Mapping[str, Encoder] = encoders or {}

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        data = {k: torch.stack([e[k] for e in examples]) for k in ("point", "label")}  # (B, 2), (B,)
        clean = {k: x for k, x in data.items() if k in self.components}
        real = dict.fromkeys(clean, torch.ones(len(examples), dtype=torch.bool))  # (B,) each
        cond = {k: x for k, x in data.items() if k in self.conditions}
        return Batch(clean, real, real, torch.tensor(keys), cond, collate_targets(examples))

    def encode(self, batch: Batch) -> Batch:
        return place(run_encoders(batch, self.encoders), self.components, self.conditions)

    def template(self, index: Sequence[int], seed: int) -> Batch:
        key = random.keys(seed, index, "sample")  # (B,)
        drawn = Noise(key).fold("template").integers(len(self.source))  # (B,)
        batch = self.encode(self.collate([self.source[i] for i in drawn.tolist()], key.tolist()))
        free = {k: real & (k not in self.given) for k, real in batch.free.items()}  # (B,) each
        clean = {k: where(free[k], torch.zeros_like(x), x) for k, x in batch.clean.items()}
        return batch.replace(clean=clean, free=free, target={})

    def decode(self, state: State, template: Batch) -> list[Sample | None]:
        """None for a point that is not finite."""
        points = state["point"].double().cpu().numpy()  # (B, 2)
        known = template.cond | state
        labels = known["label"].tolist() if "label" in known else [None] * len(points)
        return [Sample(p, y) if np.isfinite(p).all() else None for p, y in zip(points, labels, strict=True)]

    def save(self, samples: Sequence[Sample | None], folder: Path) -> list[Path]:
        """One table of all."""
        rows = [f"{s.point[0]:.6f},{s.point[1]:.6f},{'' if s.label is None else s.label}" for s in samples if s is not None]
        return [write_text(folder / "points.csv", "\n".join(["x,y,label", *rows, ""]))]

    def draw(self, samples: Sequence[Sample | None], path: Path) -> Path:
        """A scatter plot; colours are labels."""
        from matplotlib.figure import Figure

        real = [s for s in samples if s is not None]
        points = np.array([s.point for s in real]).reshape(-1, 2)  # (N, 2)
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.subplots()
        axes.scatter(
            points[:, 0], points[:, 1], s=8, c=[0 if s.label is None else s.label for s in real], cmap="tab10", vmin=0, vmax=9
        )
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=120)
        return path
