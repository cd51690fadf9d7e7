"""MiniMol (Klaser et al. 2024, arXiv 2404.14986) as a teacher of molecules and of atoms.

A network on the molecular graph, of 8 M parameters without its heads, trained on some 3,300 biological and quantum-mechanical
tasks of about 6 million molecules. It sees no coordinates, but the stereochemistry of double bonds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from modalities.molecule import weights
from modalities.molecule.encoders import minimol_graph
from modalities.molecule.encoders.common import mols
from modalities.molecule.encoders.minimol_graph import Graph
from modalities.molecule.encoders.minimol_net import OUT, MiniMolNet
from multigen.files import data_root
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features
from multigen.teachers.common import Memo


class Read(NamedTuple):
    """A batch as the network sees it."""

    rows: list[int]
    """The molecules that it can read."""
    graphs: list[Graph]
    """Of these."""
    states: Tensor
    """(n, 512), of all their heavy atoms."""


class Shared(nn.Module):
    """The network, and the last batch as it read it: all teachers of one kind use one."""

    def __init__(self, net: MiniMolNet) -> None:
        super().__init__()
        self.net, self.last = net, Memo()

    def read(self, batch: Batch, teacher: Frozen) -> Read:
        given = [*batch.clean.values(), *batch.raw.values()]
        return self.last(given, lambda: self._read(batch, teacher))

    def _read(self, batch: Batch, teacher: Frozen) -> Read:
        found = {row: minimol_graph.read(mol) for row, mol in enumerate(mols(batch, teacher)) if mol is not None}
        found = {row: graph for row, graph in found.items() if len(graph.atoms)}
        return Read(list(found), list(found.values()), self._states(list(found.values()), batch.key.device))

    def _states(self, graphs: Sequence[Graph], device: torch.device) -> Tensor:
        if not graphs:
            return torch.zeros(0, OUT, device=device)  # (0, 512)
        joined = minimol_graph.joined(graphs)
        return self.net(type(joined)(*(x.to(device) for x in joined)))  # (n, 512)


_NETWORKS: WeakValueDictionary[tuple[str, bool, int], Shared] = WeakValueDictionary()
"""Those in use; a teacher that is no longer needed takes its network along."""


def shared(root: str | Path | None, pretrained: bool, seed: int) -> Shared:
    """The network of these options: that of another teacher, if there is one."""
    key = (str(root or data_root()), pretrained, seed)
    found = _NETWORKS.get(key)
    if found is None:
        found = _NETWORKS[key] = Shared(_network(root, pretrained, seed))
    return found


def _network(root: str | Path | None, pretrained: bool, seed: int) -> MiniMolNet:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = MiniMolNet()
    if pretrained:
        net.load_state_dict(weights.minimol(Path(root) if root else None))
    return net


class _MiniMol(Frozen):
    """What the two teachers share.

    Args:
        root: the data root in which the weights were prepared.
        pretrained: False leaves the weights random (a control, and for tests).
        seed: of the random weights.
    """

    def __init__(self, root: str | Path | None = None, pretrained: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.shared = shared(root, pretrained, seed)
        self.freeze()

    @staticmethod
    def prepare(root: str | Path | None = None, pretrained: bool = True) -> None:
        """Fetch the weights, unless they are to be random."""
        if pretrained:
            weights.MINIMOL_STOCK.prepare(Path(root) if root else None)


class MiniMol(_MiniMol):
    """The fingerprint of the whole molecule, the largest of its heavy atoms' states: (B, 512). Arguments: see `_MiniMol`.

    A molecule that RDKit refuses has none.
    """

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        rows, graphs, states = self.shared.read(batch, self)
        value = states.new_zeros(len(batch), OUT)  # (B, 512)
        mask = torch.zeros(len(batch), dtype=torch.bool, device=states.device)  # (B,)
        for row, own in zip(rows, states.split([len(graph.atoms) for graph in graphs]), strict=True):
            value[row], mask[row] = own.amax(0), True
        return Features(value, mask)


class MiniMolAtoms(_MiniMol):
    """The last state of each heavy atom: what it is, and what it is part of: (B, N, 512). Arguments: see `_MiniMol`.

    Every element of the vocabulary has one; hydrogens and molecules that RDKit refuses have none.
    """

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        rows, graphs, states = self.shared.read(batch, self)
        value = states.new_zeros(*batch.mask["atoms"].shape, OUT)  # (B, N, 512)
        mask = torch.zeros_like(batch.mask["atoms"])  # (B, N)
        for row, graph, own in zip(rows, graphs, states.split([len(graph.atoms) for graph in graphs]), strict=True):
            origin = torch.from_numpy(graph.origin).to(states.device)  # (n,)
            value[row, origin], mask[row, origin] = own, True
        return Features(value, mask)
