"""Layers of message passing on the neighbours of each residue (Dauparas et al. 2022, ProteinMPNN).

Names of parameters are those of the published weights. Where a linear map reads several inputs side by side,
W [x; y] = W_x x + W_y y is used: what belongs to a residue is multiplied once, not once for each of its K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def gather(nodes: Tensor, neighbours: Tensor) -> Tensor:
    """What each neighbour holds.

    Args:
        nodes: (B, L, *features).
        neighbours: Long (B, L, K); where it is -1, the result is that of residue 0.

    Returns:
        (B, L, K, *features).
    """
    start = torch.arange(len(nodes), device=nodes.device).mul_(nodes.shape[1])[:, None, None]  # (B, 1, 1)
    flat = (neighbours.clamp(min=0) + start).flatten()  # (B L K)
    return nodes.flatten(0, 1).index_select(0, flat).view(*neighbours.shape, *nodes.shape[2:])  # (B, L, K, *features)


class FeedForward(nn.Module):
    """Two linear maps with four times the width between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_in, self.W_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_out(functional.gelu(self.W_in(x)))  # (..., D)


def summed(hidden: Tensor, real: Tensor, layer: nn.Linear) -> Tensor:
    """The sum of layer(hidden) over real neighbours; linear, so that the sum comes first: (B, L, K, D) -> (B, L, D).

    Args:
        hidden: (B, L, K, D).
        real: (B, L, K, 1), 1 where there is a neighbour and 0 elsewhere.
    """
    total = (hidden * real).sum(2)  # (B, L, D)
    return functional.linear(total, layer.weight) + real.sum(2) * layer.bias  # (B, L, D)


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
        self.dropout = nn.Dropout(dropout)

    def update(self, nodes: Tensor, first: Tensor, real: Tensor) -> Tensor:
        """Nodes (B, L, D) after W1's result (B, L, K, D), of which this takes possession."""
        hidden = functional.gelu(self.W2(functional.gelu(first)))  # (B, L, K, D)
        nodes = self.norm1(nodes + self.dropout(summed(hidden, real, self.W3) / self.scale))  # (B, L, D)
        return self.norm2(nodes + self.dropout(self.dense(nodes)))  # (B, L, D)


class EncoderLayer(Messages):
    """Nodes read [h_i, e_ij, h_j]; then edges read the same with the new nodes."""

    def __init__(self, width: int, dropout: float = 0.1, scale: float = 30.0) -> None:
        super().__init__(width, 3 * width, dropout, scale)
        self.W11, self.W12, self.W13 = nn.Linear(3 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, edges: Tensor, neighbours: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            nodes: (B, L, D).
            edges: (B, L, K, D).
            neighbours: Long (B, L, K).
            real: (B, L, K, 1), 0 where there is no neighbour.

        Returns:
            New nodes and edges.
        """
        nodes = self.update(nodes, of_pair(self.W1, nodes, edges, neighbours), real)  # (B, L, D)
        hidden = functional.gelu(self.W12(functional.gelu(of_pair(self.W11, nodes, edges, neighbours))))  # (B, L, K, D)
        return nodes, self.norm3(edges + self.dropout(self.W13(hidden)))  # (B, L, D), (B, L, K, D)


class DecoderLayer(Messages):
    """Nodes read [h_i, e_ij, h_j] with edges of their own width.

    Args:
        width: of nodes D.
        edges: width of edges E.
    """

    def __init__(self, width: int, edges: int, dropout: float = 0.1, scale: float = 30.0) -> None:
        super().__init__(width, 2 * width + edges, dropout, scale)

    def forward(self, nodes: Tensor, edges: Tensor, neighbours: Tensor, real: Tensor) -> Tensor:
        """(B, L, D), (B, L, K, E), Long (B, L, K), (B, L, K, 1) -> new nodes (B, L, D)."""
        return self.update(nodes, of_pair(self.W1, nodes, edges, neighbours), real)  # (B, L, D)


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
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, edges: Tensor, neighbours: Tensor) -> Tensor:
        """(B, L, D), (B, L, K, E), Long (B, L, K) -> new edges (B, L, K, E)."""
        pair = self.norm_in(torch.cat([edges, gather(nodes, neighbours)], -1))  # (B, L, K, E + D)
        change = self.W_out(functional.gelu(self.W_in(pair)))  # (B, L, K, E)
        return self.norm_out(edges + self.dropout(change))  # (B, L, K, E)


def of_pair(layer: nn.Linear, nodes: Tensor, edges: Tensor, neighbours: Tensor) -> Tensor:
    """layer([h_i; e_ij; h_j]): (B, L, D), (B, L, K, E), Long (B, L, K) -> (B, L, K, out)."""
    width = nodes.shape[-1]
    own, edge, other = layer.weight.split([width, edges.shape[-1], width], 1)  # (out, D), (out, E), (out, D)
    result = gather(functional.linear(nodes, other), neighbours) + functional.linear(nodes, own, layer.bias)[:, :, None]
    return result + functional.linear(edges, edge)  # (B, L, K, out)
