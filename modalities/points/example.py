"""A tiny instance of everything, for the contract that every modality is held to."""

from __future__ import annotations

from modalities.points.data import Mixture
from modalities.points.denoiser import MLP
from modalities.points.encoders import RandomFeatures
from modalities.points.modality import Points
from multigen.process import Gaussian, Masked, Process
from multigen.testing import Contract


def contract() -> Contract:
    """All three kinds of component: a point, its class, and a representation."""
    dataset = Mixture("ring", count=16)
    components = ("point", "label", "z")
    modality = Points(dataset, components, encoders={"z": RandomFeatures(4)})
    denoiser = MLP(components, {"point": 2, "z": 4}, {"label": 8}, width=32, depth=2)
    processes: dict[str, Process] = {"point": Gaussian(), "label": Masked(8), "z": Gaussian("clean")}
    return Contract(dataset, modality, denoiser, processes, taps=["block1", "block2"])
