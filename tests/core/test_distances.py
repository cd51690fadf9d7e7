"""Distances between sets of features against closed forms."""

import math

import pytest
import torch

from multigen import distances
from multigen.random import Noise, keys
from multigen.state import MultigenError


def _normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return Noise(keys(seed, range(n), "test")).normal([d])  # (n, d)


@pytest.mark.parametrize("n", [10, 200])  # 10 < 16: a covariance without full rank
def test_frechet_of_a_set_with_itself_is_zero(n):
    gaussian = distances.moments(_normal(n, 16))
    assert distances.frechet(gaussian, gaussian) == pytest.approx(0, abs=1e-5)


def test_frechet_matches_the_closed_form_of_commuting_covariances():
    a = distances.Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    b = distances.Gaussian(torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([9.0, 16.0])).double())
    # 3^2 + 4^2 + (1 - 3)^2 + (2 - 4)^2
    assert distances.frechet(a, b) == pytest.approx(33)
    angle = torch.tensor(0.7).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])  # (2, 2)
    turned = [distances.Gaussian(turn @ g.mean, turn @ g.cov @ turn.T) for g in (a, b)]
    assert distances.frechet(*turned) == pytest.approx(33)


def test_frechet_of_covariances_that_do_not_commute():
    a = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    b = torch.tensor([[1.0, 0.0], [0.0, 5.0]]).double()
    zero = torch.zeros(2).double()
    # the trace of a 2 x 2 root is sqrt(tr + 2 sqrt(det)), here of the product, similar to the symmetric form
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float((a @ b).det())))
    expected = float(a.trace() + b.trace()) - 2 * root
    assert distances.frechet(distances.Gaussian(zero, a), distances.Gaussian(zero, b)) == pytest.approx(expected)


def test_frechet_estimates_a_shift():
    x = _normal(4000, 3)
    shifted = distances.frechet(distances.moments(x), distances.moments(_normal(4000, 3, seed=1) + 2))
    assert shifted == pytest.approx(12, rel=0.05)


def test_kernel_distance_is_unbiased_around_zero_and_sees_a_shift():
    x, y = _normal(600, 8), _normal(600, 8, seed=1)
    same, spread = distances.kernel_distance(x, y, subset=200, subsets=40)
    assert abs(same) < 4 * spread / math.sqrt(40) + 0.01
    assert distances.kernel_distance(x, y + 1, subset=200)[0] > 10 * spread


def test_kernel_distance_matches_the_formula_and_depends_on_nothing_but_its_arguments():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    # k(u, v) = (u v + 1)^3: within x 27, within y 1, across (1 + 64 + 1 + 343) / 4
    assert distances.kernel_distance(x, y, subsets=1)[0] == pytest.approx(27 + 1 - 2 * 409 / 4)
    big = _normal(50, 4), _normal(50, 4, seed=1)
    assert distances.kernel_distance(*big, subset=20, seed=3) == distances.kernel_distance(*big, subset=20, seed=3)
    assert distances.kernel_distance(*big, subset=20, seed=3) != distances.kernel_distance(*big, subset=20, seed=4)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_sums_of_batches_are_the_moments_of_all(size):
    x = _normal(200, 5) * 3 + 100  # far from 0, where sums of squares cancel
    sums = distances.Sums(5)
    for part in x.split(size):
        sums.add(part)
    whole = distances.moments(x)
    torch.testing.assert_close(sums.gaussian().mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.gaussian().cov, whole.cov, rtol=1e-9, atol=1e-9)
    assert distances.frechet(sums.gaussian(), whole) == pytest.approx(0, abs=1e-6)


def test_gaussian_mmd_of_a_set_with_itself_is_zero_and_follows_the_closed_form():
    x, y = _normal(2000, 3), _normal(2000, 3, seed=1) + 0.5
    assert distances.gaussian_mmd(x, x, 1.0, block=300) == 0
    # E exp(-|a - b|^2 / 2 s^2) of a - b ~ N(m, 2 I) is (s^2 / (s^2 + 2))^(d / 2) exp(-|m|^2 / (2 (s^2 + 2)))
    expected = 2 * (1 / 3) ** 1.5 * (1 - math.exp(-0.75 / 6))
    assert distances.gaussian_mmd(x, y, 1.0, block=300) == pytest.approx(expected, abs=0.004)
    assert distances.gaussian_mmd(x, y, 1.0, block=300) == pytest.approx(distances.gaussian_mmd(x, y, 1.0), rel=1e-9)


def test_gaussian_mmd_matches_the_formula():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])
    k = lambda apart: math.exp(-(apart**2) / (2 * 2.0**2))  # noqa: E731
    assert distances.gaussian_mmd(x, y, 2.0) == pytest.approx((2 + 2 * k(1)) / 4 + 1 - 2 * (k(3) + k(2)) / 2)


def test_principal_components_find_the_plane_and_keep_distances_in_it():
    plane = _normal(300, 2).double() * torch.tensor([5.0, 2.0])
    basis = torch.linalg.qr(_normal(10, 10, seed=2)).Q[:2].double()  # (2, 10)
    x = plane @ basis + 7
    projected = distances.principal(x, 2)(x)
    assert projected.var(0)[0] > projected.var(0)[1]
    torch.testing.assert_close(torch.cdist(projected, projected), torch.cdist(plane, plane).double(), atol=1e-4, rtol=1e-4)
    assert distances.principal(x, 64).basis.shape == (10, 10)  # no more components than dimensions


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_nearest_neighbour(chunk):
    reference = _normal(40, 6)
    distance, index = distances.nearest_neighbour(reference[[5, 31]] * 3, reference, chunk)  # the cosine ignores the length
    assert index.tolist() == [5, 31]
    assert distance.abs().max() < 1e-6
    assert distances.nearest_neighbour(-reference[:1], reference[:1])[0].item() == pytest.approx(2)


def test_probe_separates_shifted_classes():
    label = torch.arange(300) % 3
    x = _normal(300, 5) + 4 * torch.nn.functional.one_hot(label, 5)
    fit = distances.probe(x[:200], label[:200])
    assert (fit(x[200:]) == label[200:]).float().mean() > 0.95


@pytest.mark.parametrize(
    "call",
    [
        lambda: distances.moments(torch.zeros(1, 3)),
        lambda: distances.Sums(3).gaussian(),
        lambda: distances.gaussian_mmd(torch.zeros(0, 3), torch.zeros(5, 3), 1.0),
        lambda: distances.kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3)),
        lambda: distances.principal(torch.zeros(5, 3), 0),
    ],
)
def test_too_little_is_one_clear_line(call):
    with pytest.raises(MultigenError, match="at least"):
        call()
