"""Every modality can be diagnosed: sites, pairs of sites and whole examples, whatever is masked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch

from multigen.diagnose import MEASURES, Settings, study
from multigen.random import Noise
from multigen.state import Batch, Features
from multigen.testing import Contract

FOLDERS = ("points", "image", "protein", "molecule")


@dataclass(frozen=True)
class Taught:
    """A modality with representations of noise: of the sites of each component, and of the whole."""

    modality: Any

    def collate(self, examples: Any, keys: Any) -> Batch:
        return self.modality.collate(examples, keys)

    def encode(self, batch: Batch) -> Batch:
        own = self.modality.encode(batch)
        noise, real = Noise(batch.key).fold("target"), own.mask
        made = {f"of {k}": Features(noise.fold(k).normal([*m.shape[1:], 3]), m) for k, m in real.items()}
        whole = Features(noise.normal([4]), torch.ones_like(batch.key, dtype=torch.bool))
        return own.replace(target={**own.target, **made, "whole": whole})


@pytest.mark.parametrize("name", FOLDERS)
def test_every_modality_is_diagnosed(name):
    torch.manual_seed(0)
    contract: Contract = import_module(f"modalities.{name}.example").contract()
    asked = Settings(levels=(0.3, 0.9), examples=8, rows=40, neighbours=2, clusters=2)
    modality: Any = Taught(contract.modality)
    found = study(contract.denoiser, contract.processes, {}, modality, contract.dataset, contract.taps, asked)
    assert found["examples"] == min(8, len(contract.dataset)) and set(found["targets"]) >= {"whole"}
    for values in found["targets"].values():
        for measure in MEASURES:
            assert set(values[measure]) == set(contract.taps)
            assert all(-1.001 <= x <= 1.5 or x != x for tap in values[measure].values() for x in tap)
            assert all(len(tap) == 2 for tap in values[measure].values())
