"""How times are drawn: distributions, shared and per component."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from multigen.interpolation import Trigonometric
from multigen.random import Noise, keys
from multigen.state import MultigenError
from multigen.times import ArctanNormal, Beta, Fixed, Independent, LogitNormal, Mixture, Shared, Uniform

N = 20_000


def uniforms(n: int = N) -> torch.Tensor:
    return Noise(keys(0, range(n))).uniform()  # (n,)


@pytest.mark.parametrize(
    "draw, law",
    [
        (Uniform(), stats.uniform()),
        (Uniform(0.2, 0.6), stats.uniform(0.2, 0.4)),
        (Beta(2, 1), stats.beta(2, 1)),
        (Beta(1, 3), stats.beta(1, 3)),
        (Beta(1.5, 4), stats.beta(1.5, 4)),
        (Beta(0.6, 0.8), stats.beta(0.6, 0.8)),
        (Beta(8, 3), stats.beta(8, 3)),
    ],
    ids=lambda x: None if hasattr(x, "cdf") else repr(x),
)
def test_draws_follow_their_law(draw, law):
    t = draw(uniforms())
    assert t.min() >= 0 and t.max() <= 1
    assert stats.kstest(t.numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("mean, std", [(0, 1), (-0.8, 0.8), (1, 2)])
def test_logit_normal(mean, std):
    t = LogitNormal(mean, std)(uniforms()).double()
    assert stats.kstest(torch.logit(t).numpy(), stats.norm(mean, std).cdf).pvalue > 1e-3


def test_arctan_normal_is_a_normal_log_of_signal_over_noise():
    c = Trigonometric()(ArctanNormal(0.3, 0.9)(uniforms()).double())
    assert stats.kstest(torch.log(c.alpha / c.sigma).numpy(), stats.norm(0.3, 0.9).cdf).pvalue > 1e-3


DRAWS = [LogitNormal(0, 1), LogitNormal(2, 4), ArctanNormal(), Beta(2, 1), Beta(0.3, 0.4), Uniform()]


@pytest.mark.parametrize("draw", DRAWS, ids=repr)
def test_draws_are_monotone_and_finite_to_the_ends(draw):
    u = torch.tensor([2.0**-24, 1e-6, 1e-3, 0.3, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 2.0**-24])
    t = draw(u)
    assert torch.isfinite(t).all() and (t >= 0).all() and (t <= 1).all()
    assert (t.diff() >= 0).all()


@pytest.mark.parametrize("clean, absent", [(0, 0), (0.1, 0), (0, 0.25), (0.3, 0.2), (1, 0), (0, 1), (0.5, 0.5)])
def test_mixture_gives_and_hides_with_its_probabilities(clean, absent):
    t = Mixture(Beta(2, 1), clean, absent)(uniforms())
    for value, share in ((1.0, clean), (0.0, absent)):
        assert abs((t == value).double().mean() - share) < 4 * (share * (1 - share) / N) ** 0.5 + 1e-9
    between = t[(t > 0) & (t < 1)]
    if clean + absent < 1:
        assert stats.kstest(between.numpy(), stats.beta(2, 1).cdf).pvalue > 1e-3


def test_shared_times_are_equal_and_independent_ones_are_not():
    noise = Noise(keys(0, range(N)))
    shared = Shared(LogitNormal())(["a", "b"], noise)
    assert torch.equal(shared["a"], shared["b"]) and shared["a"].shape == (N,)
    apart = Independent({"b": Beta(2, 1)})(["a", "b"], noise)
    assert abs(torch.corrcoef(torch.stack([apart["a"], apart["b"]]))[0, 1]) < 4 / N**0.5
    assert stats.kstest(apart["a"].numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(apart["b"].numpy(), stats.beta(2, 1).cdf).pvalue > 1e-3


def test_a_component_does_not_move_the_times_of_another():
    noise = Noise(keys(0, range(8)))
    alone = Independent()(["a"], noise)["a"]
    assert torch.equal(alone, Independent({"b": Fixed(1)})(["b", "a"], noise)["a"])
    assert (Independent({"b": Fixed(1)})(["b", "a"], noise)["b"] == 1).all()


def test_times_belong_to_the_example():
    whole = Shared()(["x"], Noise(keys(0, range(10))))["x"]
    assert torch.equal(Shared()(["x"], Noise(keys(0, [7, 2])))["x"], whole[[7, 2]])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Uniform(0.5, 0.2), "0 <= low <= high <= 1"),
        (lambda: Uniform(0, 2), "0 <= low <= high <= 1"),
        (lambda: Beta(0, 1), "positive a and b"),
        (lambda: Fixed(1.5), "between 0 and 1"),
        (lambda: Mixture(Uniform(), 0.7, 0.7), "sum at most 1"),
        (lambda: Independent({"hue": Uniform()})(["image"], Noise(keys(0, [0]))), r"\['hue'\]; components are \['image'\]"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()
