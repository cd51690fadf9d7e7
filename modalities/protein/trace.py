"""A backbone as a picture: a tube through its alpha carbons, in colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein import palette
from modalities.protein.palette import INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CA = 1
"""Place of the alpha carbon among the four atoms of a backbone."""
BROKEN = 4.5
"""Angstrom between the alpha carbons of neighbours beyond which a chain is broken; bonded ones are 3.8 apart."""


def trace(backbone: NDArray[Any], chain: NDArray[Any], values: NDArray[Any] | None, path: Path, what: str = "") -> Path:
    """A backbone as a tube through its alpha carbons, seen along its shortest axis (PNG).

    Args:
        backbone: (L, 4, 3) in Angstrom, NaN where missing.
        chain: (L,), numbers of the chains.
        values: (L,), 0 to 1, the colour of each residue; None for one colour.
        what: the values' name.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    segments, depth, at = _tube(_turned(backbone[:, CA]), chain)
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.add_axes((0.02, 0.14, 0.96, 0.84))
    shades = palette.scale()(np.full(len(at), 0.6) if values is None else np.asarray(values, np.float64)[at])  # (S, 4)
    _draw_tube(axes, segments, depth, shades)
    if values is not None:
        bar = figure.colorbar(
            ScalarMappable(cmap=palette.scale()), cax=figure.add_axes((0.3, 0.09, 0.4, 0.025)), orientation="horizontal"
        )
        bar.set_label(what, color=SOFT, fontsize=8)
        bar.ax.tick_params(labelsize=7.5, colors=SOFT, length=0)
        bar.outline.set_visible(False)
    return palette.save(figure, path)


def _turned(points: NDArray[Any]) -> NDArray[np.float64]:
    """(L, 3): centred, the longest axis to the right and the shortest towards the reader."""
    x = np.asarray(points, np.float64)  # (L, 3)
    there = x[np.isfinite(x).all(1)]  # (M, 3)
    x = x - (there.mean(0) if len(there) else 0)  # (L, 3)
    known = np.nan_to_num(x)  # (L, 3)
    axes = np.linalg.svd(known.T @ known)[0]  # (3, 3)
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # a rotation: the protein's mirror image would be another molecule
    return x @ axes  # (L, 3)


def _tube(points: NDArray[np.float64], chain: NDArray[Any], smooth: int = 8) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """Short pieces of a smooth curve through the points of each unbroken stretch.

    Returns:
        pieces (S, 2, 2), their depths (S,), larger being nearer, and the residue each belongs to (S,).
    """
    from scipy.interpolate import CubicSpline

    step = np.linalg.norm(np.diff(points, axis=0), axis=1)  # (L - 1,)
    cut = ~(step < BROKEN) | (np.diff(chain) != 0)  # (L - 1,), a missing residue cuts too: its distance is NaN
    pieces, depth, at = [np.zeros((0, 2, 2))], [np.zeros(0)], [np.zeros(0, int)]
    for stretch in np.split(np.arange(len(points)), np.flatnonzero(cut) + 1):
        if len(stretch) < 2:
            continue
        fine = np.linspace(stretch[0], stretch[-1], smooth * (len(stretch) - 1) + 1)  # (F,)
        curve = CubicSpline(stretch, points[stretch])(fine)  # (F, 3)
        pieces.append(np.stack([curve[:-1, :2], curve[1:, :2]], 1))  # (F - 1, 2, 2)
        depth.append(curve[:-1, 2])
        at.append(np.round(fine[:-1]).astype(int))
    return np.concatenate(pieces), np.concatenate(depth), np.concatenate(at)


def _draw_tube(axes: Axes, segments: NDArray[Any], depth: NDArray[Any], shades: NDArray[Any]) -> None:
    """From back to front, each piece over its dark edge, so that what is in front covers what is behind; far is paler."""
    from matplotlib.collections import LineCollection

    order = np.argsort(depth)  # (S,)
    far = (depth.max(initial=0) - depth) / max(float(np.ptp(depth)) if len(depth) else 0, 1e-6)  # (S,)
    pale = 0.35 * far[order, None, None]  # (S, 1, 1)
    before, after = np.maximum(order - 1, 0), np.minimum(order + 1, len(order) - 1)  # (S,), (S,)
    joined = [np.where(_touch(segments, order, other), other, order) for other in (before, after)]  # 2 of (S,)
    # the round end of an edge would be seen on the neighbours: their inside is drawn again over it
    lines = np.stack([order, *joined, order], 1)  # (S, 4)
    shown = shades[lines, :3]  # (S, 4, 3)
    shown[:, 0] = palette.tinted(INK, 0.8)
    colours = (shown * (1 - pale) + pale).reshape(-1, 3)  # (4 S, 3)
    widths = np.tile([8.0, 6.0, 6.0, 6.0], len(order))  # (4 S,)
    tube = LineCollection(list(segments[lines.ravel()]), linewidths=widths, colors=list(colours), capstyle="round")
    axes.add_collection(tube)
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0.06)
    axes.set_axis_off()


def _touch(segments: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """(S,): whether pieces a (S,) and b (S,) have an end in common."""
    first, second = np.minimum(a, b), np.maximum(a, b)  # (S,), (S,)
    return (segments[first, 1] == segments[second, 0]).all(-1)
