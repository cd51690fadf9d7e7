"""The ends of every denoiser of molecules: atoms and pairs of atoms to features, features to classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.molecule.layers import PairMLP, across
from modalities.molecule.vectors import exact, exactly, squared_distance

SIZE = 64
"""Width of the embedding of a molecule's size."""


class Given(NamedTuple):
    """What a network reads; 0 in padding. Coordinates have their mean over the real atoms at the origin."""

    real: Tensor
    """Bool (B, N)."""
    fixed: Tensor
    """Bool (B, N), atoms that are given."""
    times: Tensor
    """(B, 2), of coordinates and atoms."""
    coords: Tensor
    """(B, N, 3)."""
    atoms: Tensor
    """Long (B, N)."""
    charges: Tensor
    """Long (B, N)."""
    bonds: Tensor
    """Long (B, N N)."""
    pairs: Tensor
    """Bool (B, N, N), two different real atoms."""
    prev_coords: Tensor
    """(B, N, 3), 0 where there is no previous prediction."""
    prev_atoms: Tensor
    """(B, N, atoms) probabilities, likewise."""
    prev_bonds: Tensor
    """(B, bonds, N N) probabilities, likewise."""


class AtomEmbedding(nn.Module):
    """Element, decided charge, times, size of the molecule, the previous guess of the element -> (B, N, D).

    What training may never show (a charge that is decided, an atom that is given) starts from zero, so that it says nothing to
    a network that never saw it.

    Args:
        width: D.
        atoms, charges: number of classes; the mask token follows.
    """

    def __init__(self, width: int, atoms: int, charges: int) -> None:
        super().__init__()
        self.atoms, self.charges = nn.Embedding(atoms + 1, width), nn.Embedding(charges + 1, width, padding_idx=charges)
        self.fixed, self.prev = nn.Linear(1, width, bias=False), nn.Linear(atoms, width, bias=False)
        self.times, self.size = nn.Linear(2, width), nn.Linear(SIZE, width, bias=False)
        self.out = nn.Linear(width, width)
        for layer in (self.charges, self.fixed):
            nn.init.zeros_(layer.weight)

    def forward(self, given: Given) -> Tensor:
        whole = self.times(given.times) + self.size(waves(given.real.sum(1)).to(given.times))  # (B, D)
        own = self.atoms(given.atoms) + self.charges(given.charges)  # (B, N, D)
        own = own + self.fixed(given.fixed[..., None].to(whole)) + self.prev(given.prev_atoms)  # (B, N, D)
        return self.out(functional.silu(own + whole[:, None]))  # (B, N, D)


def waves(size: Tensor) -> Tensor:
    """Sines and cosines of a number of atoms Long (B,), of periods from 6 to 60,000: (B, 64)."""
    omega = torch.exp(-math.log(10_000) * torch.arange(0, 1, 2 / SIZE, device=size.device))  # (32,)
    angle = size[:, None] * omega  # (B, 32)
    return torch.cat([angle.sin(), angle.cos()], -1)  # (B, 64)


class BondEmbedding(nn.Module):
    """Bond class and the previous guess of it -> (B, E, N N).

    Args:
        width: E.
        bonds: number of classes; the mask token follows.
    """

    def __init__(self, width: int, bonds: int) -> None:
        super().__init__()
        self.classes = bonds + 1
        self.linear = nn.Linear(bonds + 1 + bonds, width, bias=False)  # of a one-hot input, so that a bias adds nothing

    def forward(self, given: Given) -> Tensor:
        classes = torch.arange(self.classes, device=given.bonds.device)[:, None]  # (classes, 1)
        chosen = (given.bonds[:, None] == classes).to(given.prev_bonds.dtype)  # (B, classes, N N)
        return functional.silu(across(self.linear.weight, torch.cat([chosen, given.prev_bonds], 1)))  # (B, E, N N)


class NodeHead(nn.Sequential):
    """Class logits of every atom: (B, N, D) -> (B, N, K)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, classes))


class BondHead(nn.Module):
    """Bond logits from pair features, refined by the distances that were predicted; the same in both directions.

    Args:
        width: D of node features.
        message: width M of the refining MLP.
        edges: width E of pair features.
        bonds: number of classes.
    """

    def __init__(self, width: int, message: int, edges: int, bonds: int) -> None:
        super().__init__()
        self.pair, self.refine = PairMLP(width, message, 2, edges), nn.Linear(message, edges)
        self.norm, self.first, self.second = nn.LayerNorm(edges), nn.Linear(edges, edges), nn.Linear(edges, bonds)

    def forward(self, nodes: Tensor, coords: Tensor, edges: Tensor) -> Tensor:
        """Normed (B, N, D), centred (B, N, 3), (B, E, N N) -> (B, N, N, bonds)."""
        with exactly(coords):
            distance = squared_distance(coords.mT).clamp(min=1e-6).sqrt()  # (B, N, N)
            points = torch.stack([distance, coords @ coords.mT], 1).flatten(2)  # (B, 2, N N)
        change = across(self.refine.weight, self.pair(nodes, points, edges)) + self.refine.bias[:, None]  # (B, E, N N)
        pairs = self.norm(exact(edges + change).mT)  # (B, N N, E)
        n = nodes.shape[1]
        logits = self.second(functional.silu(self.first(pairs))).unflatten(1, (n, n))  # (B, N, N, bonds)
        return (logits + logits.transpose(1, 2)) / 2  # (B, N, N, bonds)
