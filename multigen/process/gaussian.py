"""Gaussian corruption of a continuous component: noisy = alpha(t) clean + sigma(t) noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from multigen.interpolation import Coefficients, Interpolation, Linear
from multigen.process.base import Corrupted, Couple, Project, projected
from multigen.process.weighting import Weighting
from multigen.random import Noise
from multigen.state import MultigenError, expand, masked_mean, where

Quantity = Literal["velocity", "clean", "noise"]

TINY = 1e-5
"""The least sigma that a clean prediction is divided by; a sampler never asks closer to t = 1 than that."""

FAINT = 1e-2
"""The least alpha that a noise prediction is divided by. Samplers do begin at t = 0, where the noise tells nothing of the data
and the smallest error of the network, divided by alpha, would throw the sample off for good."""


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
        floor: the least value that ``loss_on`` may divide by: sigma for clean predictions, alpha for noise predictions.
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
            if value not in ("velocity", "clean", "noise", None) or (value is None and name == "predict"):
                raise MultigenError(f"Gaussian: {name} is {value!r}; choices are velocity, clean, noise")
        if self.weight is not None and self.loss_on not in (None, "noise"):
            raise MultigenError(f"Gaussian: a weight applies to the noise loss; loss_on is {self.loss_on!r}")
        if _scales(self.path(torch.tensor(0.5, device="cpu")))["velocity"] == 0:
            raise MultigenError(f"Gaussian: the path {self.path} carries no signal; it suits categorical components")

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor:
        return where(free, projected(self, noise.normal(like.shape[1:], like.dtype), free), like)

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None = None) -> Corrupted:
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))  # t and small noise would be lost in half precision
        own = noise.normal(clean.shape[1:], clean.dtype) if prior is None else prior.to(clean.dtype)  # (B, *sites, *features)
        eps = projected(self, own, free)  # (B, *sites, *features)
        if self.couple is not None:
            eps = self.couple(eps, clean, free)  # (B, *sites, *features)
        c = self._coefficients(t, clean)
        noisy = c.alpha * clean + c.sigma * eps  # (B, *sites, *features)
        if self.jitter > 0:
            extra = noise.fold("jitter").normal(clean.shape[1:], clean.dtype)  # (B, *sites, *features)
            noisy = noisy + self.jitter * projected(self, extra, free)  # (B, *sites, *features)
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
        # sites that are not scored are cut out before the square: whatever stands there, not even its gradient leaks
        error = torch.where(expand(corrupted.free, target), pred.float() - target.float(), 0)  # (B, *sites, *features)
        return masked_mean(error**2, corrupted.free) * self.loss_weight(t)  # (B,)

    def loss_weight(self, t: Tensor) -> Tensor:
        """(B,): what the squared error of the network's own output is multiplied by."""
        c = self.path(t)
        on = "noise" if self.weight is not None else self.loss_on or self.predict
        scales = _scales(c)
        scale = torch.ones_like(t) if on == self.predict else scales[on] / scales[self.predict].clamp(min=self.floor)  # (B,)
        return scale**2 if self.weight is None else scale**2 * self.weight(c)

    def split(self, pred: Tensor, noisy: Tensor, t: Tensor) -> Split:
        """The clean data and the noise that a prediction implies.

        From noisy = alpha x + sigma e and v = alpha' x + sigma' e.
        """
        c = self._coefficients(t, noisy)
        pred = pred.to(noisy.dtype)
        if self.predict == "clean":
            return Split(pred, (noisy - c.alpha * pred) / c.sigma.clamp(min=TINY))
        if self.predict == "noise":
            return Split((noisy - c.sigma * pred) / c.alpha.clamp(min=FAINT), pred)
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


def _scales(c: Coefficients) -> dict[Quantity, Tensor]:
    """Errors of the three quantities at one noisy state are in these proportions: (B,) each.

    With noisy = alpha x + sigma e held, an error d of the clean data is one of -alpha / sigma d in the noise and of
    (alpha' - alpha sigma' / sigma) d in the velocity; here all are multiplied by sigma.
    """
    return {"clean": c.sigma, "noise": c.alpha, "velocity": c.d_alpha * c.sigma - c.alpha * c.d_sigma}
