"""Atomic environment vectors (Smith et al. 2017, Chem. Sci. 8, eqs. 3 and 4): the surroundings of an atom as 384 numbers.

They know of distances and angles alone: turning, moving and reflecting a molecule, and the order of its atoms, change nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPECIES = ("H", "C", "N", "O")
RADIAL, ANGULAR = 5.2, 3.5
"""Angstrom: neighbours further away are not seen, alone and in pairs."""
_RADII = tuple(0.9 + 0.26875 * k for k in range(16))
_PAIR_RADII, _ANGLES = tuple(0.9 + 0.65 * k for k in range(4)), tuple((2 * k + 1) * math.pi / 16 for k in range(8))
_ETA_RADIAL, _ETA_ANGULAR, _ZETA = 16.0, 8.0, 32.0
_PAIRS = [(a, b) for a in range(len(SPECIES)) for b in range(a, len(SPECIES))]
WIDTH = len(SPECIES) * len(_RADII) + len(_PAIRS) * len(_PAIR_RADII) * len(_ANGLES)
"""384."""


def environments(coords: Tensor, species: Tensor) -> Tensor:
    """Of each atom of a batch.

    Args:
        coords: (B, N, 3), in Angstrom.
        species: Long (B, N), into `SPECIES`; -1 where padded.

    Returns:
        (B, N, 384), 0 where padded.
    """
    apart = coords[:, None] - coords[:, :, None]  # (B, N, N, 3), from the second index to the third
    real = species >= 0  # (B, N)
    squared = torch.where(real[:, :, None] & real[:, None], apart.square().sum(-1), torch.inf)  # (B, N, N)
    distance = squared.sqrt() + torch.diag(squared.new_full([coords.shape[1]], torch.inf))  # (B, N, N)
    angular = _angular(distance, apart, species)  # (B N, 10, 32)
    return torch.cat([_radial(distance, species).flatten(1), angular.flatten(1)], -1).view(*species.shape, WIDTH)


def _radial(distance: Tensor, species: Tensor) -> Tensor:
    """Sums over neighbours of each species: (B N, 4, 16)."""
    row, i, j = (distance <= RADIAL).nonzero().T  # (P,) each
    r = distance[row, i, j][:, None]  # (P, 1)
    term = 0.25 * (-_ETA_RADIAL * (r - r.new_tensor(_RADII)) ** 2).exp() * _cutoff(r, RADIAL)  # (P, 16)
    return _summed(term, row * species.shape[1] + i, species[row, j], species.numel(), len(SPECIES))


def _angular(distance: Tensor, apart: Tensor, species: Tensor) -> Tensor:
    """Sums over pairs of neighbours of each two species: (B N, 10, 32)."""
    near = distance <= ANGULAR  # (B, N, N)
    first = torch.ones_like(near[0]).triu(1)  # (N, N)
    row, i, j, k = (near[:, :, :, None] & near[:, :, None] & first).nonzero().T  # (T,) each
    a, b = distance[row, i, j], distance[row, i, k]  # (T,) each
    cosine = (apart[row, i, j] * apart[row, i, k]).sum(-1) / (a * b)  # (T,)
    angle = (0.95 * cosine).acos()[:, None]  # (T, 1): as the published networks see it, away from the ends of the arc cosine
    turned = ((1 + (angle - angle.new_tensor(_ANGLES)).cos()) / 2) ** _ZETA  # (T, 8)
    far = (-_ETA_ANGULAR * ((a + b)[:, None] / 2 - a.new_tensor(_PAIR_RADII)) ** 2).exp()  # (T, 4)
    term = 2 * (_cutoff(a, ANGULAR) * _cutoff(b, ANGULAR))[:, None, None] * far[:, :, None] * turned[:, None]  # (T, 4, 8)
    kind = _kinds(species.device)[species[row, j], species[row, k]]  # (T,)
    return _summed(term.flatten(1), row * species.shape[1] + i, kind, species.numel(), len(_PAIRS))


def _cutoff(r: Tensor, most: float) -> Tensor:
    return 0.5 * (r * (math.pi / most)).cos() + 0.5  # like r


def _kinds(device: torch.device) -> Tensor:
    """Two species, in either order -> the number of the pair: Long (4, 4)."""
    found = torch.zeros(len(SPECIES), len(SPECIES), dtype=torch.long, device=device)  # (4, 4)
    for number, (a, b) in enumerate(_PAIRS):
        found[a, b] = found[b, a] = number
    return found


def _summed(term: Tensor, atom: Tensor, kind: Tensor, atoms: int, kinds: int) -> Tensor:
    """Terms (T, D) added up by atom and kind: (atoms, kinds, D)."""
    total = term.new_zeros(atoms * kinds, term.shape[-1])  # (atoms kinds, D)
    return total.index_add(0, atom * kinds + kind, term).view(atoms, kinds, -1)
