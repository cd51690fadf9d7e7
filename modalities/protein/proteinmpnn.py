"""ProteinMPNN (Dauparas et al. 2022) with its published weights: a teacher, and a judge of other models' designs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.protein import weights
from modalities.protein.alphabet import CLASSES
from modalities.protein.ca_features import TraceFeatures
from modalities.protein.features import EdgeFeatures, nearest
from modalities.protein.layers import DecoderLayer, EncoderLayer, Graph, Neighbourhood
from multigen.random import Noise
from multigen.state import State, at_least

NEIGHBOURS = 48
"""K of all published weights."""
_WIDTH, _LAYERS = 128, 3
UNUSED = ("W_v.", "features.node_embedding.", "features.norm_nodes.")
"""Parameters in the CA-only files that the published network never reads."""


class ProteinMPNN(nn.Module):
    """The published network, frozen: an encoder of the backbone and a decoder that makes residues one after another.

    Args:
        trace: read CA alone.
    """

    def __init__(self, trace: bool = False) -> None:
        super().__init__()
        self.features = TraceFeatures(_WIDTH) if trace else EdgeFeatures(_WIDTH)
        self.W_e, self.W_s = nn.Linear(_WIDTH, _WIDTH), nn.Embedding(CLASSES, _WIDTH)
        self.encoder_layers = nn.ModuleList(EncoderLayer(_WIDTH) for _ in range(_LAYERS))
        self.decoder_layers = nn.ModuleList(DecoderLayer(_WIDTH, 2 * _WIDTH) for _ in range(_LAYERS))
        self.W_out = nn.Linear(_WIDTH, CLASSES)
        self.eval().requires_grad_(False)

    def encode(self, backbone: Tensor, known: Tensor, chain: Tensor, index: Tensor, neighbours: Tensor) -> Graph:
        """The backbone alone.

        Args:
            backbone: Float (B, L, 4, 3) in Angstrom.
            known: Bool (B, L).
            chain, index: Long (B, L).
            neighbours: Long (B, L, K), see `modalities.protein.features.nearest`; the weights were trained with `NEIGHBOURS`.

        Returns:
            Nodes (B, L, 128) and edges (B, L, K, 128); without meaning where nothing is known or no neighbour is.
        """
        near = Neighbourhood(neighbours)
        edges = self.W_e(self.features(backbone, known, chain, index, neighbours))  # (B, L, K, D)
        nodes = edges.new_zeros(*edges.shape[:2], _WIDTH)  # (B, L, D)
        for layer in self.encoder_layers:
            nodes, edges = layer(nodes, edges, near)
        return Graph(nodes, edges)

    def decode(self, graph: Graph, neighbours: Tensor, sequence: Tensor, rank: Tensor) -> Tensor:
        """Log-probabilities of each residue given those that are decoded before it.

        Args:
            graph: what `encode` returned for `neighbours`.
            neighbours: Long (B, L, K).
            sequence: Long (B, L), tokens 0 .. 20.
            rank: (B, L): a residue sees its neighbours of smaller rank.

        Returns:
            (B, L, 21).
        """
        near = Neighbourhood(neighbours)
        return self._log_probabilities(*self._decoded(graph, near, sequence, [near.gather(rank) < rank[..., None]]))

    def states(self, graph: Graph, neighbours: Tensor, sequence: Tensor, own: bool = True) -> Tensor:
        """Nodes after the decoder's last layer with the whole sequence visible: (B, L, 128).

        Args:
            graph, neighbours, sequence: as in `decode`.
            own: a residue sees itself too; otherwise all but itself, as it may in training.
        """
        near = Neighbourhood(neighbours)
        itself = torch.arange(neighbours.shape[1], device=neighbours.device)[:, None]  # (L, 1)
        (nodes,) = self._decoded(graph, near, sequence, [near.found if own else neighbours != itself])
        return nodes

    def log_likelihood(
        self, structure: State, sequence: Tensor, key: Tensor, free: Tensor | None = None, orders: int = 1
    ) -> Tensor:
        """Log-probability of each residue in its place, the mean over random orders of decoding.

        Args:
            structure: backbone, known, chain and index, see `modalities.protein.modality.structure_of`.
            sequence: Long (B, L), tokens 0 .. 20.
            key: Long (B,): of the orders, see `multigen.random.keys`.
            free: Bool (B, L): residues that were made; all others are given and decoded first. By default all are.
            orders: how many orders.

        Returns:
            (B, L) in nats, 0 where the backbone is unknown.
        """
        at_least(1, orders=orders)
        known = structure["known"]  # (B, L)
        neighbours, graph = self.graph(structure)
        near, free = Neighbourhood(neighbours), known if free is None else free  # (B, L)
        ranks = [Noise(key).fold("order").fold(i).uniform(known.shape[1:]) + free for i in range(orders)]  # (B, L) each
        visible = [near.gather(rank) < rank[..., None] for rank in ranks]  # (B, L, K) each
        nodes = self._decoded(graph, near, sequence, visible)
        taken = [self._log_probabilities(h).gather(-1, sequence[..., None])[..., 0] for h in nodes]  # (B, L) each
        return torch.stack(taken).mean(0).masked_fill(~known, 0)  # (B, L)

    def graph(self, structure: State) -> tuple[Tensor, Graph]:
        """The 48 nearest neighbours of each residue, Long (B, L, 48), and the backbone encoded with them."""
        backbone, known = structure["backbone"], structure["known"]  # (B, L, 4, 3), (B, L)
        neighbours = nearest(backbone[:, :, 1], known, min(NEIGHBOURS, known.shape[1]))  # (B, L, K)
        return neighbours, self.encode(backbone, known, structure["chain"], structure["index"], neighbours)

    def _decoded(self, graph: Graph, near: Neighbourhood, sequence: Tensor, visible: Sequence[Tensor]) -> list[Tensor]:
        """Nodes (B, L, D) for each way (B, L, K) in which neighbours are visible.

        A visible neighbour sends [e_ij, s_j, h_j], any other [e_ij, 0, its node from the encoder].
        """
        letters, start = self.W_s(sequence), graph.nodes  # (B, L, D) each
        nodes = [start for _ in visible]
        for layer in self.decoder_layers:
            own, edge, letter, other = layer.W1.weight.split(_WIDTH, 1)  # type: ignore[union-attr, operator]
            hidden = functional.linear(graph.edges, edge) + near.gather(functional.linear(start, other))  # (B, L, K, D)
            told = functional.linear(letters, letter)  # (B, L, D)
            for i, seen in enumerate(visible):
                change = near.gather(told + functional.linear(nodes[i] - start, other))  # (B, L, K, D)
                change.masked_fill_(~seen[..., None], 0).add_(hidden)  # (B, L, K, D)
                change += functional.linear(nodes[i], own, layer.W1.bias)[:, :, None]  # type: ignore[union-attr, arg-type]
                nodes[i] = layer.update(nodes[i], change, near)  # type: ignore[operator]
        return nodes

    def _log_probabilities(self, nodes: Tensor) -> Tensor:
        return self.W_out(nodes).log_softmax(-1)  # (B, L, 21)


def load_proteinmpnn(variant: str = "v_48_020", root: Path | None = None) -> ProteinMPNN:
    """The network with one of the published weights, `modalities.protein.weights.VARIANTS`, from the prepared files.

    Raises:
        MultigenError: there is no such variant, it is not prepared, or its file is damaged.
    """
    found = {k: v for k, v in weights.proteinmpnn(variant, root).items() if not k.startswith(UNUSED)}
    network = ProteinMPNN(trace=variant.startswith("ca_"))
    network.load_state_dict(found)
    return network
