"""The transformer block of diffusion transformers, and the embeddings around it (Peebles and Xie 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multigen.state import MultigenError

_WRITTEN_OUT = 256
"""Tokens up to which scores are written out, see `_written_out`."""


class TimeEmbedding(nn.Module):
    """t -> a vector: sinusoids of ``scale * t`` (cosines first), then two linears with SiLU.

    Args:
        width: output width D.
        frequencies: number of sinusoids.
        period: the longest period (10,000).
        scale: what t in [0, 1] is multiplied by. SiT uses 1; larger values resolve small differences of t.
    """

    def __init__(self, width: int, frequencies: int = 256, period: float = 10_000.0, scale: float = 1.0) -> None:
        super().__init__()
        half = frequencies // 2
        omega = scale * torch.exp(-math.log(period) * torch.arange(half) / half)  # (F/2,)
        self.omega: Tensor
        self.register_buffer("omega", omega, persistent=False)
        first, second = nn.Linear(2 * half, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * self.omega  # (B, F/2)
        wave = torch.cat([torch.cos(angle), torch.sin(angle)], -1)  # (B, F)
        return self.mlp(wave.to(self.mlp[0].weight.dtype))  # type: ignore[arg-type]  # (B, D)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, T, D), shift and scale (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]  # (B, T, D)


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: number of heads; divides D.
        qk_norm: normalise queries and keys per head, which keeps half precision stable.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        norm = nn.RMSNorm if qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(width // heads), norm(width // heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, turn: Tensor | None = None) -> Tensor:
        """x (B, T, D), mask Bool (B, T) of real tokens or None, turn (2, T, D/2H) of `rotary` or None -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D/H) each
        q, k = self.q_norm(q), self.k_norm(k)  # (B, H, T, D/H) each
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)  # (B, H, T, D/H) each
        y = attend(q, k, v, mask)  # (B, H, T, D/H)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention: q, k, v (B, H, T, D/H), mask Bool (B, T) of real keys or None -> (B, H, T, D/H).

    Torch's fused kernel, but where its backward pass is slow: then the scores are written out. The fused one has neither
    second derivatives nor forward-mode ones; ask for them within ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """
    visible = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
    if not _written_out(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT  # (B, H, T, T)
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1).to(v.dtype) @ v


def _written_out(q: Tensor) -> bool:
    """Whether q (B, H, T, D/H) asks for a backward pass on the CPU in half precision.

    In bfloat16 the fused one takes 3 to 7 times as long as scores that are written out at 16 and 64 tokens, as long at 256. In
    float32 it takes 0.3 to 1.1 of them (one thread of an Intel Xeon with AVX-512), and without gradients 0.2 to 1.
    """
    slow = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    return slow and torch.is_grad_enabled() and q.shape[-2] <= _WRITTEN_OUT


def rotary(width: int, position: Tensor) -> Tensor:
    """What `rotate` turns vectors of an even width at positions (T,) by: cosines and sines, (2, T, width / 2), float32.

    The angles are those of `sincos_1d`.
    """
    angle = _angles(width, position).float()  # (T, W/2)
    return torch.stack([angle.cos(), angle.sin()])  # (2, T, W/2)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs (i, i + W/2) of x (..., T, W) by turn (2, T, W/2): products depend on distances alone (Su et al. 2021).

    Raises:
        MultigenError: the widths do not fit each other, or x has an odd one.
    """
    if x.shape[-1] != 2 * turn.shape[-1]:
        raise MultigenError(f"rotate: {turn.shape[-1]} angles turn {2 * turn.shape[-1]} features, got {x.shape[-1]}")
    cos, sin = turn.to(x.dtype)  # (T, W/2) each
    a, b = x.chunk(2, -1)  # (..., T, W/2) each
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)  # (..., T, W)


class ModulatedBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by a condition vector; the identity at initialisation (adaLN-Zero).

    Args:
        width: D.
        heads: of the attention; divides D.
        mlp_ratio: hidden width of the MLP over D.
        qk_norm: normalise queries and keys.
        recompute: keep no activations for the backward pass but compute them once more (activation checkpointing, Chen et al.
            2016): the same gradients for less memory and a third more work.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, qk_norm: bool = False, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, mask: Tensor | None = None, turn: Tensor | None = None) -> Tensor:
        """x (B, T, D), c (B, D), mask Bool (B, T) or None, turn (2, T, D/2H) of `rotary` or None -> (B, T, D)."""
        if self.recompute and torch.is_grad_enabled():  # nothing here draws random numbers that would have to be kept
            return checkpoint(self._changed, x, c, mask, turn, use_reentrant=False, preserve_rng_state=False)
        return self._changed(x, c, mask, turn)

    def _changed(self, x: Tensor, c: Tensor, mask: Tensor | None, turn: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)  # (B, D) each
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1), mask, turn)  # (B, T, D)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # (B, T, D)

    def init_zero(self) -> None:
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)


def init_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every linear below `module` (DiT's initialisation)."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def sincos_1d(width: int, position: Tensor) -> Tensor:
    """Sines, then cosines, of position (T,) at width / 2 frequencies from 1 down towards 1/10,000: (T, width), float32."""
    angle = _angles(width, position)  # (T, D/2)
    return torch.cat([angle.sin(), angle.cos()], -1).float()  # (T, D)


def _angles(width: int, position: Tensor) -> Tensor:
    omega = 10_000.0 ** (-torch.arange(width // 2, dtype=torch.float64, device=position.device) / (width / 2))  # (D/2,)
    return position.double().reshape(-1, 1) * omega  # (T, D/2), float64


def sincos_2d(width: int, height: int, columns: int) -> Tensor:
    """A position table for a grid in row-major order: (height * columns, width).

    As in DiT, the first half of the features encodes the column and the second half the row.
    """
    row, column = torch.meshgrid(torch.arange(height), torch.arange(columns), indexing="ij")  # (height, columns) each
    return torch.cat([sincos_1d(width // 2, column), sincos_1d(width // 2, row)], -1)  # (T, D)
