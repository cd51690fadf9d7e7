"""The features of ProteinMPNN's CA-only variant: distances within and orientations of the CA trace.

A residue's frame comes from the two steps of the trace at it (Ingraham et al. 2019, "Generative models for graph-based protein
design", section 2.1), and its neighbour's place is seen from there. The rotation between two frames is not: the published
network, whose weights these features are for, writes it in the axes of the file (O_i^T O_j, with the frame's axes as rows).
What it says therefore depends on how the molecule is turned, though not on where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad, relu

from modalities.protein.features import EdgeFeatures, pair_distances
from modalities.protein.layers import Neighbourhood

_CA = 1
_BEFORE, _HERE, _AFTER = range(3)
_PAIRS = (
    *((_HERE, _HERE), (_BEFORE, _BEFORE), (_AFTER, _AFTER), (_BEFORE, _HERE), (_BEFORE, _AFTER)),
    *((_HERE, _BEFORE), (_HERE, _AFTER), (_AFTER, _BEFORE), (_AFTER, _HERE)),
)
"""CA before, of and after residue i; the same of residue j: the order in which the published weights read the distances."""
_FAR = 1e4
"""Where a missing neighbour in the chain is put: out of reach of every distance basis, whatever the molecule's place."""
_STEP = (3.6, 4.0)
"""Angstrom between two CA that a trans peptide bond joins."""


class TraceFeatures(EdgeFeatures):
    """As `EdgeFeatures`, of CA alone: nine distances, direction and rotation (quaternion) of each neighbour."""

    def __init__(self, width: int = 128) -> None:
        super().__init__(width, distances=len(_PAIRS), further=7)

    def lengths(self, backbone: Tensor, known: Tensor, near: Neighbourhood) -> Tensor:
        here, far = backbone[:, :, _CA], backbone.new_tensor(_FAR)  # (B, L, 3), ()
        trace = torch.where(known[..., None], here, far)  # (B, L, 3)
        before = torch.cat([far.expand_as(trace[:, :1]), trace[:, :-1]], 1)  # (B, L, 3)
        after = torch.cat([trace[:, 1:], far.expand_as(trace[:, :1])], 1)  # (B, L, 3)
        return pair_distances(torch.stack([before, here, after], 2), _PAIRS, known, near)  # (B, L, K, 9)

    def extra(self, backbone: Tensor, known: Tensor, near: Neighbourhood) -> Tensor:
        place = backbone[:, :, _CA]  # (B, L, 3)
        frame = _frames(place, known)  # (B, L, 3, 3)
        apart = near.gather(place) - place[:, :, None]  # (B, L, K, 3)
        direction = normalize((frame[:, :, None] @ apart[..., None])[..., 0], dim=-1)  # (B, L, K, 3)
        rotation = frame.transpose(-1, -2)[:, :, None] @ near.gather(frame)  # (B, L, K, 3, 3)
        return torch.cat([direction, _quaternion(rotation)], -1)  # (B, L, K, 7)


def _frames(place: Tensor, known: Tensor) -> Tensor:
    """Rows: bisector of the two steps at a residue, their normal, the third axis. (B, L, 3) -> (B, L, 3, 3).

    Zero at the first and the last two residues; a step that no peptide bond makes counts as zero.
    """
    step = place[:, 1:] - place[:, :-1]  # (B, L - 1, 3)
    length = step.norm(dim=-1)  # (B, L - 1)
    joined = known[:, 1:] & known[:, :-1] & (length > _STEP[0]) & (length < _STEP[1])  # (B, L - 1)
    unit = normalize(step * joined[..., None], dim=-1)  # (B, L - 1, 3)
    arrive, leave = unit[:, :-1], unit[:, 1:]  # (B, L - 2, 3) each
    bisector = normalize(arrive - leave, dim=-1)  # (B, L - 2, 3)
    normal = normalize(torch.linalg.cross(arrive, leave), dim=-1)  # (B, L - 2, 3)
    frame = torch.stack([bisector, normal, torch.linalg.cross(bisector, normal)], -2)  # (B, L - 2, 3, 3)
    # the end is where the last known residue is, so that padding moves nothing
    index = torch.arange(place.shape[1], device=place.device)  # (L,)
    end = (index * known).amax(1, keepdim=True)  # (B, 1)
    frame = pad(frame, (0, 0, 0, 0, 1, 1))[:, : place.shape[1]]  # (B, L, 3, 3)
    return frame * (index < end - 1)[..., None, None]  # (B, L, 3, 3)


def _quaternion(rotation: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4): x, y, z, w, from the diagonal up to signs and from the differences across it the signs."""
    xx, yy, zz = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)  # (...) each
    squares = torch.stack([xx - yy - zz, yy - xx - zz, zz - xx - yy], -1) + 1  # (..., 3)
    skew = rotation - rotation.transpose(-1, -2)  # (..., 3, 3)
    signs = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1).sign()  # (..., 3)
    w = relu(1 + xx + yy + zz).sqrt()  # (...)
    return normalize(torch.cat([signs * squares.abs().sqrt(), w[..., None]], -1), dim=-1)  # (..., 4)
