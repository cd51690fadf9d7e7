"""Layers of message passing between each residue and its neighbours (Dauparas et al. 2022, ProteinMPNN).

Names of parameters are those of the published weights. Where a linear map reads several inputs side by side,
W [x; y] = W_x x + W_y y is used: what belongs to a residue is multiplied once, not once for each of its K neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Neighbourhood:
    """Who reads whom.

    Args:
        neighbours: Long (B, L, K), -1 where there is none.
    """

    def __init__(self, neighbours: Tensor) -> None:
        self.sites = neighbours.shape[1]
        self.found = neighbours >= 0  # (B, L, K)
        self.present = self.found.any(-1)  # (B, L)
        start = torch.arange(len(neighbours), device=neighbours.device).mul_(neighbours.shape[1])[:, None, None]  # (B, 1, 1)
        self._flat = (neighbours.clamp(min=0) + start).flatten()  # (B L K)
        self._count = self.found.sum(-1, keepdim=True)  # (B, L, 1)
        # most residues have all K neighbours; to see that none has only some saves a pass over the largest tensors
        self._some = self.found.is_cuda or bool((self.present & ~self.found.all(-1)).any())

    def gather(self, nodes: Tensor) -> Tensor:
        """What each neighbour holds: (B, L, *features) -> (B, L, K, *features), that of residue 0 where there is none.

        Of one protein, `nodes` may hold further residues behind those that read.
        """
        return nodes.flatten(0, 1).index_select(0, self._flat).view(*self.found.shape, *nodes.shape[2:])

    def sum(self, hidden: Tensor, layer: nn.Linear) -> Tensor:
        """The sum of layer(hidden) over neighbours; the map is linear, so the sum comes first: (B, L, K, D) -> (B, L, D)."""
        hidden = hidden * self.found[..., None] if self._some else hidden  # (B, L, K, D)
        total = hidden.sum(2) * self.present[..., None]  # (B, L, D)
        return functional.linear(total, layer.weight) + self._count * layer.bias  # (B, L, D)


class Graph(NamedTuple):
    """An encoded backbone."""

    nodes: Tensor
    """(B, L, D)."""
    edges: Tensor
    """(B, L, K, D)."""


class Dropout(nn.Module):
    """x + dropout(change). On the CPU one random word serves four numbers, which is several times quicker."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        """Two tensors of one shape -> their sum, some entries of the second dropped in training."""
        if not self.training or self.chance == 0:
            return x + change
        if change.device.type != "cpu":
            return x + functional.dropout(change, self.chance)
        words = torch.empty(-(-change.numel() // 4), dtype=torch.long).random_(-(2**63), None)  # (ceil(n / 4),)
        dropped = round(self.chance * 2**16) - 2**15
        keep = (words.view(torch.int16)[: change.numel()] >= dropped).view(change.shape)  # as change
        return torch.addcmul(x, change, keep.to(change.dtype), value=1 / (1 - self.chance))  # as change


class FeedForward(nn.Module):
    """Two linear maps with four times the width between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_in, self.W_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_out(functional.gelu(self.W_in(x)))  # (..., D)


class Messages(nn.Module):
    """What encoder and decoder layers share: nodes gather messages from their neighbours, then a feed-forward, post-norm.

    Args:
        width: of nodes D.
        inputs: width of what a message reads.
        dropout: of every residual branch.
        scale: what the sum of the messages is divided by.
    """

    def __init__(self, width: int, inputs: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.W1, self.W2, self.W3 = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense = FeedForward(width)
        self.add = Dropout(dropout)

    def update(self, nodes: Tensor, first: Tensor, near: Neighbourhood) -> Tensor:
        """New nodes (B, L, D) from the result of W1 (B, L, K, D)."""
        hidden = functional.gelu(self.W2(functional.gelu(first)))  # (B, L, K, D)
        nodes = self.norm1(self.add(nodes[:, : first.shape[1]], near.sum(hidden, self.W3) / self.scale))  # (B, L, D)
        return self.norm2(self.add(nodes, self.dense(nodes)))  # (B, L, D)


class EncoderLayer(Messages):
    """Nodes read [h_i, e_ij, h_j]; then edges read the same with the new nodes."""

    def __init__(self, width: int, dropout: float = 0.1, scale: float = 30.0) -> None:
        super().__init__(width, 3 * width, dropout, scale)
        self.W11, self.W12, self.W13 = nn.Linear(3 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, edges: Tensor, near: Neighbourhood) -> tuple[Tensor, Tensor]:
        """Nodes (B, L, D), edges (B, L, K, D) -> new nodes and edges."""
        nodes = self.update(nodes, of_pair(self.W1, nodes, edges, near), near)  # (B, L, D)
        hidden = functional.gelu(self.W12(functional.gelu(of_pair(self.W11, nodes, edges, near))))  # (B, L, K, D)
        return nodes, self.norm3(self.add(edges, self.W13(hidden)))  # (B, L, D), (B, L, K, D)


class DecoderLayer(Messages):
    """Nodes read [h_i, e_ij, h_j] with edges of their own width. There may be nodes without edges, which are read only.

    Args:
        width: of nodes D.
        edges: width of edges E.
    """

    def __init__(self, width: int, edges: int, dropout: float = 0.1, scale: float = 30.0) -> None:
        super().__init__(width, 2 * width + edges, dropout, scale)

    def forward(self, nodes: Tensor, edges: Tensor, near: Neighbourhood) -> Tensor:
        """Nodes (B, L or more, D), edges (B, L, K, E) -> new nodes (B, L, D)."""
        return self.update(nodes, of_pair(self.W1, nodes, edges, near), near)  # (B, L, D)


class EdgeUpdate(nn.Module):
    """REED's branch of the decoder: edges read themselves and the neighbour they lead to, [e_ij, h_j].

    Args:
        width: of nodes D.
        edges: width of edges E.
    """

    def __init__(self, width: int, edges: int, dropout: float = 0.1) -> None:
        super().__init__()
        inner = edges + width
        self.norm_in, self.norm_out = nn.LayerNorm(inner), nn.LayerNorm(edges)
        self.W_in, self.W_out = nn.Linear(inner, inner), nn.Linear(inner, edges)
        self.add = Dropout(dropout)

    def forward(self, nodes: Tensor, edges: Tensor, near: Neighbourhood) -> Tensor:
        """Nodes (B, L or more, D), edges (B, L, K, E) -> new edges (B, L, K, E)."""
        pair = self.norm_in(torch.cat([edges, near.gather(nodes.to(edges.dtype))], -1))  # (B, L, K, E + D)
        return self.norm_out(self.add(edges, self.W_out(functional.gelu(self.W_in(pair)))))  # (B, L, K, E)


def of_pair(layer: nn.Linear, nodes: Tensor, edges: Tensor, near: Neighbourhood) -> Tensor:
    """layer([h_i; e_ij; h_j]): nodes (B, L or more, D), edges (B, L, K, E) -> (B, L, K, out)."""
    width = nodes.shape[-1]
    own, edge, other = layer.weight.split([width, edges.shape[-1], width], 1)  # (out, D), (out, E), (out, D)
    result = functional.linear(edges, edge)  # (B, L, K, out)
    result += near.gather(functional.linear(nodes, other))  # (B, L, K, out)
    result += functional.linear(nodes[:, : edges.shape[1]], own, layer.bias)[:, :, None]  # (B, L, 1, out)
    return result
