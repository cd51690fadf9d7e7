"""ANI-1x (Smith et al. 2018, J. Chem. Phys. 148) as a teacher of atoms: their geometric surroundings, as an energy sees them.

It was trained on the energies of some 5 million geometries of organic molecules, equilibrium and strained ones. It knows H, C,
N and O, and needs every atom that there is, hydrogens included: those of the batch, or where the data keep them beside it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from modalities.molecule import weights
from modalities.molecule.encoders import aev
from modalities.molecule.encoders.common import whole
from modalities.molecule.vocabulary import ELEMENTS
from multigen.files import nearest
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, MultigenError

HIDDEN = {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)}
"""Widths of the hidden layers of each element's network."""
_WIDTHS = {"hidden": 96, "environment": aev.WIDTH}


class ANI(Frozen):
    """What surrounds each atom in space: (B, N, 96) or (B, N, 384).

    A molecule with another element, one that RDKit refuses and one whose hydrogens are not in the data have no target at all:
    the surroundings of its other atoms would lack something. Formal charges are not seen; ANI-1x was trained on neutral
    molecules.

    Args:
        what: "hidden", the last hidden layer of the atom's network; or "environment", the vector that it reads, which is
            computed and not learned.
        member: of the ensemble of eight networks.
        root: the data root in which the weights were prepared.
        pretrained: False leaves the weights random (a control, and for tests).
        seed: of the random weights.
    """

    table: Tensor

    def __init__(
        self,
        what: str = "hidden",
        member: int = 0,
        root: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> None:
        if what not in _WIDTHS:
            raise MultigenError(f"ANI offers no {what!r}: {nearest(what, _WIDTHS)}")
        if not 0 <= member < weights.ANI_MEMBERS:
            raise MultigenError(f"ANI-1x has members 0 .. {weights.ANI_MEMBERS - 1}, not {member}")
        super().__init__(what=what)
        self.what = what
        numbers = [aev.SPECIES.index(e) if e in aev.SPECIES else -1 for e in ELEMENTS]
        self.register_buffer("table", torch.tensor([*numbers, -1]), persistent=False)  # (18,)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.nets = nn.ModuleList(_net(HIDDEN[symbol]) for symbol in aev.SPECIES) if what == "hidden" else nn.ModuleList()
        if what == "hidden" and pretrained:
            self.nets.load_state_dict(weights.ani(member, Path(root) if root else None))
        self.freeze()

    @staticmethod
    def prepare(what: str = "hidden", root: str | Path | None = None, pretrained: bool = True) -> None:
        """Fetch the weights, unless there are none or they are to be random."""
        if what == "hidden" and pretrained:
            weights.ANI_STOCK.prepare(Path(root) if root else None)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        found = whole(batch, self)
        species = self.table[found.atoms]  # (B, M); the last entry of the table, -1, is that of padding
        value = aev.environments(found.coords, species)  # (B, M, 384)
        if self.what == "hidden":
            value = self._hidden(value, species)  # (B, M, 96)
        n = batch.mask["atoms"].shape[1]
        fit = found.known & ((species >= 0) | (found.atoms < 0)).all(1)  # (B,)
        return Features(value[:, :n].contiguous(), batch.mask["atoms"] & fit[:, None])

    def _hidden(self, value: Tensor, species: Tensor) -> Tensor:
        """(B, M, 384) -> (B, M, 96), each atom through its element's network."""
        found = value.new_zeros(*species.shape, _WIDTHS["hidden"])  # (B, M, 96)
        for number, net in enumerate(self.nets):
            found[species == number] = net(value[species == number])
        return found


def _net(hidden: tuple[int, ...]) -> nn.Sequential:
    """Up to the last hidden layer."""
    widths = [aev.WIDTH, *hidden]
    layers = [(nn.Linear(a, b), nn.CELU(0.1)) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in layer))
