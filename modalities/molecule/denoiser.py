"""What the denoisers of molecules have in common: what they read, what they return, and where in space they put it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modalities.molecule.embedding import AtomEmbedding, BondEmbedding, BondHead, Given, NodeHead
from modalities.molecule.vectors import exact
from multigen.denoiser import Output, check_taps
from multigen.nn import Companions
from multigen.process.geometry import zero_com
from multigen.state import Features, MultigenError, State, expand

COMPONENTS = ("coords", "atoms", "bonds", "charges")
FIXED = "fixed"
"""The condition Bool (B, N) that says which atoms are given."""


class Hidden(NamedTuple):
    """What a network makes of it."""

    nodes: Tensor
    """(B, N, D), invariant."""
    coords: Tensor
    """(B, N, 3), up to a translation."""
    edges: Tensor
    """(B, E, N N), invariant."""
    layers: list[Tensor]
    """(B, N, D) after each layer."""


class MoleculeDenoiser(nn.Module, ABC):
    """Predicts the clean molecule. Subclasses say how; this reads, embeds, classifies and puts the molecule in its place.

    Coordinates are predicted with their centre of mass at the origin; where atoms are given (condition ``fixed``), so that the
    mean of their prediction is the mean of where they are. Charges are an input where they are decided. The previous
    prediction is read as a second set of coordinates and as probabilities. A subclass sets `companions` last, see there.

    Args:
        width: D of invariant node features.
        edges: E of pair features.
        message: width of the MLP that refines the bonds.
        layers: number of layers, for the names of the taps: ``layer1`` ..., (B, N, D) after that many layers.
        atoms, bonds, charges: number of classes. The mask token of each follows its last class.
    """

    self_conditioned = True
    companions: Companions
    """Further components (B, N, d) of the atoms, which do not turn with the molecule, denoised with it."""

    def __init__(self, width: int, edges: int, message: int, layers: int, atoms: int, bonds: int, charges: int) -> None:
        super().__init__()
        self.classes = {"atoms": atoms, "bonds": bonds, "charges": charges}
        self.tap_names = [f"layer{i + 1}" for i in range(layers)]
        self.embed_atoms, self.embed_bonds = AtomEmbedding(width, atoms, charges), BondEmbedding(edges, bonds)
        self.norm = nn.LayerNorm(width)
        self.atoms, self.charges = NodeHead(width, atoms), NodeHead(width, charges)
        self.bonds = BondHead(width, message, edges, bonds)

    @abstractmethod
    def hidden(self, nodes: Tensor, edges: Tensor, given: Given) -> Hidden:
        """Embedded atoms (B, N, D) and pairs (B, E, N N) -> what the heads read."""

    def null(self, cond: State) -> State:
        """Unchanged: which atoms are given is not a wish but part of the state."""
        return dict(cond)

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
        given = self.read(noisy, t, cond, mask, prev)
        nodes = self.embed_atoms(given) + self.companions.read(noisy, t, mask)  # (B, N, D)
        edges = self.embed_bonds(given)  # (B, E, N N)
        nodes, coords, edges, layers = self.hidden(nodes, edges, given)
        coords = zero_com(coords, given.real)  # (B, N, 3)
        normed = self.norm(nodes)  # (B, N, D)
        pred = {
            "coords": placed(coords, noisy["coords"], given.real, given.fixed),  # (B, N, 3)
            "atoms": self.atoms(normed),  # (B, N, atoms)
            "bonds": self.bonds(normed, coords, edges),  # (B, N, N, bonds)
            "charges": self.charges(normed),  # (B, N, charges)
            **self.companions.write(normed),
        }
        seen = {k: Features(masked(layers[self.tap_names.index(k)], given.real), given.real) for k in taps}
        return Output({k: masked(x, mask[k]) for k, x in pred.items()}, seen)

    def read(self, noisy: State, t: State, cond: State, mask: State, prev: State | None) -> Given:
        """What padding holds is not looked at."""
        if absent := [k for k in COMPONENTS if k not in noisy]:
            raise MultigenError(f"the network reads {absent[0]!r}, which the state lacks; it has {', '.join(sorted(noisy))}")
        real, pairs = mask["atoms"], mask["bonds"]  # (B, N), (B, N, N)
        coords = masked(noisy["coords"], real)  # (B, N, 3)
        fixed = cond[FIXED] & real if FIXED in cond else torch.zeros_like(real)  # (B, N)
        return Given(
            real,
            fixed,
            torch.stack([t["coords"], t["atoms"]], -1).to(coords.dtype),
            zero_com(coords, real),
            masked(noisy["atoms"], real),
            masked(noisy["charges"], real),
            masked(noisy["bonds"], pairs).flatten(1),
            pairs,
            *self._before(prev, real, pairs, coords),
        )

    def _before(self, prev: State | None, real: Tensor, pairs: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates (B, N, 3), probabilities of atoms (B, N, atoms) and of bonds (B, bonds, N N); zeros without any."""
        b, n = real.shape
        if prev is None:
            atoms, bonds = like.new_zeros(b, n, self.classes["atoms"]), like.new_zeros(b, self.classes["bonds"], n * n)
            return torch.zeros_like(like), atoms, bonds
        atoms, bonds = (exact(prev[k]).softmax(-1).to(like.dtype) for k in ("atoms", "bonds"))  # (B, N, K), (B, N, N, K)
        coords = zero_com(masked(prev["coords"].to(like.dtype), real), real)  # (B, N, 3)
        return coords, masked(atoms, real), masked(bonds, pairs).flatten(1, 2).mT


def placed(coords: Tensor, noisy: Tensor, real: Tensor, fixed: Tensor) -> Tensor:
    """Prediction moved so that the mean of the given atoms is where they are; the mean of all is 0 where none is given.

    Args:
        coords: (B, N, 3), the prediction, its mean over the real atoms at the origin.
        noisy: (B, N, 3), in which given atoms are where they are.
        real, fixed: Bool (B, N).

    Returns:
        (B, N, 3).
    """
    share = (fixed / fixed.sum(1, keepdim=True).clamp(min=1)).to(coords.dtype)[..., None]  # (B, N, 1)
    shift = (share * masked(noisy - coords, fixed)).sum(1, keepdim=True)  # (B, 1, 3)
    return masked(coords + shift, real)  # (B, N, 3)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x where the mask, a prefix of its dimensions, is True, and 0 elsewhere, whatever stands there."""
    return torch.where(expand(mask, x), x, 0)  # like x
