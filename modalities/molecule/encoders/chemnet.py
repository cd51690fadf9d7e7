"""ChemNet as a teacher of molecules."""

from __future__ import annotations

import torch

from modalities.molecule import chemistry, chemnet
from modalities.molecule.encoders.common import mols
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features


class ChemNet(Frozen):
    """Its last hidden layer, of the SMILES without stereochemistry: (B, 512), what the Frechet ChemNet Distance is made of.

    A molecule that RDKit refuses has none.

    Raises:
        MultigenError: the package fcd_torch is not installed.
    """

    def __init__(self) -> None:
        chemnet.needed_by("ChemNet")
        super().__init__()
        self.net = chemnet.load()
        self.freeze()

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        texts = {row: chemistry.smiles(mol, stereo=False) for row, mol in enumerate(mols(batch, self)) if mol is not None}
        value = torch.zeros(len(batch), chemnet.WIDTH, device=batch.key.device)  # (B, 512)
        mask = torch.zeros(len(batch), dtype=torch.bool, device=value.device)  # (B,)
        if texts:
            rows = list(texts)
            value[rows], mask[rows] = self.net(chemnet.letters(list(texts.values())).to(value.device)), True
        return Features(value, mask)
