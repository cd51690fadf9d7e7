"""SiT against a second implementation of the same formulas: numpy, float64, one example, one head, one site at a time.

Peebles and Xie 2023 (section 3.2, figure 3) for the block; Ma et al. 2024 for time in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from modalities.image.denoiser import SiT
from multigen.nn import ModulatedBlock

Weights = dict[str, np.ndarray]


def weights_of(module: nn.Module) -> Weights:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def under(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def attention(w: Weights, x: np.ndarray, heads: int, last: str = "attn.out") -> np.ndarray:
    tokens, width = x.shape
    size, out = width // heads, np.zeros_like(x)
    q, k, v = np.split(linear(w, "attn.qkv", x), 3, -1)  # (T, D) each
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        for i in range(tokens):
            score = np.array([q[i, own] @ k[j, own] / math.sqrt(size) for j in range(tokens)])  # (T,)
            share = np.exp(score - score.max())
            out[i, own] = share @ v[:, own] / share.sum()
    return linear(w, last, out)


def block(w: Weights, x: np.ndarray, c: np.ndarray, heads: int) -> np.ndarray:
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(w, "modulation.1", silu(c)), 6)  # (D,) each
    x = x + gate1 * attention(w, norm(x) * (1 + scale1) + shift1, heads)
    hidden = gelu(linear(w, "mlp.0", norm(x) * (1 + scale2) + shift2))
    return x + gate2 * linear(w, "mlp.2", hidden)


def wave(position: float, width: int) -> list[float]:
    """Sines then cosines at width / 2 frequencies 10,000^(-2 i / width)."""
    angles = [position * 10_000 ** (-2 * i / width) for i in range(width // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def sit(w: Weights, image: np.ndarray, t: float, label: int, patch: int, heads: int, depth: int) -> np.ndarray:
    """image (C, H, W) -> (C, H, W)."""
    channels, height, width = image.shape
    angles = [t * 10_000 ** (-i / 128) for i in range(128)]
    c = np.array([math.cos(a) for a in angles] + [math.sin(a) for a in angles])  # (256,)
    c = linear(w, "time.mlp.2", silu(linear(w, "time.mlp.0", c))) + w["labels.weight"][label]  # (D,)
    corners = [(y, x) for y in range(0, height, patch) for x in range(0, width, patch)]
    tokens = []
    for y, x in corners:
        embedded = linear(w, "embed", image[:, y : y + patch, x : x + patch].reshape(-1))  # (D,)
        half = len(embedded) // 2
        tokens.append(embedded + np.array(wave(x // patch, half) + wave(y // patch, half)))
    h = np.stack(tokens)  # (T, D)
    for i in range(depth):
        h = block(under(w, f"blocks.{i}."), h, c, heads)
    shift, scale = np.split(linear(w, "modulation.1", silu(c)), 2)
    patches = linear(w, "head", norm(h) * (1 + scale) + shift)  # (T, C P P)
    out = np.zeros_like(image)
    for (y, x), values in zip(corners, patches, strict=True):
        out[:, y : y + patch, x : x + patch] = values.reshape(channels, patch, patch)
    return out


@pytest.mark.parametrize("heads", [1, 4])
def test_block(heads):
    torch.manual_seed(0)
    ours = ModulatedBlock(16, heads).double()
    x, c = torch.randn(3, 5, 16).double(), torch.randn(3, 16).double()
    got = ours(x, c).detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(got[i], block(weights_of(ours), x[i].numpy(), c[i].numpy(), heads), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("patch, channels", [(2, 4), (4, 3)])
def test_network(patch, channels):
    torch.manual_seed(0)
    ours = SiT(size=8, patch=patch, channels=channels, width=16, depth=3, heads=2, classes=5)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.15)
    image, t, label = torch.randn(2, channels, 8, 8), torch.tensor([0.15, 0.9]), torch.tensor([3, 5])  # 5: no label
    got = ours({"image": image}, {"image": t}, {"label": label}, {}).pred["image"].detach().numpy()
    for i in range(2):
        reference = sit(weights_of(ours), image[i].double().numpy(), t[i].item(), int(label[i]), patch, 2, 3)
        np.testing.assert_allclose(got[i], reference, rtol=1e-4, atol=1e-5)
