"""A backbone as a graph: each residue and its nearest neighbours, described by distances that no rigid motion changes.

Dauparas et al. 2022 (ProteinMPNN, Science 378, supplement): Gaussian radial bases of 25 distances between the atoms of two
residues, and their separation along the chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.protein.layers import Neighbourhood

_CB = (-0.58273431, 0.56802827, -0.54067466)
"""Ideal CB in the frame a = b x c, b = CA - N, c = C - CA."""
_N, _CA, _C, _O, _B = range(5)
_PAIRS = (
    *((_CA, _CA), (_N, _N), (_C, _C), (_O, _O), (_B, _B)),
    *((_CA, _N), (_CA, _C), (_CA, _O), (_CA, _B), (_N, _C), (_N, _O), (_N, _B), (_B, _C), (_B, _O), (_O, _C)),
    *((_N, _CA), (_C, _CA), (_O, _CA), (_B, _CA), (_C, _N), (_O, _N), (_B, _N), (_C, _B), (_O, _B), (_C, _O)),
)
"""Atom of residue i, atom of residue j: the order in which ProteinMPNN's published weights read the 25 distances."""
_LEAST, _MOST, _BASES = 2.0, 22.0, 16
_REACH = 32
POSITIONS = 2 * _REACH + 2
"""Classes of relative position: -32 .. 32, and one for another chain."""
_EMBEDDED = 16
_CHUNK = {"cpu": 2**11, "cuda": 2**16}
"""Edges whose radial bases are held at once: they stay in the processor's cache, and memory does not grow with the batch."""


def virtual_cb(backbone: Tensor) -> Tensor:
    """Where CB would be in ideal geometry: backbone (..., 4, 3) in Angstrom, N, CA, C, O -> (..., 3)."""
    n, ca, c, _ = backbone.unbind(-2)  # (..., 3) each
    first, second = ca - n, c - ca  # (..., 3) each
    normal = torch.linalg.cross(first, second)  # (..., 3)
    return _CB[0] * normal + _CB[1] * first + _CB[2] * second + ca  # (..., 3)


def nearest(ca: Tensor, known: Tensor, k: int) -> Tensor:
    """The k nearest known residues of each known residue.

    Args:
        ca: Float (B, L, 3) in Angstrom; anything where not known.
        known: Bool (B, L).
        k: number of neighbours K.

    Returns:
        Long (B, L, K): nearest first, the residue itself before all others, -1 where there are fewer. Of two at the same
        distance the one with the lower index comes first.
    """
    place = torch.where(known[..., None], ca.detach().to(torch.float32), 0)  # (B, L, 3)
    squared = sum((x[:, :, None] - x[:, None]).square_() for x in place.unbind(-1))  # (B, L, L)
    assert isinstance(squared, Tensor)
    return _first(squared, known[:, :, None] & known[:, None], k)


def along_chain(chain: Tensor, index: Tensor, present: Tensor, k: int) -> Tensor:
    """The k residues that are nearest along the same chain, as `nearest` has them in space.

    Args:
        chain, index: Long (B, L), number of the chain and position in it.
        present: Bool (B, L), residues to take.
        k: number of neighbours K.

    Returns:
        Long (B, L, K), -1 where there are fewer.
    """
    apart = (index[:, :, None] - index[:, None]).abs().to(torch.float32)  # (B, L, L)
    same = chain[:, :, None] == chain[:, None]  # (B, L, L)
    return _first(apart, same & present[:, :, None] & present[:, None], k)


def _first(distance: Tensor, allowed: Tensor, k: int) -> Tensor:
    """The k smallest of each row (B, L, L), itself first; ties by index, so that every machine returns the same."""
    length = distance.shape[1]
    # the bits of a float >= 0 are ordered as the float is: with the index below them, no two keys are equal
    key = distance.contiguous().view(torch.int32).long() << 32  # (B, L, L)
    key = key + torch.arange(length, device=key.device)  # (B, L, L)
    key.diagonal(dim1=1, dim2=2).fill_(-1)
    key = key.masked_fill_(~allowed, torch.iinfo(torch.long).max)  # (B, L, L)
    values, index = key.topk(min(k, length), largest=False, sorted=True)  # (B, L, K) each
    index = index.masked_fill_(values == torch.iinfo(torch.long).max, -1)  # (B, L, K)
    return functional.pad(index, (0, max(0, k - length)), value=-1)  # (B, L, K)


class RelativePosition(nn.Module):
    """Separation along the chain, clipped to +-32, as a vector; another chain is a class of its own."""

    def __init__(self, width: int = _EMBEDDED) -> None:
        super().__init__()
        self.linear = nn.Linear(POSITIONS, width)

    @staticmethod
    def classes(chain: Tensor, index: Tensor, neighbours: Tensor) -> Tensor:
        """Long (B, L, K) in 0 .. 65; what stands where there is no neighbour means nothing."""
        rows = torch.arange(len(chain), device=chain.device)[:, None, None]  # (B, 1, 1)
        offset = (index[:, :, None] - index[rows, neighbours] + _REACH).clamp(0, 2 * _REACH)  # (B, L, K)
        return offset.masked_fill_(chain[:, :, None] != chain[rows, neighbours], POSITIONS - 1)  # (B, L, K)

    def table(self) -> Tensor:
        """The vectors of all classes: (66, width)."""
        return self.linear.weight.T + self.linear.bias  # (66, width)


class EdgeFeatures(nn.Module):
    """Each neighbour of each residue as a vector: relative position and 25 distances x 16 bases, linear, LayerNorm.

    Args:
        width: of the result D.
        distances: number of distances P.
        further: width of further features, see `extra`.
    """

    def __init__(self, width: int = 128, distances: int = len(_PAIRS), further: int = 0) -> None:
        super().__init__()
        self.embeddings = RelativePosition()
        self.parts = [_EMBEDDED, distances * _BASES, further]
        self.edge_embedding = nn.Linear(sum(self.parts), width, bias=False)
        self.norm_edges = nn.LayerNorm(width)

    def forward(self, backbone: Tensor, known: Tensor, chain: Tensor, index: Tensor, neighbours: Tensor) -> Tensor:
        """
        Args:
            backbone: Float (B, L, 4, 3) in Angstrom: N, CA, C, O; gets no gradient.
            known: Bool (B, L), all four atoms present; of other residues nothing is read but their position.
            chain, index: Long (B, L).
            neighbours: Long (B, L, K), -1 where there is none; the feature there means nothing.

        Returns:
            (B, L, K, D).
        """
        near = Neighbourhood(neighbours)
        backbone = torch.where(known[..., None, None], backbone.detach(), 0)  # (B, L, 4, 3)
        position, distance, further = self.edge_embedding.weight.split(self.parts, 1)  # (D, 16), (D, 16 P), (D, F)
        classes = RelativePosition.classes(chain, index, neighbours)  # (B, L, K)
        result = functional.embedding(classes, self.embeddings.table() @ position.T)  # (B, L, K, D)
        result = result + RadialLinear.apply(self.lengths(backbone, known, near).to(distance.dtype), distance)
        if (extra := self.extra(backbone, known, near)) is not None:
            result = result + functional.linear(extra.to(further.dtype), further)  # (B, L, K, D)
        return self.norm_edges(result)  # (B, L, K, D)

    def lengths(self, backbone: Tensor, known: Tensor, near: Neighbourhood) -> Tensor:
        """The P distances of each pair in Angstrom: (B, L, K, P), infinite where either residue is unknown."""
        atoms = torch.cat([backbone, virtual_cb(backbone)[..., None, :]], -2)  # (B, L, 5, 3)
        return pair_distances(atoms, _PAIRS, known, near)  # (B, L, K, 25)

    def extra(self, backbone: Tensor, known: Tensor, near: Neighbourhood) -> Tensor | None:
        """Further features of each pair: (B, L, K, F)."""
        return None


def pair_distances(atoms: Tensor, pairs: Sequence[tuple[int, int]], known: Tensor, near: Neighbourhood) -> Tensor:
    """Distances between atoms of each residue and of its neighbours.

    Args:
        atoms: (B, L, A, 3) in Angstrom.
        pairs: P times an atom of the residue and one of its neighbour.
        known: Bool (B, L).
        near: the neighbours.

    Returns:
        (B, L, K, P) in Angstrom; infinite where either residue is unknown.
    """
    atoms = atoms.transpose(-1, -2)  # (B, L, 3, A): coordinates first, so that the innermost dimension is long
    own, other = (atoms[..., list(kind)] for kind in zip(*pairs, strict=True))  # (B, L, 3, P) each
    both = known[..., None] & near.gather(known)  # (B, L, K)
    apart = near.gather(other).sub_(own[:, :, None]).square_()  # (B, L, K, 3, P)
    return apart.sum(-2).add_(1e-6).sqrt_().masked_fill_(~both[..., None], torch.inf)  # (B, L, K, P)


def radial(length: Tensor) -> Tensor:
    """exp(-((d - mu) / sigma)^2) for 16 mu from 2 to 22 Angstrom and sigma = 20 / 16: (...) -> (..., 16)."""
    # a power of 2 is several times quicker than one of e; the clamp (2^-121) keeps clear of subnormal numbers, which are slow
    scale = math.sqrt(math.log2(math.e)) * _BASES / (_MOST - _LEAST)
    centre = torch.linspace(_LEAST * scale, _MOST * scale, _BASES, dtype=length.dtype, device=length.device)  # (16,)
    x = (length * scale)[..., None] - centre  # (..., 16)
    return x.clamp_(-11, 11).square_().neg_().exp2_()  # (..., 16)


class RadialLinear(torch.autograd.Function):
    """radial(d) @ weight^T, a few edges at a time: the bases, by far the largest tensor of the network, are never stored."""

    @staticmethod
    def forward(ctx, length: Tensor, weight: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(length)
        out = [functional.linear(radial(part).flatten(1), weight) for part in _parts(length)]  # (<= chunk, D) each
        return torch.cat(out).view(*length.shape[:-1], -1)  # (B, L, K, D)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]
        (length,) = ctx.saved_tensors  # (B, L, K, P)
        # summed in the type of the distances, whatever the products are made in
        total = length.new_zeros(grad.shape[-1], _BASES * length.shape[-1])  # (D, 16 P)
        for part, distances in zip(_parts(grad), _parts(length), strict=True):
            total += part.T @ radial(distances).flatten(1).to(grad.dtype)  # (D, 16 P)
        return None, total


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """(B, L, K, F) -> (<= chunk, F) each."""
    return x.flatten(0, -2).split(_CHUNK.get(x.device.type, 2**16))
