"""Precision and recall of samples: the supports of two distributions, estimated by balls around their examples.

The support of a set is the union of balls around its members, each with the distance to its k-th nearest fellow as radius.
Everything is computed in float64 and in blocks: memory does not grow with the product of the sets' sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from multigen.distances import squared
from multigen.state import MultigenError

BLOCK = 2048
"""Rows and columns compared at a time."""


@dataclass(frozen=True)
class Overlap:
    """How two sets, samples and real data, lie in one another's support. Each is a share between 0 and 1.

    Precision and recall are those of Kynkaanniemi et al. (2019, eq. 1-2). In many dimensions they lose their symmetry: which
    of two sets has the larger balls decides, so Khayatkhoei and AbdAlmageed (2023) take with each its complement, which asks
    the same of the other set's balls, and keep the smaller one. They presume sets of equal size.
    """

    precision: float
    """Of samples that lie in a ball of a real example."""
    recall: float
    """Of real examples that lie in a ball of a sample."""
    complement_precision: float
    """Of samples in whose ball a real example lies."""
    complement_recall: float
    """Of real examples in whose ball a sample lies; also called coverage (Naeem et al. 2020)."""

    @property
    def symmetric_precision(self) -> float:
        return min(self.precision, self.complement_precision)

    @property
    def symmetric_recall(self) -> float:
        return min(self.recall, self.complement_recall)


def overlap(made: Tensor, real: Tensor, k: int = 3, block: int = BLOCK) -> Overlap:
    """Precision and recall of features.

    Args:
        made: of samples (N, D).
        real: of real examples (M, D).
        k: the neighbour whose distance is a ball's radius.
        block: rows and columns compared at a time.

    Raises:
        MultigenError: a set has no k-th neighbour.
    """
    radius, bound = radii(made, k, block), radii(real, k, block)  # (N,), (M,)
    in_real, holds_real = (torch.zeros_like(radius, dtype=torch.bool) for _ in range(2))  # (N,), (N,)
    in_made, holds_made = (torch.zeros_like(bound, dtype=torch.bool) for _ in range(2))  # (M,), (M,)
    for rows, columns in product(_blocks(made, block), _blocks(real, block)):
        apart = squared(made[rows], real[columns])  # (n, m)
        by_real, by_made = apart <= bound[columns], apart <= radius[rows, None]  # (n, m), (n, m)
        in_real[rows] |= by_real.any(1)
        holds_real[rows] |= by_made.any(1)
        in_made[columns] |= by_made.any(0)
        holds_made[columns] |= by_real.any(0)
    return Overlap(*(float(share.double().mean()) for share in (in_real, in_made, holds_real, holds_made)))


def _blocks(x: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(x), size)]


def radii(x: Tensor, k: int, block: int = BLOCK) -> Tensor:
    """Squared distance of each vector of x (N, D) to its k-th nearest other one: Double (N,)."""
    if k < 1 or len(x) <= k:
        raise MultigenError(f"neighbour {k} needs at least {max(k, 1) + 1} examples, got {len(x)}")
    return torch.cat([_kth(rows, x, k + 1, block) for rows in x.split(block)])  # the nearest is the vector itself


def _kth(rows: Tensor, x: Tensor, k: int, block: int) -> Tensor:
    """The k-th smallest squared distance of each row (n, D) to x (N, D): Double (n,)."""
    best = torch.full((len(rows), k), torch.inf, dtype=torch.float64, device=x.device)  # (n, k)
    for columns in x.split(block):
        best = torch.cat([best, squared(rows, columns)], 1).topk(k, 1, largest=False).values  # (n, k)
    return best[:, -1]
