"""Vectors between all pairs of points, without a tensor of them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SOFT = 0.3
"""What lengths are softened by, where the mean length of a set's vectors is about 1. A vector over its length, and a set over
its mean length, jump where they pass through zero; on atoms in a line that happens in some set of every layer, and a few
layers of it turn rounding errors into anything."""


def exactly(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A region without reduced precision, on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def exact(x: Tensor) -> Tensor:
    """x in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squared_distance(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 = [x_i, |x_i|^2, 1] . [-2 x_j, 1, |x_j|^2]: (..., 3, N) -> (..., N, N). Rounding may make it negative."""
    square, one = x.square().sum(-2, keepdim=True), torch.ones_like(x[..., :1, :])  # (..., 1, N) each
    return torch.cat([x, square, one], -2).mT @ torch.cat([-2 * x, one, square], -2)  # (..., N, N)


class Directions(torch.autograd.Function):
    """`directions` and its gradient. Half as many passes over the pairs as autograd makes, and half as much memory.

    With r_ij = 1 / sqrt(|x_i - x_j|^2 + SOFT^2), w_ij = a_ij r_ij and the gradient g_i of u_i = sum_j w_ij (x_i - x_j):
    dL/dw_ij = g_i . (x_i - x_j), dL/da = r dL/dw and dL/d|x_i - x_j|^2 = -a r^3 dL/dw / 2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, attention: Tensor) -> Tensor:
        inverse = soft_inverse(squared_distance(x))  # (B, S, N, N)
        ctx.save_for_backward(x, attention, inverse)
        return differences(attention * inverse, x)  # (B, S, 3, N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, attention, inverse = ctx.saved_tensors
        with exactly(grad):
            own = (grad * x).sum(-2, keepdim=True)  # (B, S, 1, N)
            to_weight = torch.cat([grad, own], -2).mT @ torch.cat([-x, torch.ones_like(own)], -2)  # (B, S, N, N)
            to_attention = to_weight.mul_(inverse)  # (B, S, N, N)
            weight = attention * inverse  # (B, S, N, N)
            to_square = (to_attention * weight).mul_(inverse)  # (B, S, N, N), -2 dL/d|x_i - x_j|^2
            to_x = weight.sum(-1)[:, :, None] * grad - grad @ weight  # (B, S, 3, N)
            to_x -= differences(to_square + to_square.mT, x)  # (B, S, 3, N)
        return to_x, to_attention


def directions(x: Tensor, attention: Tensor) -> Tensor:
    """u_i = sum_j a_ij (x_i - x_j) / sqrt(|x_i - x_j|^2 + SOFT^2), without a tensor of the vectors of all pairs.

    Args:
        x: (B, S, 3, N).
        attention: (B, S, N, N), 0 where i = j.

    Returns:
        (B, S, 3, N).
    """
    return Directions.apply(x, attention)


def differences(weight: Tensor, x: Tensor) -> Tensor:
    """sum_j w_ij (x_i - x_j) = x_i sum_j w_ij - sum_j w_ij x_j: (B, S, N, N), (B, S, 3, N) -> (B, S, 3, N)."""
    sums = torch.cat([x, torch.ones_like(x[:, :, :1])], 2) @ weight.mT  # (B, S, 4, N)
    return x * sums[:, :, 3:] - sums[:, :, :3]  # (B, S, 3, N)


def soft_inverse(square: Tensor) -> Tensor:
    """1 / sqrt(d^2 + SOFT^2) in place of d^2, which rounding may have made negative."""
    return square.clamp_(min=0).add_(SOFT**2).rsqrt_()  # like square
