"""Features that turn in known ways: what a node may hold, how two kinds multiply, norms and gates that respect it (e3nn)."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from multigen.state import MultigenError


class EquivariantNorm(nn.Module):
    """Layer norm of each kind of feature: scalars by mean and variance, others by the mean square of their lengths."""

    def __init__(self, irreps: Any) -> None:
        super().__init__()
        self.blocks = [(mul, ir.dim, ir.is_scalar()) for mul, ir in irreps]
        self.scale = nn.Parameter(torch.ones(irreps.num_irreps))
        self.shift = nn.Parameter(torch.zeros(sum(mul for mul, _, scalar in self.blocks if scalar)))

    def forward(self, x: Tensor) -> Tensor:
        """(P, F) -> (P, F)."""
        scales = self.scale.split([mul for mul, _, _ in self.blocks])
        shifts = iter(self.shift.split([mul for mul, _, scalar in self.blocks if scalar]))
        parts = x.split([mul * dim for mul, dim, _ in self.blocks], -1)
        normed = [
            functional.layer_norm(part, part.shape[-1:], scale, next(shifts))
            if scalar
            else (_unit(part.unflatten(-1, (mul, dim))) * scale[:, None]).flatten(1)
            for part, scale, (mul, dim, scalar) in zip(parts, scales, self.blocks, strict=True)
        ]  # (P, mul dim) each
        return torch.cat(normed, -1)  # (P, F)


def _unit(x: Tensor) -> Tensor:
    """(P, mul, dim) over the root of the mean square of its numbers."""
    return x * (x.square().mean((1, 2), keepdim=True) + 1e-5).rsqrt()  # (P, mul, dim)


def e3nn(module: str) -> Any:
    """A module of e3nn, whose import takes seconds."""
    try:
        return importlib.import_module(f"e3nn.{module}")
    except ImportError as error:
        raise MultigenError(f"Steerable needs the package e3nn ({error}): pip install 'multigen[molecule]'") from None


def read_irreps(width: int, higher: str) -> Any:
    """What a node holds: so many scalars, and what stands in `higher` as e3nn writes it.

    Raises:
        MultigenError: it cannot be read, or has no vectors.
    """
    example = "32x1o + 16x2e"
    try:
        irreps = e3nn("o3").Irreps(f"{width}x0e + {higher}" if higher else f"{width}x0e")
    except (ValueError, AssertionError):
        raise MultigenError(f"Steerable: {higher!r} are no irreps; an example is {example!r}") from None
    if "1o" not in irreps or any(mul < 1 for mul, _ in irreps):
        raise MultigenError(f"Steerable: higher has vectors 1o, as in {example!r}; got {higher!r}")
    return irreps


def paths_of(irreps: Any, harmonics: Any) -> tuple[Any, list[tuple[int, int, int, str, bool]]]:
    """Every product of a feature and a harmonic that is of a kind which nodes hold, channel by channel: irreps and paths."""
    kinds = {ir for _, ir in irreps}
    found = [
        (i, j, mul, ir)
        for i, (mul, own) in enumerate(irreps)
        for j, (_, direction) in enumerate(harmonics)
        for ir in own * direction
        if ir in kinds
    ]
    kept, places, _ = e3nn("o3").Irreps([(mul, ir) for _, _, mul, ir in found]).sort()
    return kept, [(i, j, places[k], "uvu", True) for k, (i, j, _, _) in enumerate(found)]


def gate_of(irreps: Any) -> Any:
    """Scalars through SiLU (tanh where they change sign in a mirror), the rest times the sigmoid of further scalars."""
    o3 = e3nn("o3")
    scalars = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l > 0])
    acts = [functional.silu if ir.p == 1 else torch.tanh for _, ir in scalars]
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
    return e3nn("nn").Gate(scalars, acts, gates, [torch.sigmoid] * len(gates), gated)
