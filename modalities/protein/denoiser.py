"""The inverse-folding network: a message-passing encoder of the backbone and a decoder of the partly masked sequence.

Dauparas et al. 2022 (ProteinMPNN) with a decoder that is not autoregressive, as in discrete diffusion on backbones (Wang et
al. 2024, arXiv 2410.13643), and with decoder edges that are updated too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from modalities.protein import weights
from modalities.protein.alphabet import MASK
from modalities.protein.cone import Cone
from modalities.protein.features import EdgeFeatures, along_chain
from modalities.protein.layers import DecoderLayer, EdgeUpdate, EncoderLayer, Graph, Neighbourhood
from multigen.denoiser import ASKED, Output, check_taps
from multigen.nn import Companions
from multigen.state import Features, MultigenError, State, at_least
from multigen.stock import read_tensors

_READ = ("backbone", "known", "chain", "index", "neighbours")
_ENCODED = ("nodes", "edges")
_ENCODER = ("features.", "W_e.", "encoder_layers.")


class MPNN(nn.Module):
    """Logits of every residue from the backbone and the residues that are visible. Without `joint` it reads no time.

    Args:
        width: of nodes D; edges of the encoder have the same, those of the decoder twice as much.
        encoder_layers, decoder_layers: how many of each.
        dropout: of every residual branch.
        noise: standard deviation in Angstrom of what is added to the coordinates in training.
        update_edges: update the decoder's edges; the node messages of each layer read what has just been updated, so that no
            layer's branch is without use.
        learnable_node: start the encoder's nodes from a learned vector instead of zeros.
        scale: what sums of messages are divided by.
        tokens: of the sequence, the mask among them; also the number of logits.
        start: "random", or ProteinMPNN's encoder (width 128): a prepared variant such as "v_48_020", or a safetensors file.
        joint: further components (B, L, d) of the residues that are denoised with the sequence: name -> d.
        component: name of the sequence.

    Conditions, as the protein modality makes them: ``backbone`` (B, L, 4, 3), ``known`` Bool (B, L), ``chain`` and ``index``
    Long (B, L), ``neighbours`` Long (B, L, K). `prepare` adds ``nodes`` (B, L, D) and ``edges`` (B, L, K, D). With
    ``sequence.asked`` Bool (B, L), the decoder computes what the logits of those residues depend on, and nothing else.

    Taps: ``encoder`` (B, L, D), the structure alone; ``decoder1`` ..., (B, L, D) after that many decoder layers; ``edges1``
    ..., (B, L, K, 2 D), the decoder's edges after that many layers (with `update_edges`). Masks are False where there is no
    structure (encoder, edges), no neighbourhood (decoder) and no neighbour (edges).
    """

    def __init__(
        self,
        width: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        dropout: float = 0.1,
        noise: float = 0.1,
        update_edges: bool = True,
        learnable_node: bool = True,
        scale: float = 30.0,
        tokens: int = MASK + 1,
        start: str = "random",
        joint: Mapping[str, int] | None = None,
        component: str = "sequence",
    ) -> None:
        super().__init__()
        self.timeless = not joint  # the prediction of a sequence alone does not depend on t
        at_least(1, width=width, encoder_layers=encoder_layers, decoder_layers=decoder_layers, tokens=tokens)
        _check(dropout, noise, scale)
        self.noise, self.component = noise, component
        self.start = nn.Parameter(torch.zeros(width)) if learnable_node else None  # (D,)
        self.features, self.W_e = EdgeFeatures(width), nn.Linear(width, width)
        self.encoder_layers = nn.ModuleList(EncoderLayer(width, dropout, scale) for _ in range(encoder_layers))
        self.W_s = nn.Embedding(tokens, width)
        self.decoder_layers = nn.ModuleList(DecoderLayer(width, 2 * width, dropout, scale) for _ in range(decoder_layers))
        updates = decoder_layers if update_edges else 0
        self.edge_updates = nn.ModuleList(EdgeUpdate(width, 2 * width, dropout) for _ in range(updates))
        self.W_out = nn.Linear(width, tokens)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)
        self.companions = Companions(joint or {}, width)
        if start != "random":
            self._load_encoder(start)

    @property
    def tap_names(self) -> list[str]:
        layers = range(1, len(self.decoder_layers) + 1)
        edges = [f"edges{i}" for i in layers] if self.edge_updates else []
        return ["encoder", *(f"decoder{i}" for i in layers), *edges]

    def null(self, cond: State) -> State:
        """The conditions without structure: residues keep their places in the chain and read what is near along it.

        Of prepared conditions, prepared ones: the encoder runs again, so a sampler asks once for each backbone.
        """
        present = cond["neighbours"][..., 0] >= 0  # (B, L)
        null = {
            **{k: v for k, v in cond.items() if k not in _ENCODED},
            "backbone": torch.zeros_like(cond["backbone"]),  # (B, L, 4, 3)
            "known": torch.zeros_like(cond["known"]),  # (B, L)
            "neighbours": along_chain(cond["chain"], cond["index"], present, cond["neighbours"].shape[-1]),  # (B, L, K)
        }
        return self.prepare(null) if set(_ENCODED) <= set(cond) else null

    def prepare(self, cond: State, mask: State | None = None) -> State:
        """The conditions and the encoded backbone, which `forward` then takes instead of encoding it again."""
        nodes, edges = self.encode(cond)
        return {**cond, "nodes": nodes, "edges": edges}

    def encode(self, cond: State) -> Graph:
        """The backbone alone: nodes (B, L, D), edges (B, L, K, D)."""
        if absent := [k for k in _READ if k not in cond]:
            raise MultigenError(f"the network reads {absent[0]!r}, which the batch lacks; it has {sorted(cond)}")
        backbone, neighbours = cond["backbone"], cond["neighbours"]
        if self.training and self.noise > 0:
            backbone = backbone + self.noise * torch.randn_like(backbone)  # (B, L, 4, 3)
        features = self.features(backbone, cond["known"], cond["chain"], cond["index"], neighbours)  # (B, L, K, D)
        edges = self.W_e(features)  # (B, L, K, D)
        nodes = edges.new_zeros(*edges.shape[:2], edges.shape[-1])  # (B, L, D)
        nodes = nodes if self.start is None else nodes + self.start  # (B, L, D)
        near = Neighbourhood(neighbours)
        for layer in self.encoder_layers:
            nodes, edges = layer(nodes, edges, near)
        return Graph(nodes, edges)

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
        graph = Graph(cond["nodes"], cond["edges"]) if set(_ENCODED) <= set(cond) else self.encode(cond)
        read = self.W_s(noisy[self.component]) + self.companions.read(noisy, t, mask)  # (B, L, D)
        sequence = read.to(graph.edges.dtype)  # (B, L, D)
        asked = cond.get(f"{self.component}{ASKED}")
        if asked is not None and not taps and self.timeless:
            return Output({self.component: self._answer(graph, sequence, cond["neighbours"], asked)}, {})
        near = Neighbourhood(cond["neighbours"])
        seen = {"encoder": Features(graph.nodes, cond["known"] & near.present)}
        # without the structure (`null`), neighbours are other ones than those that targets of pairs are of
        pairs = near.found & cond["known"][..., None]  # (B, L, K)
        nodes = graph.nodes  # (B, L, D)
        for i, (nodes, edges) in enumerate(self._decode(graph, sequence, [near] * len(self.decoder_layers)), 1):
            seen |= {f"decoder{i}": Features(nodes, near.present), f"edges{i}": Features(edges, pairs)}
        pred = {self.component: self.W_out(nodes), **self.companions.write(nodes)}
        return Output(pred, {name: seen[name] for name in taps})

    def _decode(self, graph: Graph, sequence: Tensor, layers: Sequence[Neighbourhood]) -> Iterator[Graph]:
        """The graph after each layer, of the residues that its neighbourhood names: the first so many of those before."""
        nodes, near = graph.nodes, layers[0]  # (B, L, D)
        edges = torch.cat([graph.edges[:, : near.sites], near.gather(sequence)], -1)  # (B, L, K, 2 D)
        for i, (layer, near) in enumerate(zip(self.decoder_layers, layers, strict=True)):
            edges = edges[:, : near.sites]  # (B, L, K, 2 D)
            if self.edge_updates:
                edges = self.edge_updates[i](nodes, edges, near)  # (B, L, K, 2 D)
            nodes = layer(nodes, edges, near)  # (B, L, D)
            yield Graph(nodes, edges)

    def _answer(self, graph: Graph, sequence: Tensor, neighbours: Tensor, asked: Tensor) -> Tensor:
        """Logits (B, L, tokens) of the residues asked about, 0 elsewhere; no layer computes what they do not read."""
        cone = Cone.of(asked, neighbours, len(self.decoder_layers))
        part = Graph(cone.take(graph.nodes), cone.take(graph.edges))
        *_, last = self._decode(part, cone.take(sequence), cone.layers)
        return cone.give(self.W_out(last.nodes), like=asked)

    def _load_encoder(self, start: str) -> None:
        """Take over the published encoder, which starts from zeros."""
        found = weights.proteinmpnn(start) if start in weights.VARIANTS else read_tensors(Path(start))
        wanted = {k: p for k, p in self.state_dict().items() if k.startswith(_ENCODER)}
        for name, parameter in wanted.items():
            if name not in found or found[name].shape != parameter.shape:
                has = f"of shape {tuple(found[name].shape)}" if name in found else "nowhere"
                raise MultigenError(f"{start} does not fit: the network has {name} {tuple(parameter.shape)}, the file {has}")
        self.load_state_dict({k: found[k] for k in wanted}, strict=False)


def _check(dropout: float, noise: float, scale: float) -> None:
    if not 0 <= dropout < 1:
        raise MultigenError(f"dropout is a probability below 1, got {dropout}")
    if noise < 0:
        raise MultigenError(f"noise is a standard deviation in Angstrom, at least 0, got {noise}")
    if scale <= 0:
        raise MultigenError(f"scale divides a sum of messages and is above 0, got {scale}")
