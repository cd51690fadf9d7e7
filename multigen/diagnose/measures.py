"""How alike two sets of features of the same N things are: the mathematics, of any domain, in float64.

CKA and CKNNA compare relations between things, so neither width nor rotation matters and nothing is fitted. Cosine and probe
ask what a linear map of one set can tell of the other; they are fitted on some things and measured on others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from multigen.distances import probe
from multigen.random import Noise, keys
from multigen.state import MultigenError


def gram(x: Tensor, unit: bool = False) -> Tensor:
    """Inner products of features x (N, D): Double (N, N). Centred first, or scaled to length 1 if `unit`."""
    x = x.double()
    x = F.normalize(x, dim=-1) if unit else x - x.mean(0)  # (N, D)
    return x @ x.T


def hsic(a: Tensor, b: Tensor, unbiased: bool = True) -> Tensor:
    """Hilbert-Schmidt independence criterion of two Gram matrices (N, N): ().

    Unbiased: the U-statistic of Song et al. 2012, eq. 5, whose mean is 0 for independent features at any N and width. Biased:
    tr(K H L H) / (N - 1)^2 (Gretton et al. 2005), which grows with width over N.
    """
    n = len(a)
    if not unbiased:
        centred = a - a.mean(0) - a.mean(1, keepdim=True) + a.mean()  # (N, N)
        return (centred * b).sum() / (n - 1) ** 2
    a, b = (x - x.diagonal().diag() for x in (a, b))  # (N, N) each
    rows = (a.sum(1) * b.sum(1)).sum()  # ()
    return ((a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def cka(a: Tensor, b: Tensor, unbiased: bool = True) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, section 3) of two `gram`s; nan for features without spread.

    1 for features that are the same but for rotation, scale and shift. With the biased estimate that is Kornblith's number,
    with the unbiased one (Nguyen et al. 2021) independent features give 0 on average, and may give a little less.
    """
    _enough(a, 4)
    return _ratio(hsic(a, b, unbiased), hsic(a, a, unbiased), hsic(b, b, unbiased))


def cknna(a: Tensor, b: Tensor, neighbours: int = 10) -> float:
    """Centred kernel nearest-neighbour alignment (Huh et al. 2024, arXiv 2405.07987, appendix A) of two unit `gram`s.

    CKA that looks only at pairs who are among each other's nearest in both sets::

        align(A, B) = sum_ij n_ij (A_ij - mean_i A) (B_ij - mean_i B),   n_ij = 1 if j is of i's `neighbours` nearest in both
        CKNNA = align(A, B) / sqrt(align(A, A) align(B, B))

    A thing is no neighbour of itself and stays out of its means. Features that know nothing of one another score about
    ``neighbours / (N - 1)``, the share of pairs that meet by chance. (The authors' program takes an estimator of HSIC over
    the same pairs, and gives numbers close to these.)
    """
    _enough(a, neighbours + 2)
    near = [_nearest(x, neighbours) for x in (a, b)]  # Bool (N, N) each
    a, b = (x - _row_mean(x) for x in (a, b))  # (N, N) each
    own = [torch.where(mask, x, 0).square().sum() for x, mask in zip((a, b), near, strict=True)]  # () each
    return _ratio((a * b * (near[0] & near[1])).sum(), *own)


def _nearest(k: Tensor, count: int) -> Tensor:
    """Bool (N, N): whether j is one of the `count` nearest of i."""
    others = k.clone().fill_diagonal_(-float("inf"))  # (N, N)
    return torch.zeros_like(k, dtype=torch.bool).scatter_(1, others.topk(count, 1).indices, True)


def _row_mean(k: Tensor) -> Tensor:
    """(N, 1), without the diagonal."""
    return (k.sum(1, keepdim=True) - k.diagonal()[:, None]) / (len(k) - 1)


def _ratio(cross: Tensor, first: Tensor, second: Tensor) -> float:
    return float(cross / (first * second).sqrt()) if first > 0 and second > 0 else float("nan")


def _enough(k: Tensor, least: int) -> None:
    if len(k) < least:
        raise MultigenError(f"similarity needs at least {least} things, got {len(k)}")


class LinearMap:
    """The best linear map from x (N, D) to y (N, E), by least squares with a ridge on standardised features.

    Args:
        decay: strength of the ridge, over N.
    """

    def __init__(self, x: Tensor, y: Tensor, decay: float = 1e-2) -> None:
        x, y = x.double(), y.double()
        self.mean, self.scale = x.mean(0), x.std(0).clamp(min=1e-6)  # (D,), (D,)
        self.centre = y.mean(0)  # (E,)
        z = (x - self.mean) / self.scale  # (N, D)
        inner = z.T @ z + decay * len(z) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)  # (D, D)
        self.weight = torch.linalg.solve(inner, z.T @ (y - self.centre))  # (D, E)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.double() - self.mean) / self.scale @ self.weight + self.centre  # (N, E)


def cosine(x: Tensor, y: Tensor) -> float:
    """Mean cosine of the rows of x and y (N, D)."""
    return float(F.cosine_similarity(x.double(), y.double(), dim=-1).mean())


def accuracy(x: Tensor, label: Tensor, fit: Tensor) -> float:
    """Share of labels (N,) that a linear classifier of x (N, D) gets right: fitted where `fit` (N,), measured elsewhere."""
    classifier = probe(x[fit], label[fit], steps=50)
    return float((classifier(x[~fit]) == label[~fit]).double().mean())


def clusters(x: Tensor, count: int, seed: int = 0, steps: int = 20) -> Tensor:
    """Which of `count` clusters each row of x (N, D) belongs to, by k-means on the directions of the rows: Long (N,).

    Begun as Arthur and Vassilvitskii 2007 do, with seeded numbers.
    """
    x = F.normalize(x.double(), dim=-1)  # (N, D)
    chance = Noise(keys(seed, range(count), "clusters")).uniform(dtype=torch.float64).to(x.device)  # (C,)
    centres = x[int(chance[0] * len(x))][None]  # (1, D)
    for u in chance[1:]:
        far = _squares(x, centres).min(1).values.cumsum(0)  # (N,)
        drawn = torch.searchsorted(far, u * far[-1]).clamp(max=len(x) - 1)  # ()
        centres = torch.cat([centres, x[drawn][None]])  # (c, D)
    for _ in range(steps):
        one_hot = F.one_hot(_squares(x, centres).argmin(1), count).to(x.dtype)  # (N, C)
        size = one_hot.sum(0)[:, None]  # (C, 1)
        centres = torch.where(size > 0, one_hot.T @ x / size.clamp(min=1), centres)  # (C, D)
    return _squares(x, centres).argmin(1)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (N, M)."""
    return torch.cdist(x, y).square()
