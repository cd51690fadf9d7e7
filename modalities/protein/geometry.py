"""Where atoms of a backbone must lie, from those that are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N, CA, C, O = range(4)  # noqa: E741 - the atom's name
"""Places of the atoms in a backbone (L, 4, 3)."""

CARBONYL = 1.231
"""Length of C=O in Angstrom (Engh and Huber 1991)."""
CA_C_O = 2.103
"""Angle CA-C-O in radians, 120.5 degrees."""
LAST_O = 2.443
"""Torsion N-CA-C-O in radians where no residue follows: psi = -40 degrees, and O opposite to the next N."""
BOND = 2.0
"""Angstrom between C and the next N up to which they count as bonded; the bond is 1.33 long."""


def bonded(backbone: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(L, 4, 3) -> (L,): whether a peptide bond leads to the next residue. False for the last and where an atom is missing."""
    gap = np.linalg.norm(backbone[1:, N] - backbone[:-1, C], axis=-1)  # (L - 1,)
    return np.append(gap < BOND, False)[: len(backbone)]  # (L,); a comparison with NaN is false


def place_oxygen(backbone: NDArray[np.floating]) -> NDArray[np.floating]:
    """Put O where N, CA and C are known and O alone is not.

    O lies `CARBONYL` from C in the peptide plane, opposite to the bisector of the directions to CA and to the next N (three
    bonds of an sp2 carbon). Where no bonded residue follows, the torsion is that of a helix.

    Args:
        backbone: (L, 4, 3) N, CA, C, O in Angstrom, NaN where missing; chains may follow one another.

    Returns:
        A copy (L, 4, 3); atoms that were known are the same.
    """
    placed = np.array(backbone)  # (L, 4, 3)
    oxygen = np.where(bonded(backbone)[:, None], _in_plane(placed), _after_helix(placed))  # (L, 3)
    missing = np.isnan(placed[:, O]).any(-1)  # (L,)
    placed[missing, O] = oxygen[missing]
    return placed


def _in_plane(backbone: NDArray[np.floating]) -> NDArray[np.floating]:
    """(L, 4, 3) -> (L, 3): O opposite to the bisector of CA and the next N."""
    following = np.roll(backbone[:, N], -1, axis=0)  # (L, 3); the last one's is not used
    inward = _unit(backbone[:, CA] - backbone[:, C]) + _unit(following - backbone[:, C])  # (L, 3)
    return backbone[:, C] - CARBONYL * _unit(inward)


def _after_helix(backbone: NDArray[np.floating]) -> NDArray[np.floating]:
    """(L, 4, 3) -> (L, 3): O from N, CA and C by its bond, angle and torsion."""
    return extend(backbone[:, N], backbone[:, CA], backbone[:, C], CARBONYL, CA_C_O, LAST_O)


def extend(
    a: NDArray[np.floating], b: NDArray[np.floating], c: NDArray[np.floating], length: float, angle: float, torsion: float
) -> NDArray[np.floating]:
    """The atom d of a chain a-b-c-d, each (..., 3) in Angstrom: |cd| = `length`, angle bcd and torsion abcd in radians.

    The natural extension reference frame (Parsons et al. 2005, eq. 4-6).
    """
    forward = _unit(c - b)  # (..., 3)
    normal = _unit(np.cross(b - a, forward))  # (..., 3)
    side = np.cross(normal, forward)  # (..., 3)
    up, out = np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)
    return c + length * (-np.cos(angle) * forward + up * side + out * normal)  # (..., 3)


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., 3) -> (..., 3) of length 1; no warning where it is zero."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
