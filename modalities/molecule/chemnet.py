"""ChemNet (Mayr et al. 2018; Preuer et al. 2018): convolutions and LSTMs on the letters of a SMILES, through fcd_torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from multigen.state import MultigenError

WIDTH = 512


def needed_by(what: str) -> None:
    """`MultigenError` if the package is not installed."""
    if find_spec("fcd_torch") is None:
        raise MultigenError(f"{what} needs the package fcd_torch: pip install 'multigen[molecule]'")


def load() -> nn.Module:
    """The published network, its weights in the package (MIT): letters (B, 35, 350) -> its last hidden layer (B, 512)."""
    import fcd_torch
    from fcd_torch.utils import load_imported_model

    path = Path(fcd_torch.__file__).parent / "ChemNet_v0.13_pretrained.pt"
    return load_imported_model(torch.load(path, weights_only=True)).eval()


def letters(texts: Sequence[str]) -> Tensor:
    """Canonical SMILES, which are read up to 350 characters: one-hot Float (B, 35, 350)."""
    from fcd_torch.utils import SmilesDataset

    rows = SmilesDataset(texts, canonize=False)
    return torch.stack([torch.from_numpy(rows[i]) for i in range(len(texts))]).mT.float()  # (B, 35, 350)


def activations(texts: Sequence[str], device: str = "cpu") -> Tensor:
    """ChemNet's last hidden layer: (B, 512), on the CPU."""
    with torch.no_grad():
        return _on(device)(letters(texts).to(device)).cpu()  # (B, 512)


@lru_cache(1)
def _on(device: str) -> nn.Module:
    return load().to(device)
