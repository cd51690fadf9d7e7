"""How far apart two sets of feature vectors are: the mathematics of sample quality, of any domain.

Features come from a frozen encoder that the caller names; none of these numbers is "FID", which is the first of them in the
features of one particular network. Everything is computed in float64 and is a pure function of its arguments.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from multigen.random import Noise, keys
from multigen.state import MultigenError


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features."""

    mean: Tensor
    """Double (D,)."""
    cov: Tensor
    """Double (D, D)."""


class Principal(NamedTuple):
    """A projection to principal components, fitted once on a reference set and then held fixed."""

    mean: Tensor
    """Double (D,)."""
    basis: Tensor
    """Double (D, C), orthonormal columns."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) -> Double (B, C)."""
        return (x.double() - self.mean) @ self.basis


def principal(x: Tensor, components: int) -> Principal:
    """The first principal components of features x (B, D), `components` of them at most."""
    if components < 1:
        raise MultigenError(f"the number of principal components must be at least 1, got {components}")
    gaussian = moments(x)
    vectors = torch.linalg.eigh(gaussian.cov).eigenvectors  # (D, D), ascending
    return Principal(gaussian.mean, vectors[:, -components:].flip(1))  # (D,), (D, C)


def moments(x: Tensor) -> Gaussian:
    """Mean and unbiased covariance of features x (B, D).

    Raises:
        MultigenError: fewer than 2 examples.
    """
    if len(x) < 2:
        raise MultigenError(f"a covariance needs at least 2 examples, got {len(x)}")
    centred = x.double() - x.double().mean(0)  # (B, D)
    return Gaussian(x.double().mean(0), centred.T @ centred / (len(x) - 1))  # (D,), (D, D)


class Sums:
    """Count, sum and sum of outer products of features that come in batches: a Gaussian, in memory that does not grow.

    Sums of several processes are those of all of them, added up.

    Args:
        width: of the features, D.
        device: where the sums lie.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)  # ()
        self.total = torch.zeros(width, dtype=torch.float64, device=device)  # (D,)
        self.outer = torch.zeros(width, width, dtype=torch.float64, device=device)  # (D, D)

    def add(self, x: Tensor) -> None:
        """Take in features (B, D)."""
        x = x.double()  # (B, D)
        self.count += len(x)
        self.total += x.sum(0)
        self.outer.addmm_(x.T, x)

    def gaussian(self) -> Gaussian:
        """As `moments` of all that came in, to rounding.

        Raises:
            MultigenError: fewer than 2 examples.
        """
        if self.count < 2:
            raise MultigenError(f"a covariance needs at least 2 examples, got {int(self.count)}")
        mean = self.total / self.count  # (D,)
        return Gaussian(mean, (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1))  # (D,), (D, D)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians (Dowson and Landau 1982, eq. 4).

    ``|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a^(1/2) cov_b cov_a^(1/2))^(1/2))``; the symmetric form of the root keeps
    it real and tolerates covariances without full rank. It is biased upwards for small sets: compare only at equal counts.
    """
    values, vectors = torch.linalg.eigh(a.cov)  # (D,), (D, D)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # (D, D)
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()  # ()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross  # ()
    return max(float(distance), 0.0)


def kernel_distance(x: Tensor, y: Tensor, subset: int = 500, subsets: int = 50, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3``, unbiased (Binkowski et al. 2018, "KID").

    Args:
        x: features (N, D).
        y: features (M, D).
        subset: size of the random subsets that are compared, cut to min(N, M).
        subsets: how many of them.
        seed: chooses the subsets.

    Returns:
        Mean and standard deviation over the subsets. The mean may be slightly negative: an unbiased estimate of 0 is.
    """
    size = min(subset, len(x), len(y))
    if size < 2:
        raise MultigenError(f"a kernel distance needs at least 2 examples in each set, got {len(x)} and {len(y)}")
    noise = Noise(keys(seed, range(subsets), "kernel_distance"))
    rows = noise.fold("x").uniform([len(x)]).argsort(1)[:, :size]  # (S, n)
    columns = noise.fold("y").uniform([len(y)]).argsort(1)[:, :size]  # (S, n)
    values = torch.stack([_mmd(x[i].double(), y[j].double()) for i, j in zip(rows, columns, strict=True)])  # (S,)
    return float(values.mean()), float(values.std(unbiased=False))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """(n, D), (n, D) -> (): the unbiased estimate leaves the diagonals out."""
    n, d = x.shape
    within = sum((k.sum() - k.trace() for k in (((a @ a.T) / d + 1) ** 3 for a in (x, y))), torch.zeros(()))  # ()
    return within / (n * (n - 1)) - 2 * ((x @ y.T / d + 1) ** 3).mean()


def gaussian_mmd(x: Tensor, y: Tensor, sigma: float, block: int = 4096) -> float:
    """Squared maximum mean discrepancy with the kernel ``exp(-|x - y|^2 / (2 sigma^2))``.

    The V-statistic, which keeps the diagonals (Gretton et al. 2012, eq. 5): never negative, and 0 of a set with itself.

    Args:
        x: features (N, D).
        y: features (M, D).
        sigma: width of the kernel.
        block: rows and columns compared at a time, which bounds memory.
    """
    if not len(x) or not len(y):
        raise MultigenError(f"a kernel distance needs at least 1 example in each set, got {len(x)} and {len(y)}")
    xx, yy, xy = (_mean_kernel(a, b, sigma, block) for a, b in ((x, x), (y, y), (x, y)))
    return max(xx + yy - 2 * xy, 0.0)


def _mean_kernel(x: Tensor, y: Tensor, sigma: float, block: int) -> float:
    parts = [squared(a, b).div_(-2 * sigma**2).exp_().sum() for a in x.split(block) for b in y.split(block)]  # () each
    return float(torch.stack(parts).sum()) / (len(x) * len(y))


def squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances of features (N, D) and (M, D): Double (N, M)."""
    x, y = x.double(), y.double()  # (N, D), (M, D)
    product = x @ y.T  # (N, M)
    return (product.mul_(-2) + x.square().sum(1)[:, None] + y.square().sum(1)).clamp_(min=0)


def nearest_neighbour(x: Tensor, reference: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The nearest vector of a reference set by cosine.

    Args:
        x: features (B, D).
        reference: features (N, D).
        chunk: rows compared at a time, which bounds memory.

    Returns:
        Distance ``1 - cosine``, Double (B,), and its index, Long (B,).
    """
    target = torch.nn.functional.normalize(reference.double(), dim=-1)  # (N, D)
    source = torch.nn.functional.normalize(x.double(), dim=-1)  # (B, D)
    best = [(part @ target.T).max(1) for part in source.split(chunk)]
    return 1 - torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])  # (B,), (B,)


class Probe(NamedTuple):
    """A linear classifier on standardised features."""

    mean: Tensor
    """Double (D,)."""
    scale: Tensor
    """Double (D,)."""
    weight: Tensor
    """Double (D + 1, K), the last row being the bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D) -> class Long (B,)."""
        return (_with_one((x.double() - self.mean) / self.scale) @ self.weight).argmax(-1)


def probe(x: Tensor, label: Tensor, decay: float = 1e-2, steps: int = 100) -> Probe:
    """Fit multinomial logistic regression with an L2 penalty by L-BFGS.

    Args:
        x: features (B, D).
        label: Long (B,).
        decay: penalty on half the squared norm of the weights, bias included.
        steps: iterations at most.
    """
    mean, scale = x.double().mean(0), x.double().std(0).clamp(min=1e-6)  # (D,), (D,)
    inputs = _with_one((x.double() - mean) / scale)  # (B, D + 1)
    weight = torch.zeros(inputs.shape[1], int(label.max()) + 1, dtype=torch.float64, requires_grad=True)  # (D + 1, K)
    optimizer = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(inputs @ weight, label) + decay / 2 * weight.square().sum()  # ()
            loss.backward()
        return loss

    optimizer.step(closure)
    return Probe(mean, scale, weight.detach())


def _with_one(x: Tensor) -> Tensor:
    """(B, D) -> (B, D + 1)."""
    return torch.cat([x, x.new_ones(len(x), 1)], -1)
