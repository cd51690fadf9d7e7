"""MiniMol's network (Klaser et al. 2024, arXiv 2404.14986): messages along bonds and through a hub, on flattened graphs."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

ATOMS, BONDS = 85, 13
"""Features of an atom and of a bond (see `minimol_graph`)."""
EIGEN, STEPS = 8, 16
"""Eigenvectors of the Laplacian, and lengths of random walks."""
WIDTH, HIDDEN, PAIR, OUT = 128, 336, 168, 512
LAYERS = 16


class Graphs(NamedTuple):
    """Some molecules, one after another: n atoms, m directed bonds, G molecules."""

    atoms: Tensor
    """(n, 85)."""
    bonds: Tensor
    """(m, 13)."""
    ends: Tensor
    """Long (2, m), atoms: where a bond goes to and where it comes from."""
    spectrum: Tensor
    """(n, 8, 2): eigenvalues of the graph's Laplacian, and the eigenvectors at the atom."""
    walks: Tensor
    """(n, 16): chance that a random walk of 1 to 16 steps ends where it began."""
    graph: Tensor
    """Long (n,), the number of the molecule."""


class MiniMolNet(nn.Module):
    """Sixteen layers of graph isomorphism networks with bonds (GINE), the last 512 wide; the hub joins all of a molecule."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.walks = nn.Sequential(
            nn.LayerNorm(STEPS),
            *(nn.Linear(STEPS, 64), nn.LayerNorm(64), nn.ReLU()),
            *(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU()),
        )
        self.atoms = _block(32 + ATOMS, 256, WIDTH, nn.ReLU())
        self.bonds = _block(BONDS, 128, PAIR, nn.ReLU())
        widths = [WIDTH, *[HIDDEN] * (LAYERS - 1), OUT]
        self.layers = nn.ModuleList(Layer(a, b) for a, b in pairwise(widths))
        self.hubs = nn.ModuleList(Hub() for _ in range(LAYERS - 1))

    def forward(self, given: Graphs) -> Tensor:
        """The atoms' last states (n, 512)."""
        place = self.spectrum(given.spectrum) + self.walks(given.walks)  # (n, 32)
        x = self.atoms(torch.cat([place, given.atoms], -1))  # (n, 128)
        bonds, hub = self.bonds(given.bonds), None  # (m, 168)
        size = given.graph.bincount()[:, None]  # (G, 1)
        told = x  # (n, D)
        for i, layer in enumerate(self.layers):
            new = layer(told, bonds, given.ends)  # (n, D)
            x = new + x if new.shape == x.shape else new  # (n, D)
            if i < len(self.hubs):
                centre = cast(Hub, self.hubs[i])
                hub = centre.gathered(x, hub, given.graph, size)  # (G, D)
                told = x + centre.out(hub[given.graph] / 2)  # (n, D)
        return x


class Spectrum(nn.Module):
    """A sum over eigenvectors (a deep set): it does not know their order, but their signs."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Linear(2, 64), nn.Linear(64, 32)
        self.each = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 8, 2) -> (n, 32)."""
        return self.out(self.each(self.lift(x)).sum(1))


class Layer(nn.Module):
    """x_i -> MLP(x_i + sum_j relu(x_j + W e_ij)), the GINE of Hu et al. (2020, eq. 6.2)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.bonds = nn.Linear(PAIR, width)
        self.update = nn.Sequential(*_block(width, width, out, nn.GELU()), nn.GELU())

    def forward(self, x: Tensor, bonds: Tensor, ends: Tensor) -> Tensor:
        """(n, D), (m, 168), (2, m) -> (n, D')."""
        told = (x[ends[1]] + self.bonds(bonds)).relu()  # (m, D)
        return self.update(x.index_add(0, ends[0], told))


class Hub(nn.Module):
    """A node that all atoms of a molecule tell, and that tells all of them: the mean times the logarithm of their number."""

    def __init__(self) -> None:
        super().__init__()
        self.update = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU())
        self.out = nn.Linear(HIDDEN, HIDDEN)

    def gathered(self, x: Tensor, before: Tensor | None, graph: Tensor, size: Tensor) -> Tensor:
        """Atoms (n, D) -> the hubs' states (G, D), added to those of the layer before."""
        total = x.new_zeros(len(size), x.shape[-1]).index_add(0, graph, x)  # (G, D)
        mean = total / size * size.to(x.dtype).log()  # (G, D)
        return self.update(mean) if before is None else before + self.update(before + mean)


def _block(width: int, hidden: int, out: int, activation: nn.Module) -> nn.Sequential:
    """Two linears, each normalised, with one activation between."""
    first, second = (nn.Linear(width, hidden), nn.LayerNorm(hidden)), (nn.Linear(hidden, out), nn.LayerNorm(out))
    return nn.Sequential(*first, activation, *second)
