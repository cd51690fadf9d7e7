"""A small network for any number of small components and conditions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from multigen.denoiser import Output, check_taps
from multigen.nn import TimeEmbedding
from multigen.state import Features, MultigenError, State, at_least


class MLP(nn.Module):
    """All that is given is embedded and added up; residual blocks follow, and one head per component.

    Args:
        components: names of what is denoised; what else is named below is a condition.
        vectors: name -> width of what is a vector: (B, width).
        classes: name -> number K of classes of what is a class: (B,). Index K stands for the mask of a component and for the
            absence of a condition.
        width: hidden width D.
        depth: number of blocks.

    Taps: ``block1`` ... ``block{depth}``, (B, D).
    """

    def __init__(
        self,
        components: Sequence[str] = ("point",),
        vectors: Mapping[str, int] | None = None,
        classes: Mapping[str, int] | None = None,
        width: int = 128,
        depth: int = 3,
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth)
        self.components, self.vectors, self.classes = list(components), dict(vectors or {"point": 2}), dict(classes or {})
        sizes = self.vectors | self.classes  # what a head returns: numbers, or logits
        if unknown := sorted(set(components) - set(sizes)):
            raise MultigenError(f"component {unknown[0]!r} is neither among vectors nor classes: {sorted(sizes)}")
        self.embed = nn.ModuleDict({k: nn.Linear(n, width) for k, n in self.vectors.items()})
        self.embed.update({k: nn.Embedding(n + 1, width) for k, n in self.classes.items()})
        self.times = nn.ModuleDict({k: TimeEmbedding(width, frequencies=64, scale=100) for k in components})
        self.blocks = nn.ModuleList(_block(width) for _ in range(depth))
        self.heads = nn.ModuleDict({k: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sizes[k])) for k in components})

    @property
    def tap_names(self) -> list[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def null(self, cond: State) -> State:
        return {k: torch.full_like(x, self.classes.get(k, 0)) for k, x in cond.items()}

    def forward(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        check_taps(taps, self.tap_names)
        x = self._embed(noisy | cond) + sum(self.times[k](t[k]) for k in self.components)  # (B, D)
        seen: dict[str, Features] = {}
        for name, block in zip(self.tap_names, self.blocks, strict=True):
            x = x + block(x)  # (B, D)
            if name in taps:
                seen[name] = Features(x, torch.ones_like(x[:, 0], dtype=torch.bool))  # (B, D), (B,)
        return Output({k: self.heads[k](x) for k in self.components}, seen)

    def _embed(self, given: State) -> Tensor:
        if absent := sorted(set(self.embed) - set(given)):
            raise MultigenError(f"the network reads {absent[0]!r}, which the batch lacks; it has {sorted(given)}")
        return torch.stack([embed(given[k]) for k, embed in self.embed.items()]).sum(0)  # (B, D)


def _block(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
