"""ProteinMPNN (Dauparas et al. 2022, Science 378) as a teacher of residues, pairs and structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.protein.alphabet import UNKNOWN
from modalities.protein.encoders.common import neighbours, sequence, structure, visible
from modalities.protein.layers import Graph, Neighbourhood
from modalities.protein.proteinmpnn import NEIGHBOURS, ProteinMPNN, load_proteinmpnn
from multigen.files import data_root
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, MultigenError, State, at_least
from multigen.teachers.common import Memo

_READ = ("backbone", "known", "chain", "index")


class Piece(NamedTuple):
    """Some proteins of a batch, encoded together."""

    rows: Tensor
    """Long (b,): which ones."""
    length: int
    """Of the longest, l."""
    near: Tensor
    """Long (b, l, 48 or fewer)."""
    graph: Graph
    """Nodes (b, l, 128) and edges (b, l, 48 or fewer, 128)."""


class Shared(nn.Module):
    """The network, and the last batch as it encoded it: all teachers of one variant use one."""

    def __init__(self, net: ProteinMPNN, tokens: int) -> None:
        super().__init__()
        self.net, self.tokens, self.last = net, tokens, Memo()

    def pieces(self, given: State, mask: Tensor) -> list[Piece]:
        """A batch in parts of similar length: what `structure` returns, and which sites are residues, Bool (B, L)."""
        return self.last([given[k] for k in _READ], lambda: [self._piece(given, *part) for part in self._parts(mask)])

    def _parts(self, mask: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Rows (b,) and the length of the longest; together at most `tokens` sites, if they are several."""
        length, order = mask.sum(1).sort(descending=True, stable=True)  # (B,) each
        start = 0
        while start < len(order):
            longest = max(1, int(length[start]))
            rows = order[start : start + max(1, self.tokens // longest)]  # (b,)
            yield rows, longest
            start += len(rows)

    def _piece(self, given: State, rows: Tensor, length: int) -> Piece:
        near, graph = self.net.graph({k: given[k][rows, :length] for k in _READ})
        return Piece(rows, length, near, graph)


_NETWORKS: WeakValueDictionary[tuple[str, str, bool, int, int], Shared] = WeakValueDictionary()
"""Those in use; a teacher that is no longer needed takes its network along."""


def shared(variant: str, root: str | Path | None, pretrained: bool, seed: int, tokens: int) -> Shared:
    """The network of these options: that of another teacher, if there is one."""
    key = (variant, str(root or data_root()), pretrained, seed, tokens)
    found = _NETWORKS.get(key)
    if found is None:
        found = _NETWORKS[key] = Shared(_network(variant, root, pretrained, seed), tokens)
    return found


def _network(variant: str, root: str | Path | None, pretrained: bool, seed: int) -> ProteinMPNN:
    if pretrained:
        return load_proteinmpnn(variant, Path(root) if root else None)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return ProteinMPNN(trace=variant.startswith("ca_"))


class _MPNN(Frozen):
    """What the three teachers share.

    Args:
        variant: of the weights, a name of `modalities.protein.weights.VARIANTS`.
        root: the data root in which they were prepared.
        pretrained: False leaves the weights random (a control, and for tests).
        seed: of the random weights.
        tokens: most residues that are encoded together, padding included; a longer protein is encoded alone.
        options: what else the features depend on.
    """

    def __init__(
        self, variant: str, root: str | Path | None, pretrained: bool, seed: int, tokens: int, **options: bool | int
    ) -> None:
        at_least(1, tokens=tokens)
        super().__init__(**options)
        self.shared = shared(variant, root, pretrained, seed, tokens)
        self.freeze()

    @property
    def net(self) -> ProteinMPNN:
        return self.shared.net

    def _each(self, batch: Batch, made: Callable[[Piece], Tensor], *sites: int) -> Tensor:
        """`made` of each part, (b, l, *sites, D), put together: (B, L, *sites, D), 0 where padded."""
        _, mask = sequence(batch)  # (B, L)
        value: Tensor | None = None
        for piece in self.shared.pieces(structure(batch, self), mask):
            part = made(piece)  # (b, l, *sites, D)
            if value is None:
                value = part.new_zeros(*mask.shape, *sites, part.shape[-1])  # (B, L, *sites, D)
            value[piece.rows, : piece.length] = part
        assert value is not None, "a batch has at least one protein"
        return value

    def _decoded(self, batch: Batch, piece: Piece, own: bool) -> Tensor:
        """Nodes of the decoder with the whole sequence visible: (b, l, 128)."""
        letters = sequence(batch)[0][piece.rows, : piece.length].clamp(max=UNKNOWN)  # (b, l)
        return self.net.states(piece.graph, piece.near, letters, own)


class MPNNStructure(_MPNN):
    """Nodes of the encoder: what the backbone alone says about each residue, (B, L, 128). For the arguments see `_MPNN`."""

    def __init__(
        self,
        variant: str = "v_48_020",
        root: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
        tokens: int = 512,
    ) -> None:
        super().__init__(variant, root, pretrained, seed, tokens)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        return Features(self._each(batch, lambda piece: piece.graph.nodes), visible(batch))


class MPNNSingle(_MPNN):
    """Nodes of the decoder with the sequence visible: what backbone and sequence say about each residue, (B, L, 128).

    Args:
        own: a residue's messages read the residue itself; with False, only its neighbours tell of it.
        variant, root, pretrained, seed, tokens: as in `_MPNN`.
    """

    def __init__(
        self,
        variant: str = "v_48_020",
        own: bool = True,
        root: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
        tokens: int = 512,
    ) -> None:
        super().__init__(variant, root, pretrained, seed, tokens, own=own)
        self.own = own

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        return Features(self._each(batch, lambda piece: self._decoded(batch, piece, self.own)), visible(batch))


class MPNNPair(_MPNN):
    """Edges of the encoder from each residue to its neighbours: (B, L, K, 128).

    The network itself reads 48 neighbours of each residue; of them, the modality's K nearest are given.

    Args:
        neighbours: K of the modality, at most 48.
        sequence: add what the sequence says about the neighbour, its node in the decoder: (B, L, K, 256).
        variant, root, pretrained, seed, tokens: as in `_MPNN`.

    Raises:
        MultigenError: when called, the batch has another K.
    """

    def __init__(
        self,
        neighbours: int = 30,
        sequence: bool = False,
        variant: str = "v_48_020",
        root: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
        tokens: int = 512,
    ) -> None:
        at_least(1, neighbours=neighbours)
        if neighbours > NEIGHBOURS:
            raise MultigenError(f"MPNNPair reads {NEIGHBOURS} neighbours of each residue, {neighbours} are too many")
        super().__init__(variant, root, pretrained, seed, tokens, neighbours=neighbours, sequence=sequence)
        self.neighbours, self.sequence = neighbours, sequence

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        near = neighbours(batch, self, self.neighbours)  # (B, L, K)
        return Features(self._each(batch, lambda piece: self._edges(batch, piece, near), self.neighbours), near >= 0)

    def _edges(self, batch: Batch, piece: Piece, near: Tensor) -> Tensor:
        """(b, l, K, 128 or 256), 0 beyond the last residue that there is."""
        given = near[piece.rows, : piece.length, : piece.near.shape[-1]]  # (b, l, k)
        own = piece.near[..., : self.neighbours]  # (b, l, k)
        if not torch.equal(given, own):
            raise MultigenError("MPNNPair: the batch's neighbours are not the nearest ones in space")
        edges = piece.graph.edges[:, :, : own.shape[-1]]  # (b, l, k, 128)
        if self.sequence:
            told = Neighbourhood(own).gather(self._decoded(batch, piece, own=True))  # (b, l, k, 128)
            edges = torch.cat([edges, told], -1)  # (b, l, k, 256)
        return functional.pad(edges, (0, 0, 0, self.neighbours - own.shape[-1]))  # (b, l, K, D)
