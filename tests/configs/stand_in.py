"""Small data in the place of what `multigen prepare` fetches, so that every shipped configuration runs without a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modalities.image import stored
from modalities.image.emoji import GROUPS
from modalities.molecule.example import Chains as MoleculeChains
from modalities.protein.example import Helices
from modalities.protein.modality import structure_of
from multigen.state import Batch, Features, pool
from multigen.teachers.common import raw

COUNT = 16


def emoji(root: Path) -> None:
    """Pictures of noise under the names and groups of emoji, two thirds of them for training."""
    random = np.random.default_rng(0)
    large = random.integers(0, 256, (COUNT, 128, 128, 3), np.uint8)  # (N, 128, 128, 3)
    pictures = {32: large[:, ::4, ::4], 64: large[:, ::2, ::2], 128: large}
    splits = ["valid" if i % 3 == 0 else "train" for i in range(COUNT)]
    rows = [{"name": f"picture {i}", "group": GROUPS[i % len(GROUPS)], "split": split} for i, split in enumerate(splits)]
    stored.store(root / "emoji", pictures, rows, {"name": "stand-in", "licence": "none", "groups": list(GROUPS)})


class Caption(torch.nn.Module):
    """A sentence embedding's width, from the bytes of the caption."""

    fingerprint = "stand-in-caption"

    def forward(self, batch: Batch) -> Features:
        sums = raw(batch, "caption", self).float().sum(1, keepdim=True)  # (B, 1)
        value = torch.cos(sums * torch.arange(1, 385, device=sums.device))  # (B, 384)
        return Features(value, torch.ones(len(value), dtype=torch.bool, device=value.device))  # (B, 384), (B,)


class Chains(Helices):
    """Helices, in the place of whatever chains an experiment reads."""

    def __init__(self, **settings: Any) -> None:
        pass


class Embedding(torch.nn.Module):
    """Features of residues, or of pairs of neighbours, in the place of files."""

    fingerprint = "stand-in-embedding"

    def __init__(self, what: str, width: int, **settings: Any) -> None:
        super().__init__()
        self.what, self.width = what, width

    def forward(self, batch: Batch) -> Features:
        found = structure_of(batch)
        mask = found["neighbours"] >= 0 if self.what == "pair" else found["known"]  # (B, L) or (B, L, K)
        place = torch.arange(1, self.width + 1, device=mask.device)  # (D,)
        return Features(torch.sin(place * (1 + mask.float().cumsum(1)[..., None])), mask)  # (B, L, D) or (B, L, K, D)


class Latents:
    """Moments of noise, and of noise the representations that an experiment names."""

    fingerprint = "stand-in-latents"
    labels = np.arange(COUNT) % len(GROUPS)  # (N,)
    widths = {"tokens": (256, 768), "caption": (3584,)}  # noqa: RUF012

    def __init__(self, size: int, targets: list[str], **settings: Any) -> None:
        self.size, self.targets = size, targets

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng(index)
        moments = np.abs(random.normal(size=(8, self.size, self.size))).astype(np.float32)  # (2 C, h, w)
        target = {name: random.normal(size=self.widths[name]).astype(np.float16) for name in self.targets}
        seen = {"raw": random.integers(0, 256, (32, 32, 3), np.uint8), "caption": f"picture {index}"}
        return {"moments": moments, "label": int(self.labels[index]), "target": target, **seen}


class Zigzags(MoleculeChains):
    """Chains of atoms, in the place of whatever molecules an experiment reads: enough to whiten one vector of each."""

    sizes = np.resize(np.arange(4, 12), 80)

    def __init__(self, **settings: Any) -> None:
        pass


class Atoms(torch.nn.Module):
    """Features of atoms, or of the whole molecule, from nothing but coordinates and elements."""

    fingerprint = "stand-in-atoms"

    def __init__(self, pooled: bool = False, width: int = 96, **settings: Any) -> None:
        super().__init__()
        self.pooled, self.width = pooled, width

    def forward(self, batch: Batch) -> Features:
        given = batch.raw["coords"].nan_to_num().sum(-1) + batch.clean["atoms"]  # (B, N)
        value = torch.cos(given[..., None] * torch.arange(1, self.width + 1, device=given.device))  # (B, N, D)
        found = Features(value, batch.mask["atoms"])
        return pool(found) if self.pooled else found


REPLACED = {
    "modalities.molecule.ccd.Ccd": {"_target_": "stand_in.Zigzags"},
    "modalities.image.latent_data.LatentData": {"_target_": "stand_in.Latents"},
    "modalities.image.latents.Latents": {"decoder": None, "scale": 0.5, "shift": 0.0, "latents": None},
    "modalities.molecule.geom.GeomDrugs": {"_target_": "stand_in.Zigzags"},
    "modalities.protein.cgdms.Cgdms": {"_target_": "stand_in.Chains"},
    "modalities.protein.promod3.Promod3": {"_target_": "stand_in.Chains"},
    "modalities.protein.biounit.Biounit": {"_target_": "stand_in.Chains"},
    "modalities.protein.encoders.Files": {"_target_": "stand_in.Embedding"},
    "modalities.protein.encoders.MPNNSingle": {"pretrained": False},
    "modalities.protein.encoders.MPNNPair": {"pretrained": False},
    "modalities.protein.encoders.MPNNStructure": {"pretrained": False},
    "modalities.image.encoders.EfficientNetLite0": {"pretrained": False},
    "modalities.image.encoders.MiniLM": {"_target_": "stand_in.Caption"},
    "modalities.molecule.encoders.MiniMol": {"_target_": "stand_in.Atoms", "pooled": True},
    "modalities.molecule.encoders.MiniMolAtoms": {"_target_": "stand_in.Atoms"},
    "modalities.molecule.encoders.Name": {"_target_": "stand_in.Atoms", "pooled": True},
    "modalities.molecule.encoders.UniMol": {"_target_": "stand_in.Atoms", "pooled": True, "width": 512},
}


def replaced(node: Any) -> Any:
    """A configuration whose teachers need no weights, and whose data are not fetched."""
    if isinstance(node, list):
        return [replaced(child) for child in node]
    if not isinstance(node, dict):
        return node
    small = {k: replaced(v) for k, v in node.items() if k != "prepare"}
    return small | REPLACED.get(str(node.get("_target_")), {})
