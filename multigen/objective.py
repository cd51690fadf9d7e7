"""The training objective: named terms, each with a weight that is a function of the global step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from multigen.curriculum import Weight, weight_at
from multigen.denoiser import Output
from multigen.process import Corrupted, Masked, Process
from multigen.random import Noise
from multigen.state import Batch, Features, MultigenError, State, masked_mean


@dataclass(frozen=True)
class Context:
    """All that a term may look at."""

    batch: Batch
    processes: Mapping[str, Process]
    t: State
    """Component -> (B,)."""
    corrupted: Mapping[str, Corrupted]
    output: Output
    noise: Noise

    def detached(self) -> Context:
        """The same with the network's output cut from the graph: a term then trains its own parameters only."""
        pred = {k: x.detach() for k, x in self.output.pred.items()}  # (B, *sites, *features) each
        taps = {k: Features(f.value.detach(), f.mask) for k, f in self.output.taps.items()}
        return replace(self, output=Output(pred, taps))


class Losses(NamedTuple):
    """To be differentiated is ``total + probe``; where no weight of a term with parameters is 0, ``total`` is all of it."""

    total: Tensor
    """(), the weighted sum: the loss that is logged."""
    parts: dict[str, Tensor]
    """(), unweighted and detached: the batch mean of each part, for logs."""
    probe: Tensor
    """(), the sum of the terms that only probe at this step, see `Objective`: it moves their parameters and no others."""


class Term(Protocol):
    """One loss term."""

    @property
    def taps(self) -> frozenset[str]:
        """Hidden features that the denoiser is asked for."""
        ...

    def __call__(self, ctx: Context) -> dict[str, Tensor]:
        """Part name -> (B,), unweighted. An empty part name stands for the term itself."""
        ...


class Denoising:
    """The loss of every component's process.

    Args:
        weights: component -> its share of the term (and of what is logged for it); 1 for components that are not named.
    """

    taps: frozenset[str] = frozenset()
    additive = True

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})

    def __call__(self, ctx: Context) -> dict[str, Tensor]:
        if unknown := sorted(set(self.weights) - set(ctx.processes)):
            raise MultigenError(f"denoising weights for unknown components {unknown}; components are {sorted(ctx.processes)}")
        if absent := sorted(set(ctx.processes) - set(ctx.output.pred)):
            raise MultigenError(f"the denoiser predicts no component {absent}; it predicts {sorted(ctx.output.pred)}")
        return {k: self.weights.get(k, 1.0) * self._loss(ctx, k) for k in ctx.processes}

    def _loss(self, ctx: Context, name: str) -> Tensor:
        return ctx.processes[name].loss(ctx.output.pred[name], ctx.corrupted[name], ctx.t[name])  # (B,)


class Recall:
    """How well a masked component is recalled: for logs, with weight 0.

    Each masked site counts alpha'(t) / (1 - alpha(t)), so that the mean over uniform times is the mean over all numbers of
    masked sites. Part ``nll`` is then the bound on -log p per site in nats (MDLM, Sahoo et al. 2024, eq. 11), without
    smoothing; its exponential is a perplexity. Part ``accuracy`` is the share of likeliest classes that are right, weighted
    alike.

    Args:
        component: name of the component, whose process is `Masked`.
    """

    taps: frozenset[str] = frozenset()

    def __init__(self, component: str) -> None:
        self.component = component

    @torch.no_grad()
    def __call__(self, ctx: Context) -> dict[str, Tensor]:
        process = ctx.processes.get(self.component)
        if not isinstance(process, Masked):
            masked = sorted(k for k, p in ctx.processes.items() if isinstance(p, Masked))
            raise MultigenError(f"Recall needs a masked component, not {self.component!r}; masked are {masked}")
        noisy, clean, _, free = ctx.corrupted[self.component]
        log_p = process.logits(ctx.output.pred[self.component]).log_softmax(-1)  # (B, *sites, K)
        open_ = process.undecided(noisy, free)  # (B, *sites)
        truth = torch.where(open_, clean, 0)  # (B, *sites)
        nll = -log_p.gather(-1, truth[..., None])[..., 0]  # (B, *sites)
        right = (log_p.argmax(-1) == truth).float()  # (B, *sites)
        path = process.path(ctx.t[self.component])
        weight = path.d_alpha / (1 - path.alpha).clamp(min=1e-3)  # (B,)
        return {
            "nll": weight * masked_mean(torch.where(open_, nll, 0), free),  # (B,)
            "accuracy": weight * masked_mean(torch.where(open_, right, 0), free),  # (B,)
        }


class Objective(nn.Module):
    """The weighted sum of its terms.

    Args:
        terms: name -> term. Terms that are modules are trained with the denoiser and never enter its own weights.
        weights: name -> constant or function of the global step; terms that are not named have weight 1.

    A term that owns parameters (an `Alignment` with its projector) and whose weight is 0 at this step sees a detached output:
    its projector goes on learning as a probe, the denoiser receives exactly no gradient from it, and the total does not hold
    it. Both are differentiated, so that the set of parameters with gradients never changes.

    Of a term with the attribute ``additive`` (`Denoising`) and several parts the sum is logged too, under its own name.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, Weight] | None = None) -> None:
        super().__init__()
        weights = dict(weights or {})
        if unknown := sorted(set(weights) - set(terms)):
            raise MultigenError(f"weights for unknown terms {unknown}; terms are {sorted(terms)}")
        if bad := [name for name in terms if "." in name or hasattr(nn.ModuleDict, name)]:
            raise MultigenError(f"terms cannot be called {', '.join(map(repr, bad))}: dots and dict methods are taken")
        self.terms = dict(terms)
        self.weights: dict[str, Weight] = {name: weights.get(name, 1.0) for name in terms}
        self.trained = nn.ModuleDict({name: term for name, term in terms.items() if isinstance(term, nn.Module)})
        self.taps: frozenset[str] = frozenset().union(*(term.taps for term in terms.values()))

    def probing(self, step: int) -> list[str]:
        """The terms that only probe at this step."""
        return [name for name in self.trained if weight_at(self.weights[name], step) == 0]

    def forward(self, ctx: Context, step: int) -> Losses:
        total = probe = ctx.batch.key.new_zeros((), dtype=torch.float32)  # ()
        parts: dict[str, Tensor] = {}
        probing = self.probing(step)
        for name, term in self.terms.items():
            means = self._means(term, ctx.detached() if name in probing else ctx)
            if getattr(term, "additive", False) and len(means) > 1:
                parts[name] = torch.stack(list(means.values())).sum().detach()  # ()
            parts |= {f"{name}/{part}" if part else name: mean.detach() for part, mean in means.items()}
            if name in probing:
                probe = sum(means.values(), probe)  # ()
            else:  # weight 0 too: a term without parameters stays in the graph
                weight = weight_at(self.weights[name], step)
                total = sum((weight * mean for mean in means.values()), total)  # ()
        return Losses(total, parts, probe)

    @staticmethod
    def _means(term: Term, ctx: Context) -> dict[str, Tensor]:
        return {part: loss.float().mean() for part, loss in term(ctx).items()}  # () each
