"""The variational bound behind representation guidance, for Gaussians in closed form (REED, arXiv 2507.08980, theory section).

A representation z of the data x_0 is latent beside the chain x_1 .. x_T (here s = 1 is the step next to the data, s = T the
one next to the noise). Factorisation t of the joint runs the chain without z down to x_t, makes z from x_t, and goes on with
it:

    p^(t)(x_0..T, z) = p(x_T) prod_{s > t} p(x_{s-1} | x_s) p(z | x_t) prod_{s <= t} p(x_{s-1} | x_s, z).

Early z (large t) guides more steps, but has to be guessed from more noise. Weights alpha_t mix the factorisations; step s is
then guided with the weight A_s = sum_{t >= s} alpha_t of those that have made z by then, and

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T))                                                          prior
                 + sum_t alpha_t E KL(q(z | x_0) || p(z | x_t))                                         representation
                 + sum_s E [A_s KL(q(x_{s-1} | x_s, x_0) || p(x_{s-1} | x_s, z))
                            + (1 - A_s) KL(q(x_{s-1} | x_s, x_0) || p(x_{s-1} | x_s))]                  generation

where for s = 1 the divergences are reconstructions, -log p(x_0 | x_1 ...). A bracket is the divergence from one
distribution, the geometric mixture p~ = p(. | x_s, z)^A p(. | x_s)^(1-A) / Z, less log Z, which is never positive:

    A KL(q || p_cond) + (1 - A) KL(q || p_uncond) = KL(q || p~) - log Z.

The training code does not call this module. It states, and its tests check, what the objective's terms stand for: alignment
is the representation term under a directional p(z | x_t), and times drawn uniformly are alpha_t = 1/T. The public description
names the three terms; the formulas above are this project's derivation of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from multigen.state import MultigenError


@dataclass(frozen=True)
class Schedule:
    """The weights alpha_t of the times at which z is made.

    Args:
        alpha: (T,), non-negative, with sum 1; or all 0, which stands for no guidance: z is never made.
        first: what the first entry belongs to. "data" counts steps from the data, A_s = sum_{t >= s} alpha_t, as above;
            "noise" counts them in the order of generation, A_s = sum_{t <= s} alpha_t. Published text leaves it open.

    Raises:
        MultigenError: the weights are no such thing.
    """

    alpha: Tensor
    first: Literal["data", "noise"] = "data"

    def __post_init__(self) -> None:
        if self.first not in ("data", "noise"):
            raise MultigenError(f"a schedule's first entry belongs to {self.first!r}; choices are 'data', 'noise'")
        total, negative = float(self.alpha.double().sum()), bool((self.alpha < 0).any())
        if negative or self.alpha.ndim != 1 or not (total == 0 or math.isclose(total, 1, abs_tol=1e-6)):
            raise MultigenError(f"alpha must be a vector, non-negative, with sum 1 (or all 0); its sum is {total:g}")

    @property
    def guidance(self) -> Tensor:
        """A_s in the order of `alpha`: (T,), how much step s is guided."""
        ahead = self.alpha if self.first == "noise" else self.alpha.flip(0)  # (T,), in the order of generation
        total = ahead.cumsum(0).clamp(max=1)  # (T,)
        return total if self.first == "noise" else total.flip(0)

    @staticmethod
    def uniform(steps: int, first: Literal["data", "noise"] = "data") -> Schedule:
        """alpha_t = 1/T, the times of REPA and REED: guidance falls linearly towards the noise."""
        return Schedule(torch.full((steps,), 1 / steps, dtype=torch.float64), first)

    @staticmethod
    def at_start(steps: int, first: Literal["data", "noise"] = "data") -> Schedule:
        """z is made first, from pure noise, and guides every step: A_s = 1, as in RCG."""
        alpha = torch.zeros(steps, dtype=torch.float64)  # (T,)
        alpha[-1 if first == "data" else 0] = 1
        return Schedule(alpha, first)

    @staticmethod
    def none(steps: int, first: Literal["data", "noise"] = "data") -> Schedule:
        """Plain diffusion: A_s = 0."""
        return Schedule(torch.zeros(steps, dtype=torch.float64), first)


class Gaussian(NamedTuple):
    """Normal distributions with diagonal covariance."""

    mean: Tensor
    """(*, D)."""
    var: Tensor
    """(*, D)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(*, D) -> (*)."""
        return -0.5 * ((x - self.mean) ** 2 / self.var + self.var.log() + math.log(2 * math.pi)).sum(-1)  # (*)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p): (*)."""
    ratio = q.var / p.var  # (*, D)
    return 0.5 * (ratio - 1 - ratio.log() + (q.mean - p.mean) ** 2 / p.var).sum(-1)  # (*)


def hybrid(cond: Gaussian, uncond: Gaussian, a: Tensor | float) -> tuple[Gaussian, Tensor]:
    """The geometric mixture cond^a uncond^(1-a) / Z and log Z.

    With means m_1, m_0 and variances v_1, v_0, per dimension,

        1/v = a / v_1 + (1 - a) / v_0,      m = v (a m_1 / v_1 + (1 - a) m_0 / v_0),
        log Z = (log v - a log v_1 - (1 - a) log v_0) / 2 - a (1 - a) (m_1 - m_0)^2 / (2 (a v_0 + (1 - a) v_1)).

    Equal variances s^2 give m = a m_1 + (1 - a) m_0 and -log Z = a (1 - a) (m_1 - m_0)^2 / (2 s^2).

    Args:
        cond, uncond: (*, D).
        a: in [0, 1]; broadcasts against (*, D).

    Returns:
        The mixture (*, D), and log Z (*).
    """
    var = 1 / (a / cond.var + (1 - a) / uncond.var)  # (*, D)
    mean = var * (a * cond.mean / cond.var + (1 - a) * uncond.mean / uncond.var)  # (*, D)
    size = var.log() - a * cond.var.log() - (1 - a) * uncond.var.log()  # (*, D)
    apart = a * (1 - a) * (cond.mean - uncond.mean) ** 2 / (a * uncond.var + (1 - a) * cond.var)  # (*, D)
    return Gaussian(mean, var), 0.5 * (size - apart).sum(-1)


@dataclass(frozen=True)
class Bound:
    """The expected divergences of a chain, from which every bound of the family is put together. Steps count from the data."""

    prior: Tensor
    """()."""
    representation: Tensor
    """(T,): E KL(q(z | x_0) || p(z | x_t))."""
    guided: Tensor
    """(T,): each step's divergence from p(x_{s-1} | x_s, z)."""
    unguided: Tensor
    """(T,): each step's divergence from p(x_{s-1} | x_s)."""

    def single(self, t: int) -> Tensor:
        """The bound of factorisation t = 1 .. T; t = 0 is plain diffusion: ()."""
        made = self.representation[t - 1] if t > 0 else torch.zeros_like(self.prior)  # ()
        return self.prior + made + self.guided[:t].sum() + self.unguided[t:].sum()

    def mixed(self, schedule: Schedule) -> Tensor:
        """Prior, representation and generation, mixed by `schedule`: ()."""
        alpha, a = schedule.alpha, schedule.guidance  # (T,)
        if schedule.first == "noise":
            alpha, a = alpha.flip(0), a.flip(0)  # (T,)
        generation = a * self.guided + (1 - a) * self.unguided  # (T,)
        return self.prior + (alpha * self.representation).sum() + generation.sum()
