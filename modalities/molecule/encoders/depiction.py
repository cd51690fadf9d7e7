"""The structural formula, as a network that was trained on photographs sees it: a second modality beside the graph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modalities.molecule.encoders.common import heavy, mols
from multigen.state import Batch, Features
from multigen.teachers import vision

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SIDE = 160
"""Pixels of the side of a drawing."""


class _Drawn(vision.Pictures):
    """Looks at a drawing of each molecule; one that RDKit refuses is blank, and has no features."""

    def freeze(self, **options: Any) -> None:
        from rdkit import rdBase

        super().freeze(rdkit=rdBase.rdkitVersion, **options)

    def pictures(self, batch: Batch) -> Tensor:
        drawn = [blank() if mol is None else draw(mol) for mol in mols(batch, self)]
        return torch.from_numpy(np.stack(drawn)).to(batch.key.device).permute(0, 3, 1, 2)  # (B, 3, R, R)

    def forward(self, batch: Batch) -> Features:
        value, mask = super().forward(batch)
        known = torch.tensor([mol is not None for mol in mols(batch, self)], device=mask.device)  # (B,)
        return Features(value, mask & known)


class Depiction(_Drawn, vision.EfficientNetLite0):
    """EfficientNet-Lite0's mean over the drawing: (B, 1280), or as wide as the `stage`.

    Args:
        size, stage, pretrained, root: as in `multigen.teachers.vision.EfficientNetLite0`.
    """

    def __init__(
        self, size: int = SIDE, stage: int | None = None, pretrained: bool = True, root: str | Path | None = None
    ) -> None:
        super().__init__(size, None, True, stage, pretrained, root)


class TimmDepiction(_Drawn, vision.Timm):
    """The mean of any network of timm over the drawing: (B, D).

    Args:
        model, size, layer, pretrained, weights, seed: as in `multigen.teachers.vision.Timm`.
    """

    def __init__(
        self,
        model: str,
        size: int | None = None,
        layer: int = -1,
        pretrained: bool = True,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, size, None, True, layer, pretrained, weights, seed)


def blank() -> np.ndarray:
    """White, uint8 (R, R, 3)."""
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def draw(mol: Mol) -> np.ndarray:
    """A structural formula, its atoms where RDKit puts them on paper: uint8 (R, R, 3)."""
    from PIL import Image
    from rdkit import rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    plain, _ = heavy(mol)
    plain.RemoveAllConformers()
    rdDepictor.Compute2DCoords(plain)
    drawer = rdMolDraw2D.MolDraw2DCairo(SIDE, SIDE)
    with rdBase.BlockLogs():
        try:
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, plain)
        except (ValueError, RuntimeError):
            return blank()
    drawer.FinishDrawing()
    return np.array(Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB"))
