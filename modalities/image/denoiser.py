"""SiT: the diffusion transformer of Peebles and Xie 2023, trained with flow matching by Ma et al. 2024 (arXiv 2401.08740)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modalities.image import plain
from multigen.denoiser import Output, check_taps
from multigen.modality import Alternative
from multigen.nn import Companions, ModulatedBlock, TimeEmbedding, modulate, sincos_2d
from multigen.nn.blocks import init_xavier
from multigen.state import Features, MultigenError, State, at_least

SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""The published sizes (DiT, table 1)."""


class SiT(nn.Module):
    """Patches to tokens, modulated transformer blocks, tokens to patches.

    Args:
        size: height and width of the image (or latent) in pixels.
        patch: side of a patch in pixels; divides `size`.
        channels: number of channels C.
        width: token width D.
        depth: number of blocks.
        heads: attention heads; divides `width`.
        classes: number of class labels; 0 builds an unconditional network.
        mlp_ratio: hidden width of the MLPs over `width`.
        qk_norm: normalise queries and keys.
        time_scale: what t is multiplied by before its sinusoids (1 in SiT).
        bottleneck: when given, patches are embedded through this many dimensions first (Li and He 2025: images lie on a
            low-dimensional manifold, so a narrow entrance costs nothing and helps large pixel patches).
        registers: learned tokens put before the patches and dropped at the end.
        self_conditioned: read the previous prediction too, as further channels (Chen et al. 2022); zeros where there is none.
        joint: further components (B, T, d) that lie on the tokens and are denoised with the image: name -> d.
        variance: the head has a second set of channels, as the published DiT and SiT have for a learned variance. No
            prediction here, and no loss: they are kept so that such a checkpoint goes in and out whole.
        recompute: compute activations once more in the backward pass instead of keeping them, see `ModulatedBlock`.
        component: name of the component that is denoised.
        label: name of the condition that holds the class.

    Taps: ``block1`` ... ``block{depth}``, the patch tokens after that many blocks, (B, T, D) in row-major order.

    The label table has one row more than there are classes; the last stands for "no label" and is what `null` returns.
    """

    def __init__(
        self,
        size: int,
        patch: int = 2,
        channels: int = 3,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int = 0,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        time_scale: float = 1.0,
        bottleneck: int | None = None,
        registers: int = 0,
        self_conditioned: bool = False,
        joint: Mapping[str, int] | None = None,
        variance: bool = False,
        recompute: bool = False,
        component: str = "image",
        label: str = "label",
    ) -> None:
        super().__init__()
        at_least(1, size=size, patch=patch, channels=channels, width=width, depth=depth, heads=heads)
        at_least(0, classes=classes, registers=registers)
        if size % patch:
            raise MultigenError(f"SiT: patch {patch} does not divide the image size {size}")
        if width % heads or width % 4:
            raise MultigenError(f"SiT: width {width} must be a multiple of 4 and of the {heads} heads")
        self.size, self.patch, self.channels = size, patch, channels
        self.grid = size // patch
        self.component, self.label, self.classes = component, label, classes
        self.self_conditioned = self_conditioned
        self.embed = _patch_embedding(channels * patch**2 * (1 + self_conditioned), width, bottleneck)
        self.register_buffer("position", sincos_2d(width, self.grid, self.grid), persistent=False)  # (T, D)
        self.registers = nn.Parameter(0.02 * torch.randn(registers, width)) if registers else None  # (R, D)
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads, mlp_ratio, qk_norm, recompute) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, channels * patch**2 * (1 + variance))
        init_xavier(self)
        self.time = TimeEmbedding(width, scale=time_scale)
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        self._init_zero()
        self.companions = Companions(joint or {}, width)

    @classmethod
    def named(cls, name: str, **settings: Any) -> SiT:
        """A published size, e.g. ``"XL/2"``: SiT-XL with patches of 2 x 2."""
        letter, _, patch = name.partition("/")
        if letter not in SIZES or not patch.isdigit():
            raise MultigenError(f"SiT size {name!r}; choices are {', '.join(SIZES)}, each with a patch side as in 'B/2'")
        return cls(**{"patch": int(patch), **SIZES[letter], **settings})

    def _init_zero(self) -> None:
        """adaLN-Zero: every block starts as the identity and the output as zero."""
        for block in self.blocks:
            block.init_zero()  # type: ignore[operator]
        for layer in (self.modulation[1], self.head):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.02)

    @staticmethod
    def alternatives(config: dict[str, Any]) -> Mapping[str, Alternative]:
        """The plainest network of the same size."""
        return plain.alternatives(config)

    @property
    def tap_names(self) -> list[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def null(self, cond: State) -> State:
        return {k: torch.full_like(v, self.classes) if k == self.label else v for k, v in cond.items()}

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
        image = noisy[self.component]  # (B, C, H, W)
        self._check(image)
        x = self.embed(self._patches(image, prev)) + self.position + self.companions.read(noisy, t, mask)  # (B, T, D)
        c = self._condition(t[self.component], cond)  # (B, D)
        count = 0 if self.registers is None else len(self.registers)
        if self.registers is not None:
            x = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)  # (B, R + T, D)
        seen: dict[str, Features] = {}
        for name, block in zip(self.tap_names, self.blocks, strict=True):
            x = block(x, c)  # (B, R + T, D)
            if name in taps:
                seen[name] = _tokens(x[:, count:])
        shift, scale = self.modulation(c).chunk(2, -1)  # (B, D) each
        last = modulate(self.norm(x[:, count:]), shift, scale)  # (B, T, D)
        patches = self.head(last)[..., : self.channels * self.patch**2]  # (B, T, C P P); behind them, the variance
        return Output({self.component: self.unpatchify(patches), **self.companions.write(last)}, seen)

    def _patches(self, image: Tensor, prev: State | None) -> Tensor:
        """What the tokens are made of: (B, T, C P P), or twice as wide with the previous prediction."""
        patches = self.patchify(image)  # (B, T, C P P)
        if not self.self_conditioned:
            return patches
        before = torch.zeros_like(patches) if prev is None else self.patchify(prev[self.component])  # (B, T, C P P)
        return torch.cat([patches, before.to(patches)], -1)  # (B, T, 2 C P P)

    def patchify(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, T, C P P)."""
        b, c, p, g = len(image), self.channels, self.patch, self.grid
        return image.reshape(b, c, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c * p * p)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, T, C P P) -> (B, C, H, W)."""
        b, c, p, g = len(patches), self.channels, self.patch, self.grid
        return patches.reshape(b, g, g, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, c, g * p, g * p)

    def _condition(self, t: Tensor, cond: State) -> Tensor:
        c = self.time(t)  # (B, D)
        if self.labels is None:
            return c
        if self.label not in cond:
            raise MultigenError(f"SiT needs condition {self.label!r}; the batch has {sorted(cond)}")
        return c + self.labels(cond[self.label])  # (B, D)

    def _check(self, image: Tensor) -> None:
        expected = (self.channels, self.size, self.size)
        if tuple(image.shape[1:]) != expected:
            raise MultigenError(f"SiT was built for {self.component} of shape {expected}, got {tuple(image.shape[1:])}")


def _patch_embedding(inputs: int, width: int, bottleneck: int | None) -> nn.Module:
    if bottleneck is None:
        return nn.Linear(inputs, width)
    return nn.Sequential(nn.Linear(inputs, bottleneck, bias=False), nn.Linear(bottleneck, width))


def _tokens(x: Tensor) -> Features:
    return Features(x, x.new_ones(x.shape[:2], dtype=torch.bool))  # (B, T, D), (B, T)
