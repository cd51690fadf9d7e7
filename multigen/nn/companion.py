"""Reading and writing one more component on the sites of a network: how a representation is denoised together with the data.

The way of ReDi (Kouzelis et al. 2025, arXiv 2504.16064): what lies on the same sites is embedded and added, and read out by a
head of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multigen.nn.blocks import TimeEmbedding
from multigen.state import MultigenError, State, where


class Companions(nn.Module):
    """Components (B, *sites, d) beside a network's own, on sites whose hidden features are (B, *sites, D).

    Heads start at zero, as a diffusion transformer's do. Make it last: the rest of the network is then initialised as if there
    were none.

    Args:
        widths: component -> its width d.
        width: D.
    """

    def __init__(self, widths: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({name: nn.Linear(d, width) for name, d in widths.items()})
        self.times = nn.ModuleDict({name: TimeEmbedding(width, scale=100) for name in widths})
        self.heads = nn.ModuleDict({name: nn.Linear(width, d) for name, d in widths.items()})
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    def read(self, noisy: State, t: State, mask: State) -> Tensor | float:
        """What is added to the hidden features: (B, *sites, D), or 0 where there is no companion."""
        return sum(self._read(name, noisy, t, mask) for name in self.embed)  # (B, *sites, D)

    def _read(self, name: str, noisy: State, t: State, mask: State) -> Tensor:
        if name not in noisy:
            raise MultigenError(f"the network reads component {name!r}, which the batch lacks; it has {sorted(noisy)}")
        real = where(mask[name], noisy[name], torch.zeros_like(noisy[name]))  # (B, *sites, d), whatever stands in padding
        z = self.embed[name](real)  # (B, *sites, D)
        time = self.times[name](t[name])  # (B, D)
        return z + time.view(len(z), *[1] * (z.ndim - 2), -1)  # (B, *sites, D)

    def write(self, hidden: Tensor) -> State:
        """Component -> prediction (B, *sites, d)."""
        return {name: head(hidden) for name, head in self.heads.items()}
