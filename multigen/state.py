"""The data structure of the library: states, features, batches.

A *state* is a dict of named tensors, one per component of the thing that is generated. A mask covers a prefix of its
component's dimensions, so that images (one site), sequences (L sites) and graphs (N or N x N sites) are treated alike.

Shape letters used everywhere: B batch, N atoms or sites, L residues, T tokens, K neighbours or classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Component name -> (B, *sites, *features)."""

T = TypeVar("T")


class MultigenError(Exception):
    """A mistake in what the user gave. The message is one line; the command line prints it and exits with code 2."""


def at_least(least: int, **values: int) -> None:
    """Refuse the first of some named numbers that is smaller."""
    for name, value in values.items():
        if value < least:
            raise MultigenError(f"{name} is at least {least}, got {value}")


class Features(NamedTuple):
    """Hidden features of a denoiser, or a frozen encoder's view of the clean data."""

    value: Tensor
    """(B, *sites, D), or (B, D) if pooled."""
    mask: Tensor
    """Bool (B, *sites), or (B,) if pooled. True = real."""


@dataclass(frozen=True)
class Batch:
    """What one training step reads. Every field maps names to tensors whose first dimension is B."""

    clean: State
    """What is generated, at t = 1: (B, *sites, *features) each."""
    mask: State
    """Bool (B, *sites) each, True = real. Read by the denoiser."""
    free: State
    """Bool (B, *sites) each, True = to be made. Read by the processes. ``free <= mask``."""
    key: Tensor
    """Long (B,): the identity of each example's random numbers, see `multigen.random.Noise`."""
    cond: State = field(default_factory=dict)
    """What is given: labels, backbones, representations."""
    target: dict[str, Features] = field(default_factory=dict)
    """What hidden features should predict."""
    raw: State = field(default_factory=dict)
    """What only frozen encoders read (full-size pictures, caption tokens); `Modality.encode` empties it."""
    prior: State = field(default_factory=dict)
    """Draws of the prior that a component is mixed with, where a modality has paired them with the data (optimal transport);
    by default each process draws its own. In training alone."""

    @classmethod
    def dense(cls, clean: State, key: Tensor, cond: State | None = None, target: State | None = None) -> Batch:
        """A batch without padding whose components are one site each (images, points).

        Args:
            clean: component -> (B, *features).
            key: Long (B,), see `multigen.random.keys`.
            cond: what is given.
            target: representation -> (B, *sites, D), every site real.
        """
        ones = torch.ones_like(key, dtype=torch.bool)  # (B,)
        features = {k: Features(z, z.new_ones(z.shape[:-1], dtype=torch.bool)) for k, z in (target or {}).items()}
        return cls(clean, dict.fromkeys(clean, ones), dict.fromkeys(clean, ones), key, cond or {}, features)

    def __len__(self) -> int:
        return self.key.shape[0]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `fn` applied to every tensor."""
        return Batch(**{f.name: _map(getattr(self, f.name), fn) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.map(Tensor.pin_memory)

    def replace(self, **changes: Any) -> Batch:
        return replace(self, **changes)


def _map(x: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Tensor):
        return fn(x)
    if isinstance(x, Features):
        return Features(fn(x.value), fn(x.mask))
    return {k: _map(v, fn) for k, v in x.items()}


def expand(x: Tensor, like: Tensor) -> Tensor:
    """View `x` (B, ...) with trailing dimensions of size 1 appended until it broadcasts against `like`.

    >>> expand(torch.ones(2), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def where(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`torch.where` for a mask that covers a prefix of the dimensions of `x` and `y`."""
    return torch.where(expand(mask, x), x, y)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean per example over the real sites and all features: the one place that divides.

    Args:
        x: (B, *sites, *features).
        mask: Bool (B, *sites), a prefix of x's dimensions.

    Returns:
        (B,); 0 where an example has no real site.
    """
    per_site = x.flatten(mask.ndim).mean(-1) if x.ndim > mask.ndim else x  # (B, *sites)
    # `where`, not a product: what stands in padding may be inf or nan and must not leak
    total = torch.where(mask, per_site, 0).flatten(1).sum(-1) if mask.ndim > 1 else torch.where(mask, per_site, 0)  # (B,)
    count = mask.flatten(1).sum(-1) if mask.ndim > 1 else mask.long()  # (B,)
    return total / count.clamp(min=1)


def pool(features: Features) -> Features:
    """Mean over the real sites.

    Args:
        features: value (B, *sites, D), mask (B, *sites). Pooled features pass through.

    Returns:
        value (B, D) in the features' own type, mask (B,).
    """
    value, mask = features
    if mask.ndim == 1:
        return features
    flat, m = value.flatten(1, -2), mask.flatten(1)  # (B, S, D), (B, S)
    exact = torch.promote_types(value.dtype, torch.float32)  # a sum in half precision overflows
    total = torch.where(m[..., None], flat, 0).sum(1, dtype=exact)  # (B, D)
    return Features((total / m.sum(1, keepdim=True).clamp(min=1)).to(value.dtype), m.any(1))  # (B, D), (B,)
