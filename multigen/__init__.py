"""Diffusion and flow models of named tensors, guided by pretrained representations.

Importing the package loads nothing heavy; each public name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {
    "Alignment": "alignment",
    "Batch": "state",
    "Denoiser": "denoiser",
    "Denoising": "objective",
    "Diffusion": "diffusion",
    "Experiment": "build.experiment",
    "Features": "state",
    "Guidance": "guidance",
    "Modality": "modality",
    "MultigenError": "state",
    "Objective": "objective",
    "Output": "denoiser",
    "Ramp": "curriculum",
    "Run": "run",
    "Sampler": "sampling",
    "State": "state",
    "Tapped": "tapping",
    "Trainer": "trainer",
    "compose": "build.compose",
    "keys": "random",
}
"""Public name -> the module it comes from."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'multigen' has no attribute {name!r}")
    value = getattr(import_module(f"multigen.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
