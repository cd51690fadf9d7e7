"""The bound of REED, checked in closed form on a chain of Gaussians (T1, T2, T3 of the project's checklist)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from multigen.bound import Bound, Gaussian, Schedule, hybrid, kl
from multigen.state import MultigenError

First = Literal["data", "noise"]
FIRST: list[First] = ["data", "noise"]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ T1: schedules


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_uniform_weights_guide_linearly(steps: int, first: First) -> None:
    schedule = Schedule.uniform(steps, first)
    s = torch.arange(1, steps + 1, dtype=torch.float64)
    linear = 1 - (s - 1) / steps if first == "data" else s / steps
    assert torch.allclose(schedule.guidance, linear, atol=1e-12)


@pytest.mark.parametrize("first", FIRST)
def test_all_weight_at_the_start_guides_every_step(first: First) -> None:
    schedule = Schedule.at_start(5, first)
    assert schedule.guidance.tolist() == [1] * 5
    assert schedule.alpha.argmax() == (4 if first == "data" else 0)


@pytest.mark.parametrize("first", FIRST)
def test_no_weight_guides_no_step(first: First) -> None:
    assert Schedule.none(5, first).guidance.tolist() == [0] * 5


def test_the_two_ways_of_counting_are_mirror_images() -> None:
    alpha = tensor(0.1, 0.2, 0.0, 0.7)
    assert torch.allclose(Schedule(alpha, "data").guidance, tensor(1.0, 0.9, 0.7, 0.7))
    assert torch.allclose(Schedule(alpha.flip(0), "noise").guidance, Schedule(alpha, "data").guidance.flip(0))


@pytest.mark.parametrize(
    "alpha", [tensor(0.5, 0.6), tensor(1.5, -0.5), tensor(0.3), torch.ones(1, 1), tensor(float("nan"), 1.0)]
)
def test_weights_that_are_no_distribution_are_refused(alpha: Tensor) -> None:
    with pytest.raises(MultigenError, match="non-negative, with sum 1"):
        Schedule(alpha)


def test_an_unknown_way_of_counting_is_refused() -> None:
    with pytest.raises(MultigenError, match="'end'; choices are 'data', 'noise'"):
        Schedule(tensor(1.0), "end")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- T3: the hybrid conditional

COND, UNCOND = Gaussian(tensor(0.3, -1.2), tensor(0.5, 2.0)), Gaussian(tensor(-0.4, 0.7), tensor(1.5, 0.8))
WEIGHTS = [0.0, 0.2, 0.5, 0.9, 1.0]


def integral(values: Tensor, grid: Tensor) -> float:
    return float(torch.trapezoid(values, grid))


@pytest.mark.parametrize("a", WEIGHTS)
def test_the_hybrid_is_the_normalised_geometric_mixture(a: float) -> None:
    """Against quadrature, dimension by dimension."""
    grid = torch.linspace(-25, 25, 20001, dtype=torch.float64)[:, None]  # (G, 1)
    mixture, log_z = hybrid(COND, UNCOND, a)
    total = 0.0
    for d in range(2):
        cond, uncond, ours = (Gaussian(g.mean[d : d + 1], g.var[d : d + 1]) for g in (COND, UNCOND, mixture))
        product = (a * cond.log_prob(grid) + (1 - a) * uncond.log_prob(grid)).exp()  # (G,)
        z = integral(product, grid[:, 0])
        assert torch.allclose(product / z, ours.log_prob(grid).exp(), atol=1e-10)
        total += float(np.log(z))
    assert abs(float(log_z) - total) < 1e-9
    assert float(log_z) <= 1e-15


@pytest.mark.parametrize(("a", "end"), [(1.0, COND), (0.0, UNCOND)])
def test_the_hybrid_ends_at_either_conditional(a: float, end: Gaussian) -> None:
    mixture, log_z = hybrid(COND, UNCOND, a)
    assert torch.allclose(mixture.mean, end.mean) and torch.allclose(mixture.var, end.var) and abs(float(log_z)) < 1e-15


@pytest.mark.parametrize("a", WEIGHTS)
def test_equal_variances_interpolate_the_means(a: float) -> None:
    cond, uncond = COND._replace(var=tensor(0.7, 0.7)), UNCOND._replace(var=tensor(0.7, 0.7))
    mixture, log_z = hybrid(cond, uncond, a)
    assert torch.allclose(mixture.mean, a * cond.mean + (1 - a) * uncond.mean)
    assert torch.allclose(mixture.var, cond.var)
    assert abs(float(log_z) + a * (1 - a) * float(((cond.mean - uncond.mean) ** 2).sum()) / 1.4) < 1e-12


@pytest.mark.parametrize("a", WEIGHTS)
def test_two_divergences_are_one_from_the_hybrid(a: float) -> None:
    q = Gaussian(tensor(0.9, 0.1), tensor(0.3, 1.1))
    mixture, log_z = hybrid(COND, UNCOND, a)
    apart = a * kl(q, COND) + (1 - a) * kl(q, UNCOND)
    assert abs(float(apart - (kl(q, mixture) - log_z))) < 1e-12


def test_divergence_against_quadrature() -> None:
    grid = torch.linspace(-25, 25, 20001, dtype=torch.float64)[:, None]  # (G, 1)
    q, p = (Gaussian(g.mean[:1], g.var[:1]) for g in (COND, UNCOND))
    log_q, log_p = q.log_prob(grid), p.log_prob(grid)  # (G,)
    assert abs(integral(log_q.exp() * (log_q - log_p), grid[:, 0]) - float(kl(q, p))) < 1e-9


# ------------------------------------------------------------------------------------- T2: the bound of a Gaussian chain


@dataclass(frozen=True)
class Chain:
    """x_0 ~ N(m, v), x_s | x_{s-1} ~ N(sqrt(1 - b_s) x_{s-1}, b_s), z | x_0 ~ N(w x_0, r), all scalar.

    The model is the exact reverse of it, with the means of its conditionals shifted by `error` and their variances scaled by
    1 + `error`. Expectations over q are of quadratics, for which Gauss-Hermite quadrature with three nodes is exact.
    """

    error: float
    m: float = 0.4
    v: float = 1.7
    w: float = 0.8
    r: float = 0.3
    x0: float = 1.1
    betas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.6)

    @property
    def steps(self) -> int:
        return len(self.betas)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of (x_0, ..., x_T, z) under q and the data."""
        size = self.steps + 2
        mean, noise, linear = np.zeros(size), np.zeros(size), np.zeros((size, size))
        mean[0], noise[0], noise[-1], linear[-1, 0] = self.m, self.v, self.r, self.w
        for s, beta in enumerate(self.betas, 1):
            linear[s, s - 1], noise[s] = np.sqrt(1 - beta), beta
        spread = np.linalg.inv(np.eye(size) - linear)  # the chain solved for its noises
        return spread @ mean, spread @ np.diag(noise) @ spread.T

    def given(self, target: int, names: list[int]) -> tuple[float, np.ndarray, float]:
        """Offset, slopes and variance of x_target given the variables `names`: it is normal about offset + slopes @ values."""
        mean, cov = self.moments()
        slopes = np.linalg.solve(cov[np.ix_(names, names)], cov[names, target]) if names else np.zeros(0)
        return mean[target] - slopes @ mean[names], slopes, cov[target, target] - slopes @ cov[names, target]

    def model(self, target: int, names: list[int], values: Tensor) -> Gaussian:
        """The model's conditional at `values` (Q, len(names)): (Q, 1)."""
        offset, slopes, var = self.given(target, names)
        mean = offset + self.error * (1 + target) + values @ torch.from_numpy(slopes)  # (Q,)
        return Gaussian(mean[:, None], torch.full_like(mean[:, None], var * (1 + self.error)))

    def exact(self, target: int, names: list[int], values: Tensor) -> Gaussian:
        offset, slopes, var = self.given(target, names)
        mean = offset + values @ torch.from_numpy(slopes)  # (Q,)
        return Gaussian(mean[:, None], torch.full_like(mean[:, None], var))

    def nodes(self, s: int) -> tuple[Tensor, Tensor]:
        """Quadrature of q(x_s, z | x_0): values (Q, 2) of x_s and z, which are independent given x_0, and weights (Q,)."""
        points, weights = np.polynomial.hermite_e.hermegauss(3)
        weights = weights / weights.sum()
        sides = []
        for target in (s, self.steps + 1):
            offset, slopes, var = self.given(target, [0])
            sides.append(offset + slopes[0] * self.x0 + np.sqrt(var) * points)
        values = torch.tensor(list(itertools.product(*sides)), dtype=torch.float64)  # (Q, 2)
        return values, torch.from_numpy(np.outer(weights, weights).ravel())  # (Q, 2), (Q,)

    def divergence(self, s: int, p: Gaussian, values: Tensor) -> Tensor:
        """KL(q(x_{s-1} | x_s, x_0) || p), or the reconstruction for s = 1: (Q,)."""
        if s == 1:
            return -p.log_prob(torch.full_like(values[:, :1], self.x0))  # (Q,)
        start = torch.full_like(values[:, :1], self.x0)  # (Q, 1)
        return kl(self.exact(s - 1, [s, 0], torch.cat([values[:, :1], start], 1)), p)  # (Q,)

    def conditionals(self, s: int) -> tuple[Gaussian, Gaussian, Tensor, Tensor]:
        """The model's guided and unguided step, and the nodes at which they are taken."""
        values, weights = self.nodes(s)
        z = self.steps + 1
        return self.model(s - 1, [s, z], values), self.model(s - 1, [s], values[:, :1]), values, weights

    def bound(self) -> Bound:
        x0 = tensor(self.x0)[:, None]  # (1, 1)
        last, z = self.steps, self.steps + 1
        nothing = torch.zeros(1, 0, dtype=torch.float64)  # (1, 0)
        prior = kl(self.exact(last, [0], x0), self.model(last, [], nothing))[0]
        representation, guided, unguided = [], [], []
        for s in range(1, self.steps + 1):
            cond, uncond, values, weights = self.conditionals(s)
            guided.append(weights @ self.divergence(s, cond, values))
            unguided.append(weights @ self.divergence(s, uncond, values))
            made = kl(self.exact(z, [0], x0.expand(len(values), 1)), self.model(z, [s], values[:, :1]))  # (Q,)
            representation.append(weights @ made)
        return Bound(prior, torch.stack(representation), torch.stack(guided), torch.stack(unguided))

    def evidence(self, t: int) -> float:
        """-log p^(t)(x_0) of the model: the chain is run forward through its means and covariances."""
        order = [*range(self.steps, t - 1, -1), *([self.steps + 1] if t else []), *range(t - 1, -1, -1)]
        size = self.steps + 2
        mean, cov = np.zeros(size), np.zeros((size, size))
        done: list[int] = []
        for name in order:
            parents = self._parents(name, t)
            offset, slopes, var = self.given(name, parents)
            mean[name] = offset + self.error * (1 + name) + slopes @ mean[parents]
            cov[name, done] = cov[done, name] = slopes @ cov[np.ix_(parents, done)]
            cov[name, name] = var * (1 + self.error) + slopes @ cov[np.ix_(parents, parents)] @ slopes
            done.append(name)
        p = Gaussian(tensor(mean[0]), tensor(cov[0, 0]))
        return -float(p.log_prob(tensor(self.x0)))

    def _parents(self, name: int, t: int) -> list[int]:
        z = self.steps + 1
        if name == self.steps:
            return []
        if name == z:
            return [t]
        return [name + 1, z] if name + 1 <= t else [name + 1]


SCHEDULES = [
    Schedule.uniform(5),
    Schedule.at_start(5),
    Schedule(tensor(0.1, 0.4, 0.0, 0.3, 0.2)),
    Schedule(tensor(0.1, 0.4, 0.0, 0.3, 0.2), "noise"),
]


@pytest.mark.parametrize("error", [0.0, 0.13])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["uniform", "start", "data", "noise"])
def test_the_average_of_single_bounds_is_prior_representation_and_hybrids(schedule: Schedule, error: float) -> None:
    chain = Chain(error)
    bound = chain.bound()
    alpha, a = schedule.alpha, schedule.guidance
    if schedule.first == "noise":
        alpha, a = alpha.flip(0), a.flip(0)
    average = sum(alpha[t - 1] * bound.single(t) for t in range(1, 6))
    generation = tensor(0.0)[0]
    for s in range(1, 6):
        cond, uncond, values, weights = chain.conditionals(s)
        mixture, log_z = hybrid(cond, uncond, a[s - 1])
        generation = generation + weights @ (chain.divergence(s, mixture, values) - log_z)
    total = bound.prior + (alpha * bound.representation).sum() + generation
    assert abs(float(average - total)) < 1e-9
    assert abs(float(average - bound.mixed(schedule))) < 1e-9


def test_plain_diffusion_is_the_bound_without_guidance() -> None:
    bound = Chain(0.13).bound()
    assert abs(float(bound.mixed(Schedule.none(5)) - bound.single(0))) < 1e-12


@pytest.mark.parametrize("t", range(6))
def test_each_factorisation_is_bounded(t: int) -> None:
    """With some gap for a model that errs, and none for the exact reverse, whose every factorisation is the data's own."""
    wrong, right = Chain(0.13), Chain(0.0)
    assert float(wrong.bound().single(t)) > wrong.evidence(t) + 1e-3
    assert abs(float(right.bound().single(t)) - right.evidence(t)) < 1e-9
    data = Gaussian(tensor(right.m), tensor(right.v))
    assert abs(right.evidence(t) + float(data.log_prob(tensor(right.x0)))) < 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["uniform", "start", "data", "noise"])
def test_the_mixed_bound_bounds_the_mixture(schedule: Schedule) -> None:
    chain = Chain(0.13)
    alpha = schedule.alpha if schedule.first == "data" else schedule.alpha.flip(0)
    likelihood = sum(float(alpha[t - 1]) * np.exp(-chain.evidence(t)) for t in range(1, 6))
    assert float(chain.bound().mixed(schedule)) > -np.log(likelihood)


def test_what_guides_more_steps_is_harder_to_make() -> None:
    """The trade-off the theory names: z is guessed worse from more noise, and every guided step is nearer the truth."""
    bound = Chain(0.0).bound()
    assert (bound.representation.diff() > 0).all()
    assert (bound.guided < bound.unguided).all()
