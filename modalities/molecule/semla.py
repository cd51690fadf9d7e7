"""Semla, the equivariant transformer of SemlaFlow (Irwin et al. 2024, arXiv 2406.07266), as a denoiser of molecules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modalities.molecule.denoiser import Given, Hidden, MoleculeDenoiser
from modalities.molecule.layers import FeedForward, Layer, SetNorm, mix, sites
from modalities.molecule.vectors import exactly
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen.nn import Companions
from multigen.state import MultigenError, at_least


class Semla(MoleculeDenoiser):
    """Invariant features and S sets of coordinates per atom, attention with latent pair messages.

    The first layer reads pair features, the last adds to them, those between have none: a pair costs what `message`, `sets`
    and `heads` cost, whatever the width. All is equivariant to rotations, reflections, translations and permutations.

    Unlike in the published code, the feed-forward gates every mixed set by itself (not one sum of them), messages are scaled
    by the inverse of its factor (see `layers.steady`), what the last layer writes is added to the pair features that the first
    one read, lengths that divide are softened (see `vectors.SOFT`), no output depends on padding, and linear maps that follow
    one another are one.

    Args:
        width: D of the invariant features.
        sets: S coordinate sets.
        edges: E of pair features.
        message: M of the latent pair messages, and of the gates of the feed-forward.
        layers: at least 2.
        heads: attention heads; divides `width`.
        atoms, bonds, charges: number of classes.
        joint: further components (B, N, d) of the atoms that are denoised with the molecule: name -> d.

    The defaults are the published widths. Taps: ``layer1`` ..., the invariant features (B, N, D) after that many layers.
    """

    def __init__(
        self,
        width: int = 384,
        sets: int = 64,
        edges: int = 128,
        message: int = 128,
        layers: int = 12,
        heads: int = 32,
        atoms: int = ATOMS,
        bonds: int = len(BONDS),
        charges: int = len(CHARGES),
        joint: Mapping[str, int] | None = None,
    ) -> None:
        at_least(1, width=width, sets=sets, edges=edges, message=message, heads=heads)
        at_least(2, layers=layers)
        if width % heads:
            raise MultigenError(f"Semla: {heads} heads do not divide the width {width}")
        super().__init__(width, edges, message, layers, atoms, bonds, charges)
        self.lift = nn.Linear(2, sets, bias=False)
        ends = {0: {"edges_in": edges}, layers - 1: {"edges_out": edges}}
        self.layers = nn.ModuleList(Layer(width, sets, message, heads, **ends.get(i, {})) for i in range(layers))
        self.feed_forward, self.set_norm = FeedForward(width, sets, message), SetNorm(sets)
        self.coords = nn.Linear(sets, 1, bias=False)
        self.companions = Companions(joint or {}, width)

    def hidden(self, nodes: Tensor, edges: Tensor, given: Given) -> Hidden:
        at = sites(given.real, given.coords.dtype)
        with exactly(given.coords):
            x = mix(self.lift.weight, torch.stack([given.coords, given.prev_coords], 1).mT)  # (B, S, 3, N)
        seen, written = [], edges
        for layer in self.layers:
            nodes, x, written = layer(nodes, x, at, written)  # (B, N, D), (B, S, 3, N), (B, E, N N) or None
            seen.append(nodes)
        nodes, x = self.feed_forward(nodes, x, at)  # (B, N, D), (B, S, 3, N)
        with exactly(x):
            coords = mix(self.coords.weight, self.set_norm(x, at)[0])[:, 0].mT  # (B, N, 3)
        return Hidden(nodes, coords, edges + written, seen)
