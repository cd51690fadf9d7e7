"""Parts of molecules that are given in training, drawn at random; `modalities.molecule.given` reads one from a file.

A part is connected and leaves at least one atom to be made: a model that was trained with parts of all sizes starts from any.
What is given keeps its atoms, its coordinates, its charges and the bonds inside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigen.random import Noise


def drawn(bonds: NDArray[Any], noise: Noise) -> NDArray[np.bool_]:
    """A connected part: a random atom, and others in the order in which they are reached along bonds.

    Args:
        bonds: (N, N), 0 where there is none.
        noise: of one example, which decides the first atom, the size and the order.

    Returns:
        Bool (N,), True = given; at least one and at most N - 1 atoms (none, if there is only one).
    """
    count = len(bonds)
    if count < 2:
        return np.zeros(count, np.bool_)
    size = 1 + int(noise.fold("size").integers(count - 1))
    rank = noise.fold("rank").uniform([count])[0].numpy()  # (N,)
    given = np.zeros(count, np.bool_)  # (N,)
    given[int(rank.argmax())] = True
    while given.sum() < size:
        near = (np.asarray(bonds)[given] != 0).any(0) & ~given  # (N,)
        if not near.any():
            break  # the molecule has no more that hangs together
        given[int(np.where(near, rank, -1).argmax())] = True
    return given
