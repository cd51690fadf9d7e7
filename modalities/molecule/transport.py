"""Equivariant optimal transport between noise and data: which atom of noise goes to which of the molecule, and its rotation.

Coordinates of noise are exchangeable and have no orientation, so a draw may be permuted and rotated without changing its law.
Done for each pair of a noise and a molecule, this shortens the paths (Klein et al. 2023, arXiv 2306.15030; Song et al. 2023).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 3)."""


def paired(noise: Points, clean: Points, turn: bool = True, rounds: int = 1) -> Points:
    """A draw of noise, permuted and rotated towards a molecule.

    The assignment is the best for the orientation it starts from (Hungarian method on squared distances), then the rotation is
    the best for that assignment (Kabsch 1976); each lowers the cost, or leaves it.

    Args:
        noise, clean: (N, 3); where they are to be turned, with their centres at the origin.
        turn: rotate too; without it, where some atoms are fixed and space has an orientation, atoms are assigned only.
        rounds: how often both are done.

    Returns:
        (N, 3): the noise in the molecule's order.
    """
    for _ in range(rounds):
        noise = noise[assigned(noise, clean)]  # (N, 3)
        noise = noise @ rotation(noise, clean).T if turn else noise  # (N, 3)
    return noise


def assigned(noise: Points, clean: Points) -> NDArray[np.int64]:
    """Which point of the noise goes to each point of the molecule, for the least sum of squared distances: (N,)."""
    from scipy.optimize import linear_sum_assignment

    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, of which only the product depends on the assignment
    return linear_sum_assignment(-clean @ noise.T)[1]  # (N,)


def rotation(moved: Points, fixed: Points) -> NDArray[np.float64]:
    """The proper rotation R (3, 3) for which the rows of `moved` R^T are nearest to those of `fixed` (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(fixed.T @ moved)  # (3, 3), (3,), (3, 3)
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0
    return u @ np.diag([1.0, 1.0, sign]) @ vt  # (3, 3)


def cost(a: Points, b: Points) -> float:
    """Sum of squared distances of points in the same order."""
    return float(((a - b) ** 2).sum())
