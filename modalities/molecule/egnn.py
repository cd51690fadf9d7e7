"""A dense E(n)-equivariant graph network (Satorras, Hoogeboom and Welling 2021, arXiv 2102.09844): the plain reference.

Every pair of atoms has a message as wide as the atoms' features, in every layer; the other networks are measured against its
cost. Steps along difference vectors are divided by the distance plus one, as Hoogeboom et al. 2022 (arXiv 2203.17003) do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.molecule.denoiser import Given, Hidden, MoleculeDenoiser, masked
from modalities.molecule.vectors import exactly
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen.nn import Companions
from multigen.state import at_least


class EGNN(MoleculeDenoiser):
    """Messages between all pairs of atoms.

    Args:
        width: D of the invariant features and of the messages.
        edges: E of pair features.
        message: width of the MLP that refines the bonds.
        layers: at least 1.
        atoms, bonds, charges: number of classes.
        joint: further components (B, N, d) of the atoms that are denoised with the molecule: name -> d.

    Taps: ``layer1`` ..., the invariant features (B, N, D) after that many layers.
    """

    def __init__(
        self,
        width: int = 128,
        edges: int = 32,
        message: int = 32,
        layers: int = 8,
        atoms: int = ATOMS,
        bonds: int = len(BONDS),
        charges: int = len(CHARGES),
        joint: Mapping[str, int] | None = None,
    ) -> None:
        at_least(1, width=width, edges=edges, message=message, layers=layers)
        super().__init__(width, edges, message, layers, atoms, bonds, charges)
        self.layers = nn.ModuleList(Layer(width, edges) for _ in range(layers))
        self.companions = Companions(joint or {}, width)

    def hidden(self, nodes: Tensor, edges: Tensor, given: Given) -> Hidden:
        n = nodes.shape[1]
        about = torch.cat([edges.unflatten(2, (n, n)).movedim(1, 3), self._distances(given)], -1)  # (B, N, N, E + 2)
        x, seen = given.coords, []  # (B, N, 3)
        for layer in self.layers:
            nodes, x = layer(nodes, x, about, given.pairs)  # (B, N, D), (B, N, 3)
            seen.append(nodes)
        return Hidden(nodes, x, edges, seen)

    @staticmethod
    def _distances(given: Given) -> Tensor:
        """Squared, of the noisy and of the previously predicted coordinates: (B, N, N, 2)."""
        with exactly(given.coords):
            both = torch.stack([given.coords, given.prev_coords], -1)  # (B, N, 3, 2)
            return (both[:, :, None] - both[:, None]).square().sum(3)  # (B, N, N, 2)


class Layer(nn.Module):
    """m_ij = f(h_i, h_j, |x_i - x_j|^2, a_ij); x_i += mean_j (x_i - x_j) g(m_ij); h_i += k(h_i, sum_j e_ij m_ij): eq. 3 to 8.

    Args:
        width: D.
        edges: E of what else is known about pairs, besides two distances.
    """

    def __init__(self, width: int, edges: int) -> None:
        super().__init__()
        # the first linear map of f, in parts: it acts on atoms before they are paired
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pair, self.second = nn.Linear(edges + 3, width, bias=False), nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.step = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False))
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor, x: Tensor, about: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, N, 3), (B, N, N, E + 2), Bool (B, N, N) -> (B, N, D), (B, N, 3)."""
        with exactly(x):
            between = x[:, :, None] - x[:, None]  # (B, N, N, 3)
            square = between.square().sum(-1, keepdim=True)  # (B, N, N, 1)
        first = self.own(nodes)[:, :, None] + self.other(nodes)[:, None] + self.pair(torch.cat([about, square], -1))
        message = masked(functional.silu(self.second(functional.silu(first))), pairs)  # (B, N, N, D)
        count = pairs.sum(-1, keepdim=True).clamp(min=1)  # (B, N, 1)
        with exactly(x):
            along = between / ((square + 1e-8).sqrt() + 1)  # (B, N, N, 3)
            x = x + (masked(self.step(message).to(x.dtype), pairs) * along).sum(2) / count  # (B, N, 3)
        weighed = (self.gate(message).sigmoid() * message).sum(2)  # (B, N, D)
        return nodes + self.node(torch.cat([nodes, weighed / count.sqrt()], -1)), x
