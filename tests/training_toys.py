"""A training that takes milliseconds a step, for tests of what happens around it; also a program, for tests that kill it:
``python training_toys.py FOLDER '{"steps": 20, ...}'``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multigen import distributed
from multigen.alignment import Alignment
from multigen.curriculum import Ramp
from multigen.denoiser import Output
from multigen.diffusion import Diffusion
from multigen.files import write_json
from multigen.objective import Denoising, Objective
from multigen.observers import Validation
from multigen.process import Gaussian
from multigen.random import keys
from multigen.run import Run
from multigen.state import Batch, Features, MultigenError, State
from multigen.trainer import Interrupted, Trainer
from multigen.trainer.sharding import local


class Points:
    """48 points on a circle, each with a feature vector."""

    fingerprint = "points"

    def __init__(self, count: int = 48) -> None:
        angle = torch.arange(count) * (2 * torch.pi / max(count, 1))  # (count,)
        self.points = torch.stack([angle.cos(), angle.sin()], -1)  # (count, 2)
        self.features = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos()], -1)  # (count, 3)
        self.sizes = 1 + torch.arange(count).numpy() % 5  # (count,), for batches by tokens

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"point": self.points[index], "label": index % 3, "features": self.features[index]}


class PointModality:
    encoders: dict[str, Any] = {}  # noqa: RUF012

    def collate(self, examples: Sequence[dict[str, Any]], keys: Sequence[int]) -> Batch:
        point = torch.stack([e["point"] for e in examples])  # (B, 2)
        features = torch.stack([e["features"] for e in examples])  # (B, 3)
        ones = torch.ones(len(examples), dtype=torch.bool)  # (B,)
        return Batch(
            clean={"point": point},
            mask={"point": ones},
            free={"point": ones},
            key=torch.tensor(keys),
            cond={"label": torch.tensor([e["label"] for e in examples])},
            target={"features": Features(features, ones)},
        )

    def encode(self, batch: Batch) -> Batch:
        return batch


class Net(nn.Module):
    """Small, with dropout, batch statistics and a frozen parameter: all that resuming has to bring back."""

    def __init__(self, dropout: float = 0.1, statistics: bool = True, blocks: int = 0) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 8)
        self.first = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8) if statistics else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))

    def forward(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        x = torch.cat([noisy["point"], t["point"][:, None]], -1)  # (B, 3)
        hidden = self.drop(self.norm(torch.tanh(self.first(x) + self.label(cond["label"]))))  # (B, 8)
        for block in self.blocks:
            hidden = hidden + block(hidden)  # (B, 8)
        return Output({"point": self.scale * self.last(hidden)}, {"hidden": Features(hidden, mask["point"])})

    def null(self, cond: State) -> State:
        return {"label": torch.full_like(cond["label"], 3)}


class Broken(nn.Module):
    """A term whose loss is nan at some steps' examples."""

    taps: frozenset[str] = frozenset()

    def __init__(self, keys: Iterable[int]) -> None:
        super().__init__()
        self.register_buffer("keys", torch.tensor(list(keys)), persistent=False)

    def __call__(self, ctx: Any) -> dict[str, Tensor]:
        hit = torch.isin(ctx.batch.key, self.keys)  # (B,)
        return {"": torch.where(hit, float("nan"), 1.0) * ctx.output.pred["point"].square().sum(-1)}


def broken(steps: Iterable[int], batch_size: int = 8, seed: int = 0) -> Broken:
    """A term that is nan in these steps."""
    return Broken(keys(seed, [batch_size * step for step in steps], "train").tolist())


def diffusion(
    dropout: float = 0.1, statistics: bool = True, more: dict[str, Any] | None = None, seed: int = 0, blocks: int = 0
) -> Diffusion:
    torch.manual_seed(seed)
    terms: dict[str, Any] = {"denoise": Denoising(), "align": Alignment("hidden", "features", nn.Linear(8, 3)), **(more or {})}
    # in the last steps of a run of 12 the alignment only probes
    objective = Objective(terms, {"denoise": Ramp(warmup=5), "align": Ramp(peak=0.5, fall="linear", horizon=10)})
    return Diffusion(Net(dropout, statistics, blocks), {"point": Gaussian("velocity")}, objective, drop=0.2)


def trainer(
    folder: Path | str, config: dict[str, Any] | None = None, model: Diffusion | None = None, **settings: Any
) -> Trainer:
    chosen = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "steps": 12,
        "batch_size": 8,
        "device": "cpu",
        "checkpoint_every": 5,
        "log_every": 4,
        "log_to": (),
        "ema": (0.9, 0.99),
        "progress": False,
        **settings,
    }
    return Trainer(model or diffusion(), Points(), PointModality(), Run(folder, config), **chosen)  # type: ignore[arg-type]


class Slow:
    """An observer that gives a test time to send a signal."""

    every = 1

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        time.sleep(self.seconds)
        return {}


def main(folder: str, settings: str) -> int:
    """Train; the exit code is that of ``multigen train``.

    Args:
        settings: JSON of `trainer`'s settings, and ``model``: those of `diffusion`; ``pause``: seconds after each step;
            ``validate``: steps between looks at held-out examples, of which the processes have different numbers;
            ``stages``: train up to each of these steps in turn, each time with a new trainer.
    """
    torch.set_num_threads(1)
    given = json.loads(settings)
    if "pause" in given:
        given["observers"] = [Slow(given.pop("pause"))]
    if "validate" in given:
        given["observers"] = [Validation(Points(), given.pop("validate"), batch_size=2, limit=7)]
    model, stages = given.pop("model", {}), given.pop("stages", [given.get("steps", 12)])
    try:
        for steps in stages:
            made = trainer(folder, model=diffusion(**model), **{**given, "steps": steps})
            made.fit()
            held = sum(local(p).numel() for p in made.parameters)
            write_json(Path(folder) / f"held_{distributed.rank()}.json", held)
    except MultigenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
