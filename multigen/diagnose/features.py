"""Hidden features and representations of the same sites, gathered from batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from multigen.diffusion import Diffusion
from multigen.files import nearest
from multigen.objective import Context, Objective
from multigen.random import Noise
from multigen.state import Batch, Features, MultigenError, pool
from multigen.times import Fixed, Shared


class Recorder(nn.Module):
    """Stands where an objective stands, and returns what an objective would look at."""

    def __init__(self, taps: Collection[str]) -> None:
        super().__init__()
        self.taps = frozenset(taps)

    def forward(self, ctx: Context, step: int) -> Context:
        return ctx


def look(denoiser: nn.Module, processes: Mapping[str, Any], batch: Batch, t: float, taps: Collection[str]) -> Context:
    """All taps of a network on a batch in which every component is corrupted to time t, as training would do it."""
    recorder = cast(Objective, Recorder(taps))
    return cast(Context, Diffusion(denoiser, processes, recorder, Shared(Fixed(t))).eval()(batch, 0))


class Pairing(NamedTuple):
    """The rows of a batch at which a target is compared with taps."""

    row: Tensor
    """Long (R,), of the batch."""
    site: Tensor
    """Long (R,), of the flattened sites; 0 where pooled."""
    sites: tuple[int, ...] | None
    """Sizes of the taps' and the target's sites; None where both are pooled, as they have different ones."""


def pairing(target: Features, taps: Mapping[str, Features], key: Tensor, limit: int, pooled: bool) -> Pairing:
    """Up to `limit` real sites of each example, drawn by its key: the same ones for every tap and at every time."""
    if pooled:
        row = pool(target).mask.nonzero()[:, 0]  # (R,)
        return Pairing(row, torch.zeros_like(row), None)
    sites = tuple(target.mask.shape[1:])
    real = target.mask.clone()  # (B, *sites)
    for tap in taps.values():
        real &= tap.mask if tuple(tap.mask.shape[1:]) == sites else True
    score = torch.where(real, Noise(key).fold("sites").uniform(sites), -1).reshape(len(key), -1)  # (B, S)
    best = score.topk(min(limit, score.shape[1]), 1)  # (B, limit)
    row, place = (best.values >= 0).nonzero(as_tuple=True)  # (R,) each
    return Pairing(row, best.indices[row, place], sites)


def rows(features: Features, at: Pairing) -> Tensor:
    """Float (R, D) on the CPU."""
    if at.sites is None:
        return pool(features).value[at.row].float().cpu()
    return features.value.reshape(len(features.value), -1, features.value.shape[-1])[at.row, at.site].float().cpu()


def same_sites(a: Features, b: Features) -> bool:
    return a.mask.shape == b.mask.shape


def targets_of(batch: Batch, wanted: Collection[str] | None) -> list[str]:
    """The names of the representations to compare with.

    Raises:
        MultigenError: the batch has none, or not the wanted ones.
    """
    if not batch.target:
        raise MultigenError(
            "there is no representation to compare with: name an experiment that has some, teachers=EXPERIMENT"
        )
    if unknown := sorted(set(wanted or ()) - set(batch.target)):
        raise MultigenError(f"no target {unknown[0]!r}: {nearest(unknown[0], batch.target)}")
    return list(wanted or batch.target)
