"""Which residues a decoder must look at to answer for some of them: those, their neighbours, the neighbours' neighbours."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from modalities.protein.layers import Neighbourhood


class Cone(NamedTuple):
    """Residues of a whole batch, in the order of their distance from those that are asked about."""

    sites: Tensor
    """Long (M,): places among the batch's B L residues."""
    layers: list[Neighbourhood]
    """Who reads whom in each layer, by the place in `sites`; each of a shorter prefix than the one before it."""

    @classmethod
    def of(cls, asked: Tensor, neighbours: Tensor, layers: int) -> Cone:
        """
        Args:
            asked: Bool (B, L).
            neighbours: Long (B, L, K), -1 where there is none.
            layers: of message passing, at least 1.
        """
        start = torch.arange(len(neighbours), device=neighbours.device)[:, None, None] * neighbours.shape[1]  # (B, 1, 1)
        flat = torch.where(neighbours >= 0, neighbours + start, -1).flatten(0, 1)  # (B L, K)
        left = ~asked.flatten()  # (B L,)
        rings = [(~left).nonzero()[:, 0]]  # (m,) each
        for _ in range(layers):
            read = torch.zeros_like(left)  # (B L,)
            near = flat[rings[-1]].flatten()  # (m K,)
            read[near[near >= 0]] = True
            rings.append((read & left).nonzero()[:, 0])
            left &= ~read
        sites = torch.cat(rings)  # (M,)
        place = torch.full_like(flat[:, 0], -1).index_put_((sites,), torch.arange(len(sites), device=sites.device))  # (B L,)
        found = flat[sites]  # (M, K)
        moved = torch.where(found >= 0, place[found], -1)[None]  # (1, M, K)
        sizes = accumulate(map(len, rings[:-1]))
        return cls(sites, [Neighbourhood(moved[:, :size]) for size in sizes][::-1])

    def take(self, x: Tensor) -> Tensor:
        """What the residues hold: (B, L, *features) -> (1, M, *features)."""
        return x.flatten(0, 1).index_select(0, self.sites)[None]

    def give(self, x: Tensor, like: Tensor) -> Tensor:
        """Back to the batch from the first of the residues: (1, m, D) -> (B, L, D) for `like` (B, L), 0 elsewhere."""
        result = x.new_zeros(like.numel(), x.shape[-1])  # (B L, D)
        return result.index_copy_(0, self.sites[: x.shape[1]], x[0]).view(*like.shape, -1)
