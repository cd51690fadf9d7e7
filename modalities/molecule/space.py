"""A molecule as balls and sticks, seen from the side that shows most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.chemistry import HYDROGEN
from modalities.molecule.sample import Molecule
from modalities.molecule.vocabulary import BONDS, ELEMENTS
from multigen.files import atomic_write

COLOURS = {"H": "#dfe3ea", "C": "#50555f", "N": "#2f5fd0", "O": "#d93025", "F": "#3f9e4d", "P": "#e07b16", "S": "#d8a800"}
COLOURS |= {"Cl": "#2e8b57", "Br": "#8c3b1f", "I": "#7a3fa0"}
OTHER = "#c06c9a"


def principal(coords: NDArray[Any]) -> NDArray[np.float64]:
    """Coordinates (N, 3) about their centre, in proper axes of falling spread."""
    centred = np.asarray(coords, np.float64) - np.mean(coords, 0, dtype=np.float64)  # (N, 3)
    axes = np.linalg.svd(centred, full_matrices=True)[2]  # (3, 3)
    axes[2] *= np.sign(np.linalg.det(axes)) or 1.0
    return centred @ axes.T  # (N, 3)


def in_space(sample: Molecule, path: Path) -> Path:
    """Write a molecule as balls and sticks (PNG)."""
    from matplotlib.figure import Figure

    places = principal(sample.coords)  # (N, 3)
    places = places / max(float(np.abs(places[:, :2]).max(initial=0)), 2.5)
    figure = Figure(figsize=(3.4, 3.4))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
    axes.axis("off")
    shades = [COLOURS.get(ELEMENTS[element], OTHER) for element in sample.atoms.tolist()]
    unit = _bond_length(places, sample.bonds)
    for i, j in np.argwhere(np.triu(sample.bonds, 1)).tolist():
        _stick(axes, places[[i, j]], (shades[i], shades[j]), BONDS[int(sample.bonds[i, j])], unit)
    for place, shade, element in zip(places, shades, sample.atoms.tolist(), strict=True):
        size = (unit * (0.17 if element == HYDROGEN else 0.26) * 3.4 * 72 / 2.3 * 2) ** 2
        axes.scatter(place[0], place[1], s=size, color=shade, edgecolors="#00000055", linewidths=0.6, zorder=place[2])
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=160)
    return path


def _bond_length(places: NDArray[Any], bonds: NDArray[Any]) -> float:
    """Median, on the paper's scale."""
    i, j = np.nonzero(np.triu(bonds, 1))
    return float(np.median(np.linalg.norm(places[i] - places[j], axis=-1))) if len(i) else 0.3


def _stick(axes: Any, ends: NDArray[np.float64], shades: tuple[str, str], bond: str, unit: float) -> None:
    """A bond, each half in the colour of its atom; double and triple ones as parallel lines, aromatic ones half dashed."""
    along = ends[1, :2] - ends[0, :2]  # (2,)
    across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-6) * unit * 0.11  # (2,)
    shifts = {"double": (-0.7, 0.7), "triple": (-1.3, 0, 1.3), "aromatic": (-0.7, 0.7)}.get(bond, (0,))
    width = unit * (0.2 if len(shifts) == 1 else 0.1) * 3.4 * 72 / 2.3
    middle = ends.mean(0)  # (3,)
    for k, shift in enumerate(shifts):
        style = (0, (1.2, 0.8)) if bond == "aromatic" and k else "-"
        for end, shade in zip(ends, shades, strict=True):
            half = np.stack([end, middle])[:, :2] + shift * across  # (2, 2)
            depth = (end[2] + middle[2]) / 2
            axes.plot(*half.T, color=shade, linewidth=width, linestyle=style, zorder=depth, solid_capstyle="round")
