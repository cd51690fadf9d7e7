"""Layers of an equivariant transformer on molecules (Irwin et al. 2024, SemlaFlow, arXiv 2406.07266).

Atoms hold invariant features h (B, N, D) and S sets of coordinates x (B, S, 3, N): S points in space per atom, whose dot
products and lengths are all that the features see. Sets are centred on their atoms' mean and 0 in padding. Pairs are kept
channels first, (B, C, N N), so that the softmax over an atom's neighbours, the sums of messages and the dot products of the
sets are matrix products of contiguous memory. What reads a pair is W [h_i; h_j; p_ij] = W_i h_i + W_j h_j + W_p p_ij: what
belongs to an atom is multiplied once, not once for each pair.

Norms, softmax, dot products and distances are computed in at least single precision: the squared distance of two atoms is a
small difference of dot products, of which bfloat16 would leave nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.molecule.vectors import SOFT, directions, exact, exactly

_HIDDEN = -1e4


class Sites(NamedTuple):
    """What layers know of padding."""

    real: Tensor
    """(B, 1, N), 1 for an atom and 0 for padding."""
    share: Tensor
    """(B, N, 1), what an atom counts in a mean over its molecule."""
    hidden: Tensor
    """(B, 1, N N), added to attention logits: very negative where j is i or padding."""
    accompanied: Tensor
    """(B, 1, 1, 1), 0 for molecules of one atom, which has nothing to attend to."""


def sites(mask: Tensor, dtype: torch.dtype) -> Sites:
    """Of the mask Bool (B, N) of real atoms."""
    n = mask.shape[1]
    count = mask.sum(1)[:, None, None]  # (B, 1, 1)
    real = mask[:, None].to(dtype)  # (B, 1, N)
    absent = ~mask[:, None] | torch.eye(n, dtype=torch.bool, device=mask.device)  # (B, N, N)
    hidden = torch.zeros_like(absent, dtype=dtype).masked_fill_(absent, _HIDDEN).flatten(1)[:, None]  # (B, 1, N N)
    return Sites(real, real.mT / count.clamp(min=1), hidden, (count > 1)[..., None].to(dtype))


def across(weight: Tensor, x: Tensor) -> Tensor:
    """W x over channels: weight (O, C), x (B, C, P) -> (B, O, P)."""
    return torch.bmm(weight.expand(len(x), -1, -1), x)  # (B, O, P)


def mix(weight: Tensor, x: Tensor) -> Tensor:
    """Linear combinations of the coordinate sets: weight (P, S), x (B, S, 3, N) -> (B, P, 3, N)."""
    return across(weight, x.flatten(2)).unflatten(2, (3, -1))  # (B, P, 3, N)


def centre(x: Tensor, at: Sites) -> Tensor:
    """Sets of zero mean over the real atoms, 0 in padding: (B, S, 3, N) -> (B, S, 3, N)."""
    mean = torch.bmm(x.flatten(1, 2), at.share).unflatten(1, x.shape[1:3])  # (B, S, 3, 1)
    return (x - mean) * at.real[:, None]  # (B, S, 3, N)


class SetNorm(nn.Module):
    """Divides each coordinate set by its vectors' mean length over the real atoms, softened, times one learned number."""

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sets))  # (S,)

    def forward(self, x: Tensor, at: Sites) -> tuple[Tensor, Tensor]:
        """Centred sets (B, S, 3, N) -> scaled sets, and the vectors' new lengths (B, S, N)."""
        length = (x.square().sum(2) + 1e-12).sqrt()  # (B, S, N)
        scale = self.scale[:, None] / ((length @ at.share).square() + SOFT**2).sqrt()  # (B, S, 1)
        return x * scale[..., None], length * scale  # (B, S, 3, N), (B, S, N)


class FeedForward(nn.Module):
    """Each atom by itself: h += MLP[h, lengths of its sets], x += W_out (gate(h) * W_in x).

    Args:
        width: D.
        sets: S.
        gates: number P of combinations of sets that the invariant features gate.
    """

    def __init__(self, width: int, sets: int, gates: int) -> None:
        super().__init__()
        self.norm, self.set_norm = nn.LayerNorm(width), SetNorm(sets)
        self.first, self.lengths = nn.Linear(width, 4 * width), nn.Linear(sets, 4 * width, bias=False)
        self.second = nn.Linear(4 * width, width)
        self.gate = nn.Sequential(nn.Linear(width, gates), nn.SiLU(), nn.Linear(gates, gates))
        self.mix_in, self.mix_out = nn.Linear(sets, gates, bias=False), nn.Linear(gates, sets, bias=False)

    def forward(self, h: Tensor, x: Tensor, at: Sites) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, S, 3, N) -> the same, updated."""
        normed = self.norm(h)  # (B, N, D)
        gate = self.gate(normed).mT[:, :, None]  # (B, P, 1, N)
        with exactly(x):
            points, length = self.set_norm(x, at)  # (B, S, 3, N), (B, S, N)
            x = centre(x + mix(self.mix_out.weight, mix(self.mix_in.weight, points) * gate), at)  # (B, S, 3, N)
        hidden = functional.silu(self.first(normed) + self.lengths(length.mT))  # (B, N, 4 D)
        return h + self.second(hidden), x


class PairMLP(nn.Module):
    """What a pair of atoms makes of [h_i, h_j, p_ij] for invariant pair features p: one hidden layer.

    Args:
        width: D of normed node features.
        message: width M that they are projected to, and of the hidden layer.
        points: number G of pair features that geometry gives (dot products, distances).
        edges: number E of learned pair features, 0 for none.
    """

    def __init__(self, width: int, message: int, points: int, edges: int = 0) -> None:
        super().__init__()
        self.project = nn.Linear(width, message)
        self.own, self.other = nn.Linear(message, message), nn.Linear(message, message, bias=False)
        self.points = nn.Linear(points, message, bias=False)
        self.edges = nn.Linear(edges, message, bias=False) if edges else None

    def forward(self, h: Tensor, points: Tensor, edges: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, G, N N), (B, E, N N) -> (B, M, N N)."""
        h = self.project(h)  # (B, N, M)
        own, other = exact(self.own(h)).mT.contiguous(), exact(self.other(h)).mT.contiguous()  # (B, M, N) each
        total = (own[..., None] + other[:, :, None]).flatten(2)  # (B, M, N N)
        with exactly(points):
            total = torch.baddbmm(total, self.points.weight.expand(len(h), -1, -1), points)  # (B, M, N N)
            if self.edges is not None and edges is not None:
                total = torch.baddbmm(total, self.edges.weight.expand(len(h), -1, -1), exact(edges))  # (B, M, N N)
        return functional.silu(total)  # (B, M, N N)


class Layer(nn.Module):
    """Feed-forward, then attention of atoms and of coordinates over one set of latent pair messages.

    Args:
        width: D of the invariant features.
        sets: S coordinate sets.
        message: width M of the pairs' latent features.
        heads: H attention heads of the invariant features.
        edges_in, edges_out: widths of pair features that the layer reads and writes, 0 for none.
    """

    def __init__(self, width: int, sets: int, message: int, heads: int, edges_in: int = 0, edges_out: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.feed_forward = FeedForward(width, sets, message)
        self.norm, self.set_norm = nn.LayerNorm(width), SetNorm(sets)
        self.scale = nn.Parameter(torch.ones(sets))  # (S,)
        self.pair = PairMLP(width, message, sets, edges_in)
        # a softmax does not see a bias
        self.logits, self.set_logits = nn.Linear(message, heads, bias=False), nn.Linear(message, sets, bias=False)
        self.edges = nn.Linear(message, edges_out) if edges_out else None
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mix_in, self.mix_out = nn.Linear(sets, sets, bias=False), nn.Linear(sets, sets, bias=False)

    def forward(self, h: Tensor, x: Tensor, at: Sites, edges: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, N, D), (B, S, 3, N), edges (B, E, N N) or None -> new h and x, edges out or None."""
        h, x = self.feed_forward(h, x, at)
        normed = self.norm(h)  # (B, N, D)
        with exactly(x):
            points = x * self.scale[:, None, None]  # (B, S, 3, N)
            dots = (points.mT @ points).flatten(2)  # (B, S, N N)
        hidden = self.pair(normed, dots, edges)  # (B, M, N N)
        h = h + self._features(normed, attention(self.logits.weight, hidden, at), at)  # (B, N, D)
        weights = attention(self.set_logits.weight, hidden, at)  # (B, S, N, N)
        with exactly(x):
            x = centre(x + self._points(x, weights, at), at)  # (B, S, 3, N)
        if self.edges is None:
            return h, x, None
        return h, x, across(self.edges.weight, hidden) + self.edges.bias[:, None]  # (B, E, N N)

    def _features(self, normed: Tensor, attention: Tensor, at: Sites) -> Tensor:
        """sum_j a_ij v_j of every head, scaled: (B, N, D), (B, H, N, N) -> (B, N, D)."""
        value = self.value(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, D/H)
        heads = (attention.to(value.dtype) @ value) * steady(attention, at)  # (B, H, N, D/H)
        return self.out(heads.transpose(1, 2).flatten(2))  # (B, N, D)

    def _points(self, x: Tensor, attention: Tensor, at: Sites) -> Tensor:
        """sum_j a_ij (x_i - x_j) / |x_i - x_j| (softened) of every set, scaled: (B, S, 3, N), (B, S, N, N) -> (B, S, 3, N)."""
        x = mix(self.mix_in.weight, self.set_norm(x, at)[0])  # (B, S, 3, N)
        return mix(self.mix_out.weight, directions(x, attention) * steady(attention, at).mT)  # (B, S, 3, N)


def attention(weight: Tensor, hidden: Tensor, at: Sites) -> Tensor:
    """Softmax over j of the logits W m_ij: weight (H, M), hidden (B, M, N N) -> (B, H, N, N), at least single precision."""
    logits = torch.baddbmm(at.hidden, weight.expand(len(hidden), -1, -1), hidden)  # (B, H, N N)
    return exact(logits).unflatten(2, (at.real.shape[2], -1)).softmax(-1)  # (B, H, N, N)


def steady(attention: Tensor, at: Sites) -> Tensor:
    """1 / sqrt(sum_j a_ij^2): (B, H, N, N) -> (B, H, N, 1); 0 where there is nothing to attend to.

    Times this, a sum of independent messages has the variance of one, however many there are (GNN-VPA, Schneckenreiter et al.
    2024, arXiv 2403.04747). SemlaFlow's code multiplies by the root instead, which makes the mean of many smaller still.
    """
    return at.accompanied / torch.linalg.vector_norm(attention, dim=-1, keepdim=True)  # (B, H, N, 1)
