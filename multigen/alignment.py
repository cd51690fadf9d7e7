"""Alignment: a hidden feature of the denoiser is trained to predict a pretrained representation.

REPA (Yu et al., arXiv 2410.06940, eq. 8) aligns one tap with one target; REED (arXiv 2507.08980) several, each at its own
depth, and pools where the representation belongs to the whole example (a caption, a molecule).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multigen.objective import Context
from multigen.process import Discrete
from multigen.state import Features, MultigenError, expand, masked_mean, pool

Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(prediction (B, *sites, D), target (B, *sites, D), mask (B, *sites)) -> loss (B,); float32 in, smaller is closer."""

Gate = Callable[[Tensor], Tensor]
"""t (B,) -> weight of each example's alignment (B,)."""


def cosine(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """-cos(prediction, target), mean over the real sites: -1 is perfect, and the targets' scale does not matter."""
    return masked_mean(-F.cosine_similarity(pred, target, dim=-1, eps=1e-6), mask)  # (B,)


def l2(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error."""
    return masked_mean((pred - target) ** 2, mask)  # (B,)


def smooth_l1(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Huber's loss with threshold 1 (SRA aligns with it)."""
    return masked_mean(F.smooth_l1_loss(pred, target, reduction="none"), mask)  # (B,)


@dataclass(frozen=True)
class NTXent:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, eq. 1) between examples, one vector each.

    The other examples of the batch are the negatives, so token-wise features are pooled first and what they learn depends on
    the batch (on the part of it that one process sees); an example without a real site neither scores nor is scored against.
    """

    temperature: float = 0.1

    def __call__(self, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        p, real = pool(Features(F.normalize(pred, dim=-1), mask))  # (B, D), (B,)
        z, _ = pool(Features(F.normalize(target, dim=-1), mask))  # (B, D)
        logits = F.normalize(p, dim=-1) @ F.normalize(z, dim=-1).T / self.temperature  # (B, B)
        logits = logits.masked_fill(~real[None, :], -math.inf)  # (B, B)
        own = torch.arange(len(logits), device=logits.device)  # (B,)
        return torch.where(real, F.cross_entropy(torch.where(real[:, None], logits, 0), own, reduction="none"), 0)  # (B,)


def relational(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the cosine Gram matrices over pairs of real sites (of real examples, if pooled).

    Only the relations between sites have to agree, not the features, so the two widths may differ: no projector is needed.
    If pooled, what an example scores depends on its batch: on the part of it that one process sees.
    """
    if mask.ndim == 1:
        p, z = F.normalize(pred, dim=-1), F.normalize(target, dim=-1)  # (B, D)
        return masked_mean((p @ p.T - z @ z.T) ** 2, mask[:, None] & mask[None, :])  # (B,)
    p, z = (F.normalize(x.flatten(1, -2), dim=-1) for x in (pred, target))  # (B, S, D)
    m = mask.flatten(1)  # (B, S)
    return masked_mean((p @ p.mT - z @ z.mT) ** 2, m[:, :, None] & m[:, None, :])  # (B,)


SIMILARITIES: dict[str, Similarity] = {
    "cosine": cosine,
    "l2": l2,
    "smooth_l1": smooth_l1,
    "nt_xent": NTXent(),
    "relational": relational,
}


def _gate(shape: str) -> Gate:
    """Weights over t as REED's image code offers them, mirrored to t = 1 at the data."""
    gates: dict[str, Gate] = {
        "constant": torch.ones_like,
        "linear": lambda t: t,
        "cosine": lambda t: (1 - torch.cos(math.pi * t)) / 2,
        "sigmoid": lambda t: torch.sigmoid(10 * (t - 0.5)),
        "loglinear": lambda t: 1 - torch.log(2 - t),
    }
    if shape not in gates:
        raise MultigenError(f"time gate {shape!r}; choices are {', '.join([*gates, 'Cutoff(low, high)'])}")
    return gates[shape]


@dataclass(frozen=True)
class Cutoff:
    """1 inside [low, high], 0 outside."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        return ((t >= self.low) & (t <= self.high)).to(t.dtype)  # (B,)


class Alignment(nn.Module):
    """Align a tap of the denoiser with a target of the batch.

    Args:
        tap: name of the hidden feature, e.g. ``"block8"`` for the tokens after the eighth block.
        target: name of the representation in ``Batch.target``. Its sites must be the tap's, unless ``pool``.
        projector: maps the tap's width to the target's; trained with the objective, absent from the sampling weights.
        similarity: a name of `SIMILARITIES` or a callable.
        pool: average the tap over its real sites *before* projecting it (REED's text head); a target with sites is
            averaged too.
        gate: weight over time, "constant" (alpha_t uniform), "linear", "cosine", "sigmoid", "loglinear", or a callable on t.
            It multiplies example by example.
        component: the component whose time the gate reads; needed only where components have times of their own.
        only_undecided: leave out sites whose component (``component``) is already decided: align masked residues only.
        standardise: give each feature of the target mean 0 and deviation 1 over the batch's real sites first (those that one
            process sees).
        target_noise: standard deviation of Gaussian noise added to the target while training.
    """

    def __init__(
        self,
        tap: str,
        target: str,
        projector: nn.Module | None = None,
        similarity: str | Similarity = "cosine",
        pool: bool = False,
        gate: str | Gate = "constant",
        component: str | None = None,
        only_undecided: bool = False,
        standardise: bool = False,
        target_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(similarity, str) and similarity not in SIMILARITIES:
            raise MultigenError(f"similarity {similarity!r}; choices are {', '.join(SIMILARITIES)}")
        if only_undecided and component is None:
            raise MultigenError(f"Alignment of tap {tap!r}: only_undecided needs a component")
        self.tap, self.target = tap, target
        self.projector = projector if projector is not None else nn.Identity()
        self.similarity = SIMILARITIES[similarity] if isinstance(similarity, str) else similarity
        self.pool, self.component = pool, component
        self.gate = _gate(gate) if isinstance(gate, str) else gate
        self.only_undecided, self.standardise, self.target_noise = only_undecided, standardise, target_noise

    @property
    def taps(self) -> frozenset[str]:
        return frozenset([self.tap])

    def forward(self, ctx: Context) -> dict[str, Tensor]:
        hidden = self._tapped(ctx)  # (B, *sites, H)
        z = self._target(ctx)  # (B, *sites, D)
        mask = self._mask(ctx, hidden.mask)  # (B, *sites)
        if self.pool:
            hidden, z = pool(Features(hidden.value, mask)), pool(z)  # (B, H), (B, D)
            mask = hidden.mask  # (B,)
        # padding is filled before anything nonlinear: whatever stands there, not even its gradient reaches the projector
        pred = self.projector(torch.where(mask[..., None], hidden.value, 0))  # (B, *sites, D)
        self._check(pred, z)
        # in float32 whatever autocast says: a cosine in half precision overflows on large features
        with torch.autocast(pred.device.type, enabled=False):
            real = mask & z.mask  # (B, *sites)
            # sites without a target are cut out as well, and padding once more: a projector makes it something
            pred, goal = (torch.where(real[..., None], x.float(), 0) for x in (pred, z.value))  # (B, *sites, D) each
            return {"": self.similarity(pred, goal, real) * self.gate(self._time(ctx))}  # (B,)

    def _tapped(self, ctx: Context) -> Features:
        if self.tap not in ctx.output.taps:
            raise MultigenError(f"the network returned no tap {self.tap!r}; it returned {sorted(ctx.output.taps)}")
        return ctx.output.taps[self.tap]

    def _target(self, ctx: Context) -> Features:
        if self.target not in ctx.batch.target:
            raise MultigenError(f"the batch lacks target {self.target!r}; it has {sorted(ctx.batch.target)}")
        value, mask = ctx.batch.target[self.target]
        if self.standardise:
            value = standardised(value.float(), mask)  # (B, *sites, D)
        if self.target_noise > 0 and self.training:
            extra = ctx.noise.fold("target").fold(self.target).normal(value.shape[1:])  # (B, *sites, D)
            value = value + self.target_noise * extra  # (B, *sites, D)
        return Features(value, mask)

    def _mask(self, ctx: Context, mask: Tensor) -> Tensor:
        if not self.only_undecided:
            return mask
        process = ctx.processes[self._named(ctx)]
        if not isinstance(process, Discrete):
            raise MultigenError(f"Alignment of tap {self.tap!r}: component {self.component!r} is not categorical")
        corrupted = ctx.corrupted[self._named(ctx)]
        return mask & expand(process.undecided(corrupted.noisy, corrupted.free), mask)  # (B, *sites)

    def _time(self, ctx: Context) -> Tensor:
        return ctx.t[self._named(ctx)]  # (B,)

    def _named(self, ctx: Context) -> str:
        """The component whose time and sites count: the named one, or the first."""
        name = self.component if self.component is not None else next(iter(ctx.t))
        if name not in ctx.t:
            raise MultigenError(f"Alignment of tap {self.tap!r}: unknown component {name!r}; components are {sorted(ctx.t)}")
        return name

    def _check(self, pred: Tensor, z: Features) -> None:
        width = self.similarity is not relational and pred.shape[-1] != z.value.shape[-1]
        if pred.shape[:-1] != z.value.shape[:-1] or width:
            raise MultigenError(
                f"tap {self.tap!r} projects to shape {tuple(pred.shape)}, target {self.target!r} has {tuple(z.value.shape)}"
                + ("; a target of whole examples needs pool=true" if pred.ndim > z.value.ndim else "")
            )


def standardised(x: Tensor, mask: Tensor) -> Tensor:
    """Each feature shifted and scaled to mean 0 and deviation 1 over all real sites of the batch.

    Args:
        x: (B, *sites, D).
        mask: Bool (B, *sites).
    """
    m = mask[..., None]  # (B, *sites, 1)
    dims = tuple(range(mask.ndim))
    count = m.sum().clamp(min=1)  # ()
    mean = torch.where(m, x, 0).sum(dims) / count  # (D,)
    var = torch.where(m, (x - mean) ** 2, 0).sum(dims) / count  # (D,)
    return (x - mean) / (var + 1e-6).sqrt()  # (B, *sites, D)
