"""Projections (x, mask) -> x. The core learns geometry through these functions alone."""

from __future__ import annotations

import torch
from torch import Tensor

from multigen.state import expand


def zero_com(x: Tensor, mask: Tensor) -> Tensor:
    """Move the centre of mass of the masked sites to the origin; sites outside the mask are left alone.

    Args:
        x: (B, N, D).
        mask: Bool (B, N).
    """
    m = expand(mask, x)  # (B, N, 1)
    centre = torch.where(m, x, 0).sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)  # (B, 1, D)
    return torch.where(m, x - centre, x)  # (B, N, D)


def symmetric(x: Tensor, mask: Tensor) -> Tensor:
    """Copy the upper triangle over the lower one.

    Works for class indices and for uniform numbers alike, so that both members of a pair share one random decision.

    Args:
        x: (B, N, N, *features).
        mask: unused; part of the signature.
    """
    n = x.shape[1]
    upper = torch.ones(n, n, dtype=torch.bool, device=x.device).triu()  # (N, N)
    return torch.where(expand(upper[None], x), x, x.transpose(1, 2))  # (B, N, N, *features)
