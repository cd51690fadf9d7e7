"""The probability-flow ODE as an ODE: adaptive sampling and exact likelihoods, through torchdiffeq.

d(noisy)/dt = v(noisy, t) carries the prior at t = 0 to the data at t = 1 (Song et al. 2021, section 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multigen.denoiser import Denoiser
from multigen.process import Gaussian, Process, projected
from multigen.random import Noise
from multigen.sampling import Watch, Wrap
from multigen.state import Batch, MultigenError, State, expand, where

Field = Callable[[Tensor, State], State]
"""(t (), noisy) -> velocity of every component."""


@dataclass(frozen=True)
class AdaptiveODE:
    """Sample with an adaptive solver instead of a grid; every component must be Gaussian.

    The step size is chosen from the error over the whole batch, so a sample depends on its batch within the tolerance; use a
    fixed grid where samples must be the same to rounding.

    Args:
        method: a solver of torchdiffeq ("dopri5", "dopri8", "bosh3", "adaptive_heun" ...).
        rtol, atol: relative and absolute tolerance.
        stop: where the solver ends. The rest of the way to t = 1 is one Euler step: a network that predicts clean data implies
            a velocity that grows like 1 / (1 - t), which no error control can follow to the very end.
        guide: wraps the denoiser (see `multigen.guidance`).
        dtype: of the states; the network receives float32.
    """

    method: str = "dopri5"
    rtol: float = 1e-4
    atol: float = 1e-4
    stop: float = 0.999
    guide: Wrap | None = None
    dtype: torch.dtype = torch.float64

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], template: Batch, watch: Watch | None = None
    ) -> State:
        """One state per row of the template; `watch` is called once, at the end."""
        network = self.guide(denoiser) if self.guide is not None else denoiser
        gaussians = _gaussians(processes)
        noise = Noise(template.key).fold("sample").fold("prior")
        start = {k: p.prior(template.clean[k].to(self.dtype), template.free[k], noise.fold(k)) for k, p in gaussians.items()}
        field = velocity_field(network, gaussians, template)
        noisy = self._integrate(field, start, 0.0, self.stop)
        last = field(torch.tensor(self.stop, dtype=self.dtype), noisy)
        noisy = {k: noisy[k] + (1 - self.stop) * last[k] for k in noisy}
        if watch is not None:
            watch(1, noisy, noisy)
        return noisy

    def _integrate(self, field: Field, start: State, t0: float, t1: float) -> State:
        from torchdiffeq import odeint

        names = list(start)
        times = torch.tensor([t0, t1], dtype=self.dtype, device=start[names[0]].device)  # (2,)

        def derivative(t: Tensor, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(field(t, dict(zip(names, values, strict=True))).values())

        path = odeint(derivative, tuple(start.values()), times, rtol=self.rtol, atol=self.atol, method=self.method)
        return {k: x[-1] for k, x in zip(names, path, strict=True)}


def velocity_field(denoiser: Denoiser, processes: Mapping[str, Gaussian], template: Batch) -> Field:
    """The velocity of all components at one shared time; 0 on sites that are not free."""

    def field(t: Tensor, noisy: State) -> State:
        rows = t.double().expand(len(template)).to(template.key.device)  # (B,)
        times = dict.fromkeys(processes, rows.float())  # (B,) each
        pred = denoiser({k: x.float() for k, x in noisy.items()}, times, template.cond, template.mask).pred
        velocity = {k: p.velocity(pred[k], noisy[k], rows) for k, p in processes.items()}
        return {k: where(template.free[k], projected(processes[k], v, template.free[k]), 0 * v) for k, v in velocity.items()}

    return field


@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    batch: Batch,
    divergence: Literal["exact", "hutchinson"] = "exact",
    solver: AdaptiveODE | None = None,
    start: float = 1.0,
    probes: int = 1,
) -> Tensor:
    """log p of each example's clean state along the probability-flow ODE, in nats: (B,), float64.

    log p_1(x_1) = log N(x_0; 0, I) - int_0^1 div v(x_t, t) dt (Chen et al. 2018, eq. 8; Song et al. 2021, eq. 39).

    Args:
        denoiser: in evaluation mode. Its autograd is used for the divergence.
        processes: all Gaussian, without a projection (the density lives on a subspace otherwise).
        batch: `clean` is what is scored; sites that are not free are given, not scored.
        divergence: "exact" takes one reverse pass per dimension; "hutchinson" estimates it with Rademacher probes drawn
            from the batch's keys, unbiased (Grathwohl et al. 2019).
        solver: method and tolerances; `stop` is not used.
        start: the time at which the data is entered; below 1 for networks that predict clean data, whose implied velocity is
            singular at t = 1.
        probes: Hutchinson probes to average.
    """
    from torchdiffeq import odeint

    solver = solver or AdaptiveODE(rtol=1e-5, atol=1e-5)
    gaussians = _gaussians(processes)
    if confined := [k for k, p in gaussians.items() if p.project is not None]:
        raise MultigenError(f"log_likelihood: components {confined} live on a subspace; their density is not defined here")
    if divergence not in ("exact", "hutchinson"):
        raise MultigenError(f"log_likelihood: divergence is {divergence!r}; choices are exact, hutchinson")
    names, field = list(gaussians), velocity_field(denoiser, gaussians, batch)
    clean = {k: batch.clean[k].to(solver.dtype) for k in names}
    vectors = _probes(clean, batch, divergence, probes)

    def derivative(t: Tensor, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state = dict(zip(names, values[:-1], strict=True))
        velocity, div = _divergence(field, t, state, vectors, exact=divergence == "exact")
        return (*velocity.values(), div)

    times = torch.tensor([start, 0.0], dtype=solver.dtype, device=batch.key.device)  # (2,)
    initial = (*clean.values(), torch.zeros(len(batch), dtype=solver.dtype, device=batch.key.device))
    path = odeint(derivative, initial, times, rtol=solver.rtol, atol=solver.atol, method=solver.method)
    prior = sum((_log_normal(x[-1], batch.free[k]) for k, x in zip(names, path[:-1], strict=True)), torch.zeros(()))  # (B,)
    # integrating from `start` down to 0, the last value is minus the integral of the divergence upwards
    return prior + path[-1][-1]


def _divergence(field: Field, t: Tensor, state: State, vectors: list[State], exact: bool) -> tuple[State, Tensor]:
    """The velocity, and its divergence (B,): sum over probe vectors e of e . (dv/dx) e."""
    with torch.enable_grad():
        inputs = {k: x.detach().requires_grad_(True) for k, x in state.items()}
        velocity = field(t, inputs)
        total = next(iter(inputs.values())).new_zeros(len(next(iter(inputs.values()))))  # (B,)
        for e in vectors:
            product = sum((e[k] * velocity[k]).sum() for k in velocity)
            assert isinstance(product, Tensor)
            grads = torch.autograd.grad(product, list(inputs.values()), retain_graph=True)
            for k, g in zip(inputs, grads, strict=True):
                total = total + (g * e[k]).flatten(1).sum(1)  # (B,)
    return {k: v.detach() for k, v in velocity.items()}, total.detach() / (1 if exact else len(vectors))


def _probes(clean: State, batch: Batch, divergence: str, probes: int) -> list[State]:
    """Unit vectors of every dimension, or random signs; 0 on sites that are not free."""
    if divergence == "exact":
        return [
            {j: _unit(x, i, batch.free[j]) if j == k else torch.zeros_like(x) for j, x in clean.items()}
            for k, y in clean.items()
            for i in range(y[0].numel())
        ]
    noise = Noise(batch.key).fold("hutchinson")
    return [
        {
            k: where(batch.free[k], 2.0 * noise.fold(i).fold(k).integers(2, x.shape[1:]).to(x.dtype) - 1, torch.zeros_like(x))
            for k, x in clean.items()
        }
        for i in range(probes)
    ]


def _unit(x: Tensor, i: int, free: Tensor) -> Tensor:
    e = torch.zeros_like(x)  # (B, *sites, *features)
    e.view(len(x), -1)[:, i] = 1
    return where(free, e, torch.zeros_like(e))


def _log_normal(x: Tensor, free: Tensor) -> Tensor:
    """log N(x; 0, I) over the free sites: (B,)."""
    each = -(x**2 + math.log(2 * math.pi)) / 2  # (B, *sites, *features)
    return torch.where(expand(free, each), each, 0).flatten(1).sum(1)


def _gaussians(processes: Mapping[str, Process]) -> dict[str, Gaussian]:
    if other := [k for k, p in processes.items() if not isinstance(p, Gaussian)]:
        raise MultigenError(f"components {other} are not Gaussian and have no ODE; choose a sampler with a grid")
    return {k: p for k, p in processes.items() if isinstance(p, Gaussian)}
