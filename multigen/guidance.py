"""Guidance: two predictions combined into one, as a wrapper of the denoiser that a sampler puts on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multigen.denoiser import ASKED, Denoiser, Output, is_timeless, prepared
from multigen.files import nearest
from multigen.state import MultigenError, State, at_least, expand, masked_mean, where

_WEAK = "weak."
"""Before the names of the weak network's prepared conditions."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022), or autoguidance (Karras et al. 2024) when a weaker network is given.

    prediction = weak + scale * (strong - weak). Velocity, clean data and noise are affine in one another at a given noisy
    state, so combining whatever the network predicts is combining the drift. Logits are combined as log-probabilities.

    Args:
        scale: 1 is the plain network, in one evaluation a step.
        interval: (low, high) of t outside which the scale is 1 and costs no second evaluation (Kynkaanniemi et al. 2024);
            t = 1 is data.
        rescale: pull the standard deviation of each example's prediction back to the unguided one by this share (Lin et al.
            2024, eq. 15-16).
        weak: the network to move away from; by default the same one without conditions.
        channels: guide so many of the first channels, and leave the rest to the plain network, as the published programs of
            DiT and SiT do (3 of the 4 of a latent); None guides all. Channels are the dimension behind the sites of a
            continuous component. A number is for the only component that has them; where several do, as when a representation
            is denoised together with the data, give them by name: ``{image: 3}``. Components without a number, and logits,
            are guided whole.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    weak: Any = None
    channels: int | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise MultigenError(f"guidance interval needs 0 <= low <= high <= 1, got {low} and {high}")
        if not 0 <= self.rescale <= 1:
            raise MultigenError(f"guidance rescale is a share between 0 and 1, got {self.rescale}")
        if self.channels is not None:
            at_least(1, **(dict(self.channels) if isinstance(self.channels, Mapping) else {"channels": self.channels}))

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self.scale == 1 else Guided(denoiser, self)

    def guided_channels(self, known: Mapping[str, int]) -> dict[str, int]:
        """Component -> how many of its first channels are guided, for those that are not guided whole.

        Args:
            known: component -> its channels, for those that have any.

        Raises:
            MultigenError: it is not clear which component is meant, or it has no channels, or not so many.
        """
        if self.channels is None:
            return {}
        if isinstance(self.channels, int) and len(known) != 1:
            told = f"guidance of {self.channels} channels needs one component that has any; those that do are {list(known)}"
            raise MultigenError(f"{told}: name it, as in channels={{image: {self.channels}}}" if known else told)
        named = {next(iter(known)): self.channels} if isinstance(self.channels, int) else dict(self.channels)
        for name, count in named.items():
            if name not in known:
                raise MultigenError(f"guidance of {count} channels of {name!r}, which has none: {nearest(name, known)}")
            if count > known[name]:
                raise MultigenError(f"guidance of {count} channels: there are {known[name]} in {name!r}")
        return named


class Guided:
    """A denoiser under `Guidance`; follows `Denoiser`."""

    def __init__(self, denoiser: Denoiser, guidance: Guidance) -> None:
        self.denoiser, self.guidance = denoiser, guidance

    def null(self, cond: State) -> State:
        return self.denoiser.null(cond)

    @property
    def timeless(self) -> bool:
        """Guidance in an interval is a function of the time, whatever the networks are."""
        networks = (self.denoiser, self.guidance.weak or self.denoiser)
        return tuple(self.guidance.interval) == (0, 1) and all(map(is_timeless, networks))

    def prepare(self, cond: State, mask: State) -> State:
        """The conditions of both networks; the weak one's under names of their own."""
        weak = self._weak_cond(cond)
        weak = prepared(self.guidance.weak or self.denoiser, weak, mask)
        return {**prepared(self.denoiser, cond, mask), **{f"{_WEAK}{k}": x for k, x in weak.items()}}

    def _weak_cond(self, cond: State) -> State:
        """As prepared, or made now; what is asked is the same."""
        asked = {k: x for k, x in cond.items() if k.endswith(ASKED)}
        given = {k: x for k, x in cond.items() if k not in asked}
        if ready := {k.removeprefix(_WEAK): x for k, x in given.items() if k.startswith(_WEAK)}:
            return {**ready, **asked}
        return {**(given if self.guidance.weak is not None else self.denoiser.null(given)), **asked}

    def __call__(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        own = {k: x for k, x in cond.items() if not k.startswith(_WEAK)}
        strong = self.denoiser(noisy, t, own, mask, prev=prev, taps=taps)
        low, high = self.guidance.interval
        inside = {k: (t[k] >= low) & (t[k] <= high) for k in strong.pred}  # (B,) each
        # asking costs a wait for the device, so it is asked only where an interval can spare an evaluation
        if (low, high) != (0, 1) and not any(bool(x.any()) for x in inside.values()):
            return strong
        weak = self._weak(noisy, t, cond, mask, prev).pred
        counts = self.guidance.guided_channels(_channels(strong.pred, noisy, mask))
        pred = {k: self._combine(strong.pred[k], weak[k], noisy[k], mask[k], counts.get(k)) for k in strong.pred}
        return strong._replace(pred={k: where(inside[k], pred[k], strong.pred[k]) for k in pred})

    def _weak(self, noisy: State, t: State, cond: State, mask: State, prev: State | None) -> Output:
        network = self.denoiser if self.guidance.weak is None else self.guidance.weak
        return network(noisy, t, self._weak_cond(cond), mask, prev=prev)

    def _combine(self, strong: Tensor, weak: Tensor, noisy: Tensor, mask: Tensor, count: int | None) -> Tensor:
        """Of one component, of which `count` channels are guided; None guides it whole."""
        if not noisy.is_floating_point():
            strong, weak = strong.log_softmax(-1), weak.log_softmax(-1)  # (B, *sites, K)
            return self._away(strong, weak)
        if count is None:
            return self._rescaled(self._away(strong, weak), strong, mask)
        dim = mask.ndim
        first, rest = strong.narrow(dim, 0, count), strong.narrow(dim, count, strong.shape[dim] - count)  # (B, *sites, c) each
        guided = self._away(first, weak.narrow(dim, 0, count))  # (B, *sites, *features)
        return torch.cat([self._rescaled(guided, first, mask), rest], dim)

    def _away(self, strong: Tensor, weak: Tensor) -> Tensor:
        return weak + self.guidance.scale * (strong - weak)

    def _rescaled(self, guided: Tensor, strong: Tensor, mask: Tensor) -> Tensor:
        share = self.guidance.rescale
        if share == 0:
            return guided
        ratio = _deviation(strong, mask) / _deviation(guided, mask).clamp(min=1e-8)  # (B,)
        return guided * expand(share * ratio + 1 - share, guided)  # (B, *sites, *features)


def _channels(pred: State, noisy: State, mask: State) -> dict[str, int]:
    """Of the continuous components that have a dimension behind their sites."""
    return {k: x.shape[mask[k].ndim] for k, x in pred.items() if noisy[k].is_floating_point() and x.ndim > mask[k].ndim}


def _deviation(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of each example over its real sites and all features: (B,)."""
    centred = x - expand(masked_mean(x, mask), x)  # (B, *sites, *features)
    return masked_mean(centred**2, mask).sqrt()  # (B,)
