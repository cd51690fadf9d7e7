"""Adaptive sampling and likelihoods against closed forms."""

import math

import pytest
import torch

from multigen.denoiser import Output
from multigen.guidance import Guidance
from multigen.interpolation import Linear, Trigonometric
from multigen.ode import AdaptiveODE, log_likelihood
from multigen.process import Gaussian, Masked, zero_com
from multigen.random import keys
from multigen.state import Batch, MultigenError, expand

MEAN, DEVIATION = 0.7, 0.4


class GaussianOracle:
    """The exact denoiser of data N(MEAN, DEVIATION^2)."""

    def __init__(self, process: Gaussian) -> None:
        self.process = process

    def null(self, cond):
        return cond

    def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
        x = noisy["x"]
        c = [expand(v, x) for v in self.process.path(t["x"].to(x.dtype))]
        alpha, sigma, d_alpha, d_sigma = c
        residual = (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
        clean, eps = MEAN + alpha * DEVIATION**2 * residual, sigma * residual
        quantity = {"clean": clean, "noise": eps, "velocity": d_alpha * clean + d_sigma * eps}
        return Output({"x": quantity[self.process.predict]}, {})


def batch(n: int, d: int = 3, value: torch.Tensor | None = None) -> Batch:
    ones = torch.ones(n, dtype=torch.bool)
    x = torch.zeros(n, d) if value is None else value
    return Batch(clean={"x": x}, mask={"x": ones}, free={"x": ones}, key=keys(0, range(n)))


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("predict", ["velocity", "clean"])
def test_adaptive_sampling_reproduces_a_gaussian(path, predict):
    process = Gaussian(predict, path)
    x = AdaptiveODE()(GaussianOracle(process), {"x": process}, batch(8000))["x"]
    assert x.dtype == torch.float64
    assert abs(x.mean() - MEAN) < 4 * DEVIATION / math.sqrt(24000) + 1e-3
    assert abs(x.std() - DEVIATION) < 0.01


def test_adaptive_sampling_is_guided():
    """Away from a network of the same data about another mean: the drifts share their slope, so the mean moves on."""

    class Weak(GaussianOracle):
        def __call__(self, noisy, t, *args, **options):
            pred = super().__call__(noisy, t, *args, **options).pred["x"]
            return Output({"x": pred + MEAN * self.slope(t["x"])[:, None]}, {})

        def slope(self, t):
            """Of the velocity in the mean: that of `MEAN` taken away is that of mean 0."""
            c = self.process.path(t)
            gain = c.alpha * DEVIATION**2 / (c.alpha**2 * DEVIATION**2 + c.sigma**2)
            return -(
                c.d_alpha * (1 - c.alpha * gain) - c.d_sigma * c.sigma * c.alpha / (c.alpha**2 * DEVIATION**2 + c.sigma**2)
            )

    process = Gaussian()
    x = AdaptiveODE(guide=Guidance(2.0, weak=Weak(process)))(GaussianOracle(process), {"x": process}, batch(8000))["x"]
    assert x.mean() == pytest.approx(2 * MEAN, abs=0.02) and x.std() == pytest.approx(DEVIATION, abs=0.01)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_likelihood_is_that_of_the_gaussian(path):
    process = Gaussian("velocity", path)
    x = MEAN + DEVIATION * torch.linspace(-2, 2, 15).reshape(5, 3)
    got = log_likelihood(GaussianOracle(process), {"x": process}, batch(5, value=x))
    expected = torch.distributions.Normal(MEAN, DEVIATION).log_prob(x).sum(1)
    assert torch.allclose(got.float(), expected, atol=2e-3)


def test_hutchinson_is_exact_for_a_diagonal_jacobian_and_repeats():
    process = Gaussian("velocity")
    b = batch(4, value=torch.randn(4, 3))
    exact = log_likelihood(GaussianOracle(process), {"x": process}, b)
    estimate = log_likelihood(GaussianOracle(process), {"x": process}, b, divergence="hutchinson", probes=2)
    assert torch.allclose(exact, estimate, atol=1e-4)


def test_likelihood_of_clean_prediction_enters_just_before_the_end():
    process = Gaussian("clean")
    x = MEAN + DEVIATION * torch.randn(6, 2)
    got = log_likelihood(GaussianOracle(process), {"x": process}, batch(6, value=x), start=0.999)
    expected = torch.distributions.Normal(MEAN, DEVIATION).log_prob(x).sum(1)
    assert torch.allclose(got.float(), expected, atol=0.02)


def test_what_has_no_ode_is_refused_by_name():
    with pytest.raises(MultigenError, match="letters"):
        AdaptiveODE()(GaussianOracle(Gaussian()), {"letters": Masked(4)}, batch(2))
    with pytest.raises(MultigenError, match="subspace"):
        log_likelihood(GaussianOracle(Gaussian()), {"x": Gaussian(project=zero_com)}, batch(2))
