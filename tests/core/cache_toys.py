"""A data set, a modality and an encoder that the cache tests run on, here and in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multigen.cache import Job, Storage, build
from multigen.modality import Example, collate_targets
from multigen.random import Noise, keys
from multigen.state import Batch, Features, expand

WIDTH = 6


class Toys:
    """Items with `sites` of their own number: the features of item i are a function of i alone."""

    def __init__(self, count: int = 23, fingerprint: str = "toys-train") -> None:
        self.count, self.fingerprint = count, fingerprint

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return {"index": np.int64(index), "x": np.float32(index)}


class ToyModality:
    encoders: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, augment: bool = False) -> None:
        self.augment = augment

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        key = torch.tensor(keys)  # (B,)
        x = torch.tensor([e["x"] for e in examples])[:, None]  # (B, 1)
        if self.augment:
            x = x + Noise(key).normal([1])
        mask = {"x": torch.ones(len(x), dtype=torch.bool)}  # (B,)
        raw = {"index": torch.tensor([e["index"] for e in examples])}  # (B,)
        return Batch({"x": x}, mask, mask, key, target=collate_targets(examples), raw=raw)


class ToyEncoder:
    """Correlated features of several layouts.

    Args:
        layout: "pooled" (D,), "fixed" (4, D), "ragged" (1 + i % 5, D), "pair" (1 + i % 5, 3, D), "holes" (5, D) with sites
            missing anywhere, all of them in some examples.
        log: a file that gets one line per encoded example.
        delay: seconds that a call takes.
        meet: a folder in which two processes show up before either of them goes on, so that both take part in the work.
        sees: add the clean data to the features.
    """

    def __init__(
        self,
        layout: str = "ragged",
        scale: float = 1.0,
        log: Path | None = None,
        delay: float = 0.0,
        meet: Path | None = None,
        sees: bool = False,
    ) -> None:
        self.layout, self.scale, self.log, self.delay, self.meet, self.sees = layout, scale, log, delay, meet, sees
        self.fingerprint = f"toy-{layout}-{scale}"

    def __call__(self, batch: Batch) -> Features:
        index = batch.raw["index"]  # (B,)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write("".join(f"{i}\n" for i in index.tolist()))
        time.sleep(self.delay)
        if self.meet is not None:
            self._meet(self.meet)
        noise = Noise(keys(5, index))
        mask = self._mask(index, noise)  # (B, *sites)
        mixing = Noise(torch.tensor([9])).normal([WIDTH, WIDTH])[0] + torch.eye(WIDTH)  # (D, D)
        value = noise.normal([*mask.shape[1:], WIDTH]) @ mixing + 3  # (B, *sites, D)
        if self.sees:
            value = value + expand(batch.clean["x"][:, 0], value)  # (B, *sites, D)
        value = torch.where(mask[..., None], value, torch.nan)  # (B, *sites, D)
        return Features(self.scale * value, mask)

    def _meet(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)

    def _mask(self, index: torch.Tensor, noise: Noise) -> torch.Tensor:
        size = 1 + index % 5  # (B,)
        if self.layout == "pooled":
            return index % 7 != 3  # (B,)
        if self.layout == "fixed":
            return torch.ones(len(index), 4, dtype=torch.bool)  # (B, 4)
        if self.layout == "holes":
            return (noise.uniform([5]) < 0.6) & (index % 6 != 2)[:, None]  # (B, 5)
        within = torch.arange(int(size.max())) < size[:, None]  # (B, L)
        return within if self.layout == "ragged" else within[..., None] & (torch.arange(3) < size[:, None, None])

    def to(self, device: Any) -> ToyEncoder:
        return self


LAYOUTS = ["pooled", "fixed", "ragged", "pair", "holes"]


def job(
    dataset: Toys | None = None,
    modality: ToyModality | None = None,
    batch_size: int = 4,
    name: str = "tokens",
    **encoder: Any,
) -> Job:
    dataset = Toys() if dataset is None else dataset
    return Job(dataset, modality or ToyModality(), ToyEncoder(**encoder), name, batch_size)


if __name__ == "__main__":  # build a cache in a process of its own: root, delay, whether to meet another one
    root, delay, meet = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "meet"
    build(job(log=root / "log", delay=delay, meet=root / "meet" if meet else None), Storage("float32", shard=4), root)
