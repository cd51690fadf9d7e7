"""A moving average of a network's weights: what is sampled from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from multigen.state import MultigenError


class Ema:
    """Exponential moving average of one network.

    After the n-th update of the network (n = 1, 2, ...)::

        average <- d * average + (1 - d) * weights,    d = min(decay, n / (9 + n)), or always decay without a warm-up

    The lower decay in the beginning forgets the random initialisation, so that short runs have a usable average as well.
    It is a function of n alone: nothing but the average has to be saved. Without it, as SiT and REED average, the average
    begins as a copy of the weights at the start, of which decay^n is left after n updates.

    Args:
        source: the network in training, already on its device. Trainable parameters are averaged, buffers are copied at every
            update, frozen parameters once.
        decay: in [0, 1).
        warmup: begin with the lower decay.

    Attributes:
        module: the averaged network, in evaluation mode, without gradients.
    """

    def __init__(self, source: nn.Module, decay: float, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise MultigenError(f"an EMA decay lies in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.follow(source)

    def follow(self, source: nn.Module) -> None:
        """Look up the parameters of both networks, which sharding replaces by others."""
        ours, theirs = list(self.module.parameters()), list(source.parameters())
        trained = [i for i, p in enumerate(theirs) if p.requires_grad]
        self._average: list[Tensor] = [ours[i] for i in trained]
        self._weights: list[Tensor] = [theirs[i] for i in trained]
        pairs = zip(self.module.modules(), source.modules(), strict=True)
        self._buffers = [(a, b, name) for a, b in pairs for name, value in b._buffers.items() if value is not None]

    @property
    def name(self) -> str:
        """``ema_0.999``: its name in checkpoints."""
        return name_of(self.decay)

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Follow the network after its `count`-th update."""
        decay = min(self.decay, count / (9 + count)) if self.warmup else self.decay
        if self._average:
            torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        for ours, theirs, name in self._buffers:
            getattr(ours, name).copy_(getattr(theirs, name))


def name_of(decay: float) -> str:
    """The name under which a checkpoint keeps the average of this decay."""
    return f"ema_{decay:g}"
