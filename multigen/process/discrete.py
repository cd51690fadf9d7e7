"""Corruption of a categorical component: each site keeps its class with probability alpha(t), else shows the prior's.

(Austin et al. 2021; Campbell et al. 2024, "Discrete flow models"; Gat et al. 2024.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from multigen.interpolation import Interpolation, Linear
from multigen.process.base import Corrupted, Project, projected
from multigen.random import Noise
from multigen.state import MultigenError, expand, masked_mean, where

Scored = Literal["undecided", "all"]


@runtime_checkable
class Discrete(Protocol):
    """What a sampler needs of a categorical process, beyond `Process`."""

    @property
    def path(self) -> Interpolation: ...

    @property
    def project(self) -> Project | None: ...

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor: ...

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None = None) -> Corrupted: ...

    def loss(self, pred: Tensor, corrupted: Corrupted, t: Tensor) -> Tensor: ...

    def undecided(self, noisy: Tensor, free: Tensor) -> Tensor:
        """Bool (B, *sites): sites that the sampler may still change."""
        ...

    def logits(self, pred: Tensor) -> Tensor:
        """(B, *sites, K) over the real classes, float32."""
        ...


@dataclass(frozen=True)
class Masked:
    """The prior is one absorbing mask token, class index ``classes`` (so an embedding has ``classes + 1`` rows).

    Args:
        classes: number of real classes K. A network may output K logits, or K + 1 of which the mask's is dropped.
        path: alpha(t).
        score: "undecided" scores masked sites, "all" every free site.
        smoothing: label smoothing over the K classes.
        elbo: sum over the masked sites with weight alpha' / (1 - alpha), which makes the loss a bound on -log p per site, in
            nats (MDLM, Sahoo et al. 2024, eq. 11). The weight is clamped at ``max_weight``.
        mask_logit: let the mask's logit compete in the softmax of the loss (and take its share of the smoothing), as REED's
            published protein model does, instead of giving the mask no probability (MDLM, section 3.2). Never when sampling.
        divisor: compatibility with losses that are summed over all scored sites of the batch and divided by a constant (2,000
            in REED's protein model); None takes the mean over each example's sites.
        project: the subspace the component lives in.
    """

    classes: int
    path: Interpolation = Linear()
    score: Scored = "undecided"
    smoothing: float = 0.0
    elbo: bool = False
    max_weight: float = 100.0
    mask_logit: bool = False
    divisor: float | None = None
    project: Project | None = None

    def __post_init__(self) -> None:
        _check(self.classes, self.score)
        if self.elbo and self.score != "undecided":
            raise MultigenError(f"Masked: the bound scores masked sites only; elbo=true does not go with score={self.score!r}")
        if self.elbo and (self.mask_logit or self.smoothing or self.divisor is not None):
            raise MultigenError(
                "Masked: elbo=true goes with neither mask_logit, smoothing nor divisor, which make the loss no bound"
            )
        if self.divisor is not None and self.divisor <= 0:
            raise MultigenError(f"Masked: divisor must be positive, got {self.divisor}")

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor:
        return torch.where(free, self.classes, like)  # (B, *sites)

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None = None) -> Corrupted:
        return _corrupt(self, clean, t, free, noise, prior)

    def undecided(self, noisy: Tensor, free: Tensor) -> Tensor:
        return free & (noisy == self.classes)  # (B, *sites)

    def logits(self, pred: Tensor) -> Tensor:
        if pred.shape[-1] not in (self.classes, self.classes + 1):
            raise MultigenError(f"Masked({self.classes}): the network outputs {pred.shape[-1]} classes")
        return pred[..., : self.classes].float()  # (B, *sites, K)

    def loss(self, pred: Tensor, corrupted: Corrupted, t: Tensor) -> Tensor:
        logits = self.logits(pred)  # (B, *sites, K)
        if self.mask_logit:
            if pred.shape[-1] != self.classes + 1:
                raise MultigenError(
                    f"Masked({self.classes}): mask_logit=true needs {self.classes + 1} logits, got {pred.shape[-1]}"
                )
            logits = pred.float()  # (B, *sites, K + 1)
        loss = _cross_entropy(self, logits, corrupted)  # (B,)
        if self.divisor is not None:
            # the batch's mean of these is the sum over its scored sites / divisor
            return loss * _scored(self, corrupted).flatten(1).sum(-1) * (len(loss) / self.divisor)
        if not self.elbo:
            return loss
        c = self.path(t)
        # the bound sums over masked sites; mean over the masked times their share = sum over the masked / number of sites
        hidden = masked_mean(self.undecided(corrupted.noisy, corrupted.free).float(), corrupted.free)  # (B,)
        return loss * hidden * (c.d_alpha / (1 - c.alpha).clamp(min=1e-6)).clamp(max=self.max_weight)


@dataclass(frozen=True)
class Uniform:
    """The prior is uniform over the K classes; every free site stays open to the end.

    Args:
        classes: number of classes K.
        path: alpha(t).
        smoothing: label smoothing.
        project: the subspace the component lives in.
    """

    classes: int
    path: Interpolation = Linear()
    smoothing: float = 0.0
    project: Project | None = None

    def __post_init__(self) -> None:
        _check(self.classes, "all")

    @property
    def score(self) -> Scored:
        return "all"

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor:
        drawn = noise.integers(self.classes, like.shape[1:])  # (B, *sites)
        return torch.where(free, projected(self, drawn, free), like)  # (B, *sites)

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None = None) -> Corrupted:
        return _corrupt(self, clean, t, free, noise, prior)

    def undecided(self, noisy: Tensor, free: Tensor) -> Tensor:
        return free

    def logits(self, pred: Tensor) -> Tensor:
        if pred.shape[-1] != self.classes:
            raise MultigenError(f"Uniform({self.classes}): the network outputs {pred.shape[-1]} classes")
        return pred.float()  # (B, *sites, K)

    def loss(self, pred: Tensor, corrupted: Corrupted, t: Tensor) -> Tensor:
        return _cross_entropy(self, self.logits(pred), corrupted)


def _check(classes: int, score: str) -> None:
    if classes < 2:
        raise MultigenError(f"a categorical component needs at least 2 classes, got {classes}")
    if score not in ("undecided", "all"):
        raise MultigenError(f"score is {score!r}; choices are undecided, all")


def _corrupt(
    process: Masked | Uniform, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None
) -> Corrupted:
    if prior is None:
        prior = process.prior(clean, free, noise.fold("prior"))  # (B, *sites)
    u = projected(process, noise.fold("keep").uniform(clean.shape[1:]), free)  # (B, *sites)
    keep = u < expand(process.path(t).alpha, u)  # (B, *sites)
    return Corrupted(where(free & ~keep, prior, clean), clean, prior, free)


def _scored(process: Masked | Uniform, corrupted: Corrupted) -> Tensor:
    """Bool (B, *sites)."""
    return corrupted.free if process.score == "all" else process.undecided(corrupted.noisy, corrupted.free)


def _cross_entropy(process: Masked | Uniform, logits: Tensor, corrupted: Corrupted) -> Tensor:
    """(B,): mean cross-entropy over the scored sites, from logits (B, *sites, K)."""
    clean = torch.where(corrupted.free, corrupted.clean, 0)  # (B, *sites); padding may hold any index
    loss = F.cross_entropy(logits.movedim(-1, 1), clean, reduction="none", label_smoothing=process.smoothing)  # (B, *sites)
    return masked_mean(loss, _scored(process, corrupted))
