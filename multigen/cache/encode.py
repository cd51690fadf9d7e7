"""Running frozen encoders over a data set, away from any training."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from multigen.modality import Dataset, Encoder, Example, Modality
from multigen.random import keys
from multigen.state import Batch, Features, MultigenError


class Size(NamedTuple):
    """How large the features of one target are."""

    rows: float
    """Per example, before masking: tokens, residues, edges."""
    width: int
    """D."""


class Cost(NamedTuple):
    """What encoding costs, measured on a few batches."""

    seconds: float
    """Per example, reading and encoding for all targets together."""
    sizes: list[Size]
    """Of each target."""


@dataclass(frozen=True)
class Job:
    """An encoder, and the examples it is to see: one target.

    Args:
        dataset: the examples.
        modality: makes batches of them. The encoder must not see what it augments: a target belongs to the example, not to
            one view of it.
        encoder: the frozen representation.
        name: of the target, for messages.
        batch_size: examples per call of the encoder.
        device: where the encoder runs.
        workers: processes that read and collate; 0 does it between the encoder's calls.
    """

    dataset: Dataset
    modality: Modality
    encoder: Encoder
    name: str
    batch_size: int = 64
    device: str | torch.device = "cpu"
    workers: int = 0

    def batches(self, indices: Sequence[int]) -> Iterable[Batch | MultigenError]:
        """Batches of some examples, or the reason why one cannot be made."""
        return DataLoader(
            _Numbered(self.dataset),
            batch_size=self.batch_size,
            sampler=indices,
            num_workers=self.workers,
            collate_fn=partial(_collate, self.modality),
        )

    def encode(self, batch: Batch) -> Features:
        """The features of a batch on `device`: value Float32 (B, *sites, D), mask Bool (B, *sites), both on the CPU.

        Raises:
            MultigenError: a feature of a real site is not finite, or value and mask do not fit each other.
        """
        with torch.no_grad():
            found = self.encoder.to(self.device)(batch)
        return self._checked(Features(found.value.float().cpu(), found.mask.cpu()))

    def _checked(self, features: Features) -> Features:
        value, mask = features
        if value.shape[:-1] != mask.shape:
            shapes = f"{tuple(value.shape)} and {tuple(mask.shape)}"
            raise MultigenError(f"the encoder of target {self.name!r} gives features and mask of shapes {shapes}")
        if not value.isfinite().all(-1)[mask].all():
            raise MultigenError(f"the encoder of target {self.name!r} gives features that are not finite")
        return features


def check(jobs: Sequence[Job]) -> None:
    """Refuse a modality that augments in a way that an encoder sees: a target belongs to the example alone.

    A rotation, for example, changes nothing for an encoder that does not know of directions.

    Raises:
        MultigenError: one example under many keys has not the same features each time, or there is none.
    """
    first = jobs[0]
    if len(first.dataset) == 0:
        raise MultigenError(f"target {first.name!r} cannot be cached: the data set is empty")
    times = 32  # a mirror image with chance 1/2 goes unseen once in 2^31
    batch = first.modality.collate([first.dataset[0]] * times, keys(0, range(times), "check").tolist())
    if all((x == x[:1]).all() for x in (*batch.clean.values(), *batch.raw.values())):
        return
    if seen := next((job.name for job in jobs if _differ(job.encode(batch.to(job.device)))), None):
        raise MultigenError(f"target {seen!r} cannot be cached: the modality augments at random; use targets=online")


def _differ(features: Features) -> bool:
    """Whether features of one example differ by more than rounding."""
    value, mask = features
    real = torch.where(mask[..., None], value, 0)  # (B, *sites, D)
    spread = (real - real[:1]).abs().amax()  # ()
    return bool((mask != mask[:1]).any() or spread > 1e-3 * real.abs().amax())


def features(jobs: Sequence[Job], indices: Sequence[int]) -> Iterator[list[Features]]:
    """What each job's encoder says about some examples, batch by batch.

    A batch is made once, as the first job says, and all encoders are given the same tensors: those that are parts of one
    network can see that they are asked about one batch, and share the forward pass.

    Raises:
        MultigenError: the jobs' examples or modalities are not the same, or an encoder's features cannot be used.
    """
    first = jobs[0]
    for job in jobs:
        if job.dataset is not first.dataset or job.modality is not first.modality:
            raise MultigenError(f"targets {first.name!r} and {job.name!r} are not of the same data set and modality")
    for batch in first.batches(indices):
        if isinstance(batch, MultigenError):
            raise batch
        there = batch.to(first.device)
        yield [job.encode(there) for job in jobs]


def cost(jobs: Sequence[Job]) -> Cost:
    """Measured on one batch of evenly spaced examples, after another one that warms up."""
    alone = [replace(job, workers=0) for job in jobs]  # starting workers would be counted in
    indices = spaced(len(jobs[0].dataset), jobs[0].batch_size)
    for _ in range(2):
        start = time.perf_counter()
        found = next(features(alone, indices))
        seconds = time.perf_counter() - start
    sizes = [Size(mask.sum().item() / len(indices), value.shape[-1]) for value, mask in found]
    return Cost(seconds / len(indices), sizes)


def spaced(count: int, wanted: int | None) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced; all of them for None."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


class _Numbered(torch.utils.data.Dataset):
    """Items together with their index, from which `collate` gets its keys."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Example | MultigenError]:
        try:
            return index, self.dataset[index]
        except MultigenError as error:
            return index, error  # raised in a worker it would arrive wrapped in a traceback


def _collate(modality: Modality[Any], items: Sequence[tuple[int, Any]]) -> Batch | MultigenError:
    indices, examples = zip(*items, strict=True)
    if wrong := next((x for x in examples if isinstance(x, MultigenError)), None):
        return wrong
    return modality.collate(examples, keys(0, indices, "cache").tolist())
