"""Molecules around a given part.

>>> complete(denoiser, processes, sampler, modality, read("fragment.sdf"), n=50, add="6:14")  # doctest: +SKIP
[Molecule(...), ...]

The atoms, charges and bonds of the part are sites that are not free: the sampler never moves them. Space has the part's origin
and orientation (see `modalities.molecule.modality`), so that what is made comes in the file's own frame. New atoms are kept
from bonds that the part has no room for (`Fragment.allowed`); how many bonds an atom gets in all, the network decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.molecule import sizes
from modalities.molecule.given import Fragment
from modalities.molecule.modality import Molecules
from modalities.molecule.sample import Molecule
from modalities.molecule.sizes import Sizes
from modalities.molecule.vocabulary import BONDS
from multigen.buckets import bucketed
from multigen.evaluate import evaluating
from multigen.process import Process
from multigen.random import Noise, keys
from multigen.state import Batch, at_least

Progress = Callable[[int], None]
"""Told how many completions are done."""


def complete(
    denoiser: Any,
    processes: Mapping[str, Process],
    sampler: Any,
    modality: Molecules,
    fragment: Fragment,
    n: int = 50,
    add: Sizes = "6:14",
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done: None,
) -> list[Molecule | None]:
    """Complete a fragment n times.

    Args:
        denoiser: trained, best with fragments (``modality.fragment`` above 0), on the device.
        processes: as trained.
        sampler: ``(denoiser, processes, template) -> State``.
        modality: as trained; it needs no source.
        fragment: what is given.
        n: how many completions; number i is a function of seed and i.
        add: how many atoms are made, see `modalities.molecule.sizes`.
        batch_size: completions at a time, of similar sizes; it changes rounding only.
        device: of the denoiser.

    Returns:
        The given atoms first, in their order and where they were to the last bit, then the new ones; None for what is not
        finite or not decided.
    """
    at_least(1, n=n, batch_size=batch_size)
    more = added(range(n), seed, add)
    done: dict[int, Molecule | None] = {}
    for index in bucketed(range(n), more, batch_size):
        start = template(modality, fragment, [more[i] for i in index], keys(seed, index, "sample"))
        with evaluating(denoiser):
            state = sampler(denoiser, processes, start.to(device))
        done |= zip(index, (_in_place(made, fragment) for made in modality.decode(state, start)), strict=True)
        progress(len(done))
    return [done[i] for i in range(n)]


def added(index: Sequence[int], seed: int, add: Sizes) -> list[int]:
    """How many atoms each completion gets."""
    return sizes.drawn(sizes.choices(add, "add"), Noise(keys(seed, index, "sample")).fold("template"))


def template(modality: Molecules, fragment: Fragment, more: Sequence[int], key: Tensor) -> Batch:
    """The fragment with room for so many new atoms each; `key` is Long (B,)."""
    batch = modality.to_complete([fragment.with_space(n) for n in more], key)
    return batch.replace(cond={**batch.cond, "bonds.bias": _bias(fragment, batch.free["atoms"])})


def _bias(fragment: Fragment, free: Tensor) -> Tensor:
    """(B, N, N, K): -inf where a given atom has no room for a bond to a new one, else 0."""
    allowed = torch.from_numpy(fragment.allowed(len(BONDS)))  # (F, K)
    given = torch.where(allowed, 0.0, -torch.inf)  # (F, K)
    whole = torch.zeros(*free.shape, free.shape[1], len(BONDS))  # (B, N, N, K)
    whole[:, : len(fragment)] = torch.where(free[:, None, :, None], given[:, None], 0.0)  # (B, F, N, K)
    return whole + whole.transpose(1, 2)  # (B, N, N, K)


def _in_place(made: Molecule | None, fragment: Fragment) -> Molecule | None:
    """Back in the fragment's frame."""
    if made is None:
        return None
    coords = made.coords.astype(np.float64) + fragment.coords.mean(0)  # (N, 3)
    coords[: len(fragment)] = fragment.coords
    return made._replace(coords=coords)
