"""The diffusion transformer written down as plainly as torch allows: what `SiT`'s speed is measured against, and no more."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multigen.denoiser import Output, check_taps
from multigen.modality import Alternative
from multigen.nn import sincos_2d
from multigen.state import Features, State

_SETTINGS = ("size", "patch", "channels", "width", "depth", "heads", "classes", "mlp_ratio")
_BEYOND = ("qk_norm", "bottleneck", "registers", "self_conditioned", "joint", "variance", "recompute")
"""Settings of `SiT` that this network has no part for."""


class PlainBlock(nn.Module):
    """adaLN-Zero block (Peebles and Xie 2023, figure 3), with torch's own attention."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads, hidden = heads, int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, T, D), c (B, D) -> (B, T, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, -1)  # (B, 1, D) each
        h = self.norm1(x) * (1 + scale1) + shift1  # (B, T, D)
        x = x + gate1 * self.attention(h)  # (B, T, D)
        h = self.norm2(x) * (1 + scale2) + shift2  # (B, T, D)
        return x + gate2 * self.mlp(h)  # (B, T, D)

    def attention(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (y.reshape(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))  # (B, H, T, D/H) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class PlainSiT(nn.Module):
    """Velocity of a latent: patches by convolution, sinusoids of t, a table of labels, blocks, a modulated head.

    Args:
        size, patch, channels, width, depth, heads, classes, mlp_ratio: as in `SiT`.

    Taps: ``block1`` ..., (B, T, D).
    """

    def __init__(
        self,
        size: int,
        patch: int = 2,
        channels: int = 4,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        classes: int = 0,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.patch, self.classes = patch, classes
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.register_buffer("position", sincos_2d(width, size // patch, size // patch), persistent=False)  # (T, D)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(PlainBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, channels * patch**2)

    @property
    def tap_names(self) -> list[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def null(self, cond: State) -> State:
        return {k: torch.full_like(v, self.classes) if k == "label" else v for k, v in cond.items()}

    def forward(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        check_taps(taps, self.tap_names)
        x = self.embed(noisy["image"])  # (B, D, h, w)
        rows, columns = x.shape[2:]
        x = x.flatten(2).mT + self.position  # (B, T, D)
        c = self.time(_waves(t["image"]).to(x.dtype))  # (B, D)
        c = c if self.labels is None else c + self.labels(cond["label"])  # (B, D)
        seen = {}
        for name, block in zip(self.tap_names, self.blocks, strict=True):
            x = block(x, c)  # (B, T, D)
            if name in taps:
                seen[name] = Features(x, x.new_ones(x.shape[:2], dtype=torch.bool))
        shift, scale = self.modulation(c)[:, None].chunk(2, -1)  # (B, 1, D) each
        patches = self.head(self.norm(x) * (1 + scale) + shift)  # (B, T, C P P)
        maps = patches.mT.unflatten(-1, (rows, columns))  # (B, C P P, h, w)
        return Output({"image": F.pixel_shuffle(maps, self.patch)}, seen)


def _waves(t: Tensor) -> Tensor:
    """(B,) -> (B, 256): cosines, then sines."""
    omega = torch.exp(-math.log(10_000) * torch.arange(128, device=t.device) / 128)  # (128,)
    angle = t.float()[:, None] * omega  # (B, 128)
    return torch.cat([angle.cos(), angle.sin()], -1)


def alternatives(config: dict[str, Any]) -> dict[str, Alternative]:
    """An experiment with this network in the place of a `SiT` of the same size, eager and compiled."""
    found = config.get("denoiser") or {}
    if found.get("_target_") != "modalities.image.denoiser.SiT" or any(found.get(key) for key in _BEYOND):
        return {}
    plain = {key: found[key] for key in _SETTINGS if key in found}
    eager = {**config, "denoiser": {"_target_": f"{__name__}.PlainSiT", **plain}}
    compiled = {**eager, "trainer": {**config["trainer"], "compile": True}}
    return {
        "plain_sit": Alternative("the network / a plain SiT", eager),
        "plain_sit_compiled": Alternative("the same, both compiled", compiled, against="compiled"),
    }
