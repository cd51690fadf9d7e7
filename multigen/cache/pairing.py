"""Whose representation an example is given: its own, another example's, or noise.

The last two are controls. What a run gains from noise it owes to the extra loss, not to what the representation says; what it
gains from wrong pairs it owes to the representation's distribution, not to its being of this example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multigen.cache import shard
from multigen.cache.encode import Job, check, features, spaced
from multigen.cache.spec import digest
from multigen.cache.whitening import Moments
from multigen.files import nearest
from multigen.modality import Dataset, Encoder, Example, Modality
from multigen.random import Noise, keys
from multigen.state import MultigenError

Target = Any
"""Array (*sites, D), all of whose sites are real, or a pair of such an array and Bool (*sites)."""

PAIRINGS = ("own", "shuffled", "random")
_NEAR = 16
"""Examples of neighbouring sizes among which partners are drawn."""


def paired(dataset: Dataset, pairing: str, seed: int) -> Dataset:
    """The data set with the targets that `pairing` says: "own", "shuffled" or "random".

    Args:
        dataset: its items carry targets.
        seed: of the partners or the noise; they are the same in every epoch.
    """
    if pairing not in PAIRINGS:
        raise MultigenError(f"pairing is {pairing!r}: {nearest(pairing, PAIRINGS)}")
    if pairing == "own":
        return dataset
    if not dataset[0].get("target"):
        raise MultigenError(f"pairing={pairing} changes targets, and the data have none: no encoder is configured")
    return Shuffled(dataset, seed) if pairing == "shuffled" else RandomTargets(dataset, seed)


class _Changed:
    """A data set whose items differ from another's in their targets alone."""

    def __init__(self, dataset: Dataset, **how: Any) -> None:
        self.dataset = dataset
        self.sizes = getattr(dataset, "sizes", None)
        self.fingerprint = digest({"dataset": dataset.fingerprint} | how)

    def __len__(self) -> int:
        return len(self.dataset)


class InMemory(_Changed):
    """A data set whose items carry what encoders say about them, asked once: for small data whose targets are not cached.

    Args:
        dataset: the examples.
        modality: makes batches of them for the encoders.
        encoders: teachers by target name.
    """

    def __init__(self, dataset: Dataset, modality: Modality[Any], encoders: Mapping[str, Encoder]) -> None:
        super().__init__(dataset, encoders={name: encoder.fingerprint for name, encoder in encoders.items()})
        jobs = [Job(dataset, modality, encoder, name) for name, encoder in encoders.items()]
        check(jobs)
        self.targets: list[dict[str, Target]] = []
        for found in features(jobs, range(len(dataset))):
            split = [shard.split(feature) for feature in found]
            self.targets += [
                {k: tuple(item) for k, item in zip(encoders, row, strict=True)} for row in zip(*split, strict=True)
            ]

    def __getitem__(self, index: int) -> Example:
        example = self.dataset[index]
        return {**example, "target": {**example.get("target", {}), **self.targets[index]}}


class Shuffled(_Changed):
    """A data set each of whose examples carries the targets of another one: see `partners`.

    Sites are those of the example's own targets: what its partner has beyond them is cut off, and sites that the partner
    lacks do not count.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        super().__init__(dataset, pairing="shuffled", seed=seed)
        self.partner = partners(np.zeros(len(dataset)) if self.sizes is None else np.asarray(self.sizes), seed)  # (N,)

    def __getitem__(self, index: int) -> Example:
        example, other = self.dataset[index], self.dataset[int(self.partner[index])]["target"]
        return {**example, "target": {name: _fitted(other[name], own) for name, own in example["target"].items()}}


def partners(sizes: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """For each example another one of about its size: Long (N,), a permutation without fixed points.

    Examples are sorted by size, equal ones at random, and passed round within groups of neighbours.
    """
    if len(sizes) < 2:
        raise MultigenError("shuffled targets need at least two examples")
    chance = keys(seed, range(len(sizes)), "partners").numpy()  # (N,)
    order = np.lexsort([chance, sizes])  # (N,)
    partner = np.empty_like(order)  # (N,)
    for group in np.array_split(order, max(1, len(order) // _NEAR)):
        mixed = group[np.argsort(chance[group])]  # (n,)
        partner[mixed] = np.roll(mixed, 1)
    return partner


class RandomTargets(_Changed):
    """A data set each of whose examples carries noise of the shape of its targets.

    The noise is Gaussian with the mean and covariance that real targets have over their sites; it belongs to the example.

    Args:
        dataset: its items carry targets.
        seed: of the noise.
        examples: so many evenly spaced ones tell mean and covariance.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, examples: int = 256) -> None:
        super().__init__(dataset, pairing="random", seed=seed, examples=examples)
        self.seed = seed
        some = [dataset[i]["target"] for i in spaced(len(dataset), examples)]
        self.laws = {name: _law([target[name] for target in some]) for name in some[0]}

    def __getitem__(self, index: int) -> Example:
        example = self.dataset[index]
        noise = Noise(keys(self.seed, [index], "random targets"))
        return {**example, "target": {k: self._drawn(k, own, noise.fold(k)) for k, own in example["target"].items()}}

    def _drawn(self, name: str, own: Target, noise: Noise) -> Target:
        value, mask = _apart(own)
        mean, root = self.laws[name]
        return (noise.normal(value.shape)[0] @ root + mean).numpy(), mask  # (*sites, D), (*sites)


def _law(targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """Mean (D,) of real sites, and a square root (D, D) of their covariance."""
    moments = Moments()
    for value, mask in map(_apart, targets):
        moments.update(torch.from_numpy(np.asarray(value[mask], np.float32).reshape(-1, value.shape[-1])))  # (R, D)
    mean, covariance = moments.result()  # (D,), (D, D)
    size, axes = torch.linalg.eigh(covariance)  # (D,), (D, D)
    return mean.float(), (size.clamp(min=0).sqrt()[:, None] * axes.T).float()  # (D,), (D, D)


def _fitted(target: Target, like: Target) -> Target:
    """`target` on the sites of `like`: cut where it is larger, without a site where it is smaller."""
    (value, mask), (_, real) = _apart(target), _apart(like)
    box = tuple(slice(min(a, b)) for a, b in zip(mask.shape, real.shape, strict=True))
    found, there = np.zeros((*real.shape, value.shape[-1]), value.dtype), np.zeros_like(real)  # (*sites, D), (*sites)
    found[box], there[box] = value[box], mask[box]
    return found, there & real


def _apart(target: Target) -> tuple[NDArray, NDArray]:
    """Value (*sites, D) and mask (*sites)."""
    value, mask = target if isinstance(target, tuple) else (target, None)
    return value, np.ones(value.shape[:-1], np.bool_) if mask is None else mask
