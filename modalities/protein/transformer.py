"""A network of sequences without a structure: the core's transformer over residues, told the length and, alone, no time.

Queries and keys are turned by their place (rotary embedding), and a convolution comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from modalities.protein.alphabet import MASK
from multigen.denoiser import Output, check_taps
from multigen.nn import Companions
from multigen.nn.blocks import ModulatedBlock, TimeEmbedding, init_xavier, modulate, rotary, sincos_1d
from multigen.state import Features, MultigenError, State, at_least

_LONG = 1024.0
"""Lengths are embedded as a share of this."""


class SequenceTransformer(nn.Module):
    """Logits of every residue from those that are visible. Without `joint` it reads no time.

    Masked diffusion needs none (Sahoo et al. 2024).

    Args:
        width: D.
        depth: number of blocks.
        heads: attention heads; divides the width.
        mlp_ratio: of the feed-forward parts.
        qk_norm: normalise queries and keys.
        recompute: compute activations once more in the backward pass instead of keeping them, see `ModulatedBlock`.
        tokens: of the sequence, the mask among them; also the number of logits.
        joint: further components (B, L, d) of the residues that are denoised with the sequence: name -> d.
        window: residues that a convolution of what is embedded sees before the first block, odd; 0 has none. Most of what a
            short training can learn of sequences lies between near neighbours, which attention is slow to single out;
            convolutions alone do as well as attention in large trainings (Yang et al. 2022).
        component: name of the sequence.

    The only condition is the length, which the mask says. Taps: ``block1`` ..., (B, L, D) after that many blocks.
    """

    def __init__(
        self,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        recompute: bool = False,
        tokens: int = MASK + 1,
        joint: Mapping[str, int] | None = None,
        window: int = 17,
        component: str = "sequence",
    ) -> None:
        super().__init__()
        self.timeless = not joint  # the prediction of a sequence alone does not depend on t
        at_least(1, width=width, depth=depth, heads=heads, tokens=tokens)
        if width % (2 * heads):
            raise MultigenError(f"SequenceTransformer: width {width} must be an even multiple of the {heads} heads")
        if window < 0 or (window and window % 2 == 0):
            raise MultigenError(f"SequenceTransformer: window {window} must be odd, or 0 for none")
        self.width, self.heads, self.component = width, heads, component
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads, mlp_ratio, qk_norm, recompute) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, tokens)
        init_xavier(self)
        self.embed = nn.Embedding(tokens, width)
        self.local = nn.Conv1d(width, width, window, padding=window // 2) if window else None
        self.length = TimeEmbedding(width, scale=_LONG)
        for block in self.blocks:
            block.init_zero()  # type: ignore[operator]
        for layer in (self.modulation[1], self.head):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.companions = Companions(joint or {}, width)

    @property
    def tap_names(self) -> list[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def null(self, cond: State) -> State:
        return cond

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
        real = mask[self.component]  # (B, L)
        tokens = noisy[self.component]  # (B, L)
        place = torch.arange(tokens.shape[1], device=tokens.device)  # (L,)
        turn = rotary(self.width // self.heads, place)  # (2, L, D/2H)
        x = self.embed(tokens) * real[..., None]  # (B, L, D)
        if self.local is not None:
            x = x + self.local(x.mT).mT  # (B, L, D)
        x = x + sincos_1d(self.width, place).to(x.dtype)  # (B, L, D)
        x = x + self.companions.read(noisy, t, mask)  # (B, L, D)
        c = self.length(real.sum(1) / _LONG)  # (B, D)
        seen: dict[str, Features] = {}
        for name, block in zip(self.tap_names, self.blocks, strict=True):
            x = block(x, c, real, turn)  # (B, L, D)
            if name in taps:
                seen[name] = Features(x, real)
        shift, scale = self.modulation(c).chunk(2, -1)  # (B, D) each
        last = modulate(self.norm(x), shift, scale)  # (B, L, D)
        return Output({self.component: self.head(last), **self.companions.write(last)}, seen)
