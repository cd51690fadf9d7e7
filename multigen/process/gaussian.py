"""Gaussian corruption of a continuous component: noisy = alpha(t) clean + sigma(t) noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from multigen.interpolation import Coefficients, Interpolation, Linear
from multigen.process.base import Corrupted, Couple, Project
from multigen.process.weighting import Weighting
from multigen.random import Noise
from multigen.state import MultigenError, expand, masked_mean, where

Quantity = Literal["velocity", "clean", "noise"]

TINY = 1e-5
"""What divides is kept above this when a prediction is split; a sampler never asks closer to the ends than that."""


class Split(NamedTuple):
    """The pair that every prediction comes down to; velocity and score follow from it."""

    clean: Tensor
    """(B, *sites, *features)."""
    noise: Tensor
    """(B, *sites, *features)."""


@dataclass(frozen=True)
class Gaussian:
    """The forward process of one continuous component.

    Args:
        predict: what the network outputs: "velocity" d(noisy)/dt, the "clean" data, or the "noise".
        path: alpha and sigma as functions of t.
        loss_on: the quantity whose squared error is the loss; by default what is predicted. All three errors are multiples of
            one another, so this is a weight over time: ``Gaussian("clean", loss_on="velocity")`` trains a network that
            outputs clean data with the flow-matching loss (Li and He 2025).
        weight: a further weight over time, which implies ``loss_on="noise"`` (see `multigen.process.weighting`).
        floor: the least value of alpha or sigma that ``loss_on`` may divide by.
        project: the subspace the component lives in.
        couple: pairs noise with data before mixing.
        jitter: standard deviation of Gaussian noise added to the noisy component at every t (0.2 in SemlaFlow).
    """

    predict: Quantity = "velocity"
    path: Interpolation = Linear()
    loss_on: Quantity | None = None
    weight: Weighting | None = None
    floor: float = 0.05
    project: Project | None = None
    couple: Couple | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("predict", self.predict), ("loss_on", self.loss_on)):
            if value not in ("velocity", "clean", "noise", None) or value is None and name == "predict":
                raise MultigenError(f"Gaussian: {name} is {value!r}; choices are velocity, clean, noise")
        if self.weight is not None and self.loss_on not in (None, "noise"):
            raise MultigenError(f"Gaussian: a weight applies to the noise loss; loss_on is {self.loss_on!r}")

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor:
        return where(free, self._project(noise.normal(like.shape[1:], like.dtype), free), like)

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise) -> Corrupted:
        eps = self._project(noise.normal(clean.shape[1:], clean.dtype), free)  # (B, *sites, *features)
        if self.couple is not None:
            eps = self.couple(eps, clean, free)  # (B, *sites, *features)
        c = self._coefficients(t, clean)
        noisy = c.alpha * clean + c.sigma * eps  # (B, *sites, *features)
        if self.jitter > 0:
            extra = noise.fold("jitter").normal(clean.shape[1:], clean.dtype)  # (B, *sites, *features)
            noisy = noisy + self.jitter * self._project(extra, free)  # (B, *sites, *features)
        return Corrupted(where(free, noisy, clean), clean, eps, free)

    def target(self, corrupted: Corrupted, t: Tensor) -> Tensor:
        """What the network should output: (B, *sites, *features)."""
        if self.predict == "clean":
            return corrupted.clean
        if self.predict == "noise":
            return corrupted.noise
        c = self._coefficients(t, corrupted.clean)
        return c.d_alpha * corrupted.clean + c.d_sigma * corrupted.noise

    def loss(self, pred: Tensor, corrupted: Corrupted, t: Tensor) -> Tensor:
        target = self.target(corrupted, t)  # (B, *sites, *features)
        if pred.shape != target.shape:
            raise MultigenError(f"prediction of shape {tuple(pred.shape)} for a component of shape {tuple(target.shape)}")
        error = masked_mean((pred.float() - target.float()) ** 2, corrupted.free)  # (B,)
        return error * self.loss_weight(t)

    def loss_weight(self, t: Tensor) -> Tensor:
        """(B,): what the squared error of the network's own output is multiplied by."""
        c = self.path(t)
        on = "noise" if self.weight is not None else self.loss_on or self.predict
        scale = _to_clean(self.predict, c, self.floor) * _from_clean(on, c, self.floor) if on != self.predict else None
        total = t.new_ones(t.shape) if scale is None else scale**2  # (B,)
        return total if self.weight is None else total * self.weight(c)

    def split(self, pred: Tensor, noisy: Tensor, t: Tensor) -> Split:
        """The clean data and the noise that a prediction implies.

        From noisy = alpha x + sigma e and v = alpha' x + sigma' e.
        """
        c = self._coefficients(t, noisy)
        pred = pred.to(noisy.dtype)
        if self.predict == "clean":
            return Split(pred, (noisy - c.alpha * pred) / c.sigma.clamp(min=TINY))
        if self.predict == "noise":
            return Split((noisy - c.sigma * pred) / c.alpha.clamp(min=TINY), pred)
        det = c.alpha * c.d_sigma - c.d_alpha * c.sigma  # (B, 1, ...), nowhere zero on a path that moves
        return Split((c.d_sigma * noisy - c.sigma * pred) / det, (c.alpha * pred - c.d_alpha * noisy) / det)

    def velocity(self, pred: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The probability-flow velocity alpha' x + sigma' e: (B, *sites, *features)."""
        if self.predict == "velocity":
            return pred.to(noisy.dtype)
        c = self._coefficients(t, noisy)
        clean, eps = self.split(pred, noisy, t)
        return c.d_alpha * clean + c.d_sigma * eps

    def score(self, pred: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """grad log p_t = -e / sigma (Tweedie): (B, *sites, *features)."""
        c = self._coefficients(t, noisy)
        return -self.split(pred, noisy, t).noise / c.sigma.clamp(min=TINY)

    def _coefficients(self, t: Tensor, like: Tensor) -> Coefficients:
        """Each (B, 1, ...), in the dtype of `like`."""
        return Coefficients(*(expand(c, like) for c in self.path(t.to(like.dtype))))

    def _project(self, x: Tensor, mask: Tensor) -> Tensor:
        return x if self.project is None else self.project(x, mask)


def _to_clean(quantity: Quantity, c: Coefficients, floor: float) -> Tensor:
    """d clean / d quantity at fixed noisy: (B,)."""
    if quantity == "velocity":
        return c.sigma / (c.d_alpha * c.sigma - c.alpha * c.d_sigma)
    return c.sigma / c.alpha.clamp(min=floor) if quantity == "noise" else c.alpha.new_ones(c.alpha.shape)


def _from_clean(quantity: Quantity, c: Coefficients, floor: float) -> Tensor:
    """d quantity / d clean at fixed noisy: (B,)."""
    sigma = c.sigma.clamp(min=floor)
    if quantity == "velocity":
        return (c.d_alpha * c.sigma - c.alpha * c.d_sigma) / sigma
    return c.alpha / sigma if quantity == "noise" else c.alpha.new_ones(c.alpha.shape)
