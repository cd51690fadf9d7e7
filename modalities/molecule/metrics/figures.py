"""Pictures of what metrics of molecules count and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigen.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, DATA, MADE = "#1f2430", "#667085", "#d5d9e2", "#c3c9d6", "#0067a5"


class Panel(NamedTuple):
    """One quantity of samples and of data."""

    title: str
    made: NDArray[Any]
    """(N,)."""
    real: NDArray[Any]
    """(M,)."""
    low: float
    high: float
    """Between which it is drawn; what lies beyond is counted at the ends."""
    note: str = ""


def histograms(rows: Mapping[str, Sequence[Panel]], title: str, path: Path, bins: int = 60) -> Path:
    """Samples as a line over data as an area (PNG): a row of panels for each quantity, whose name is the key."""
    from matplotlib.figure import Figure

    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.75 * columns + 0.3, 2.05 * len(rows) + 0.75))
    grid = figure.add_gridspec(len(rows), columns)
    for y, (label, panels) in enumerate(rows.items()):
        for x, panel in enumerate(panels):
            axes = figure.add_subplot(grid[y, x])
            _histogram(axes, panel, bins)
            axes.set_xlabel(label, color=SOFT, fontsize=7.5, labelpad=2)
    _headed(figure, title)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="upper right", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK, bbox_to_anchor=(0.995, 1.0)
    )
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.38 / height))
    return _save(figure, path)


def _histogram(axes: Axes, panel: Panel, bins: int) -> None:
    edges = np.linspace(panel.low, panel.high, bins + 1)  # (bins + 1,)
    real, made = (_shares(x, edges) for x in (panel.real, panel.made))  # (bins,) each
    axes.stairs(real, edges, fill=True, color=DATA, label="data")
    axes.stairs(made, edges, color=MADE, linewidth=1.3, label="samples")
    axes.set_title(panel.title, fontsize=9, color=INK, pad=4)
    axes.text(0.98, 0.97, panel.note, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=SOFT)
    axes.set(xlim=(panel.low, panel.high), yticks=[], ylim=(0, max(real.max(), made.max(), 1e-9) * 1.28))
    axes.tick_params(labelsize=7.5, colors=SOFT, length=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)


def _shares(x: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins,): of each bin; the ends take in what lies beyond."""
    count = np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0]  # (bins,)
    return count / max(len(x), 1)


def bars(count: Mapping[str, int], title: str, path: Path, most: int = 12) -> Path:
    """How often something is said, the commonest first (PNG); what does not fit is counted together."""
    from matplotlib.figure import Figure

    shown = dict(sorted(count.items(), key=lambda one: -one[1])[:most])
    if rest := sum(count.values()) - sum(shown.values()):
        shown[f"{len(count) - len(shown)} others"] = rest
    figure = Figure(figsize=(6.4, 0.27 * len(shown) + 0.75))
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    axes.barh(places, list(shown.values()), height=0.66, color=MADE)
    for place, value in enumerate(shown.values()):
        axes.text(value, place, f" {value:,}", va="center", fontsize=8, color=INK)
    axes.set_yticks(places, list(shown), fontsize=8.5, color=INK)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, max(shown.values()) * 1.12), xticks=[])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(LINE)
    _headed(figure, title)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.34 / figure.get_size_inches()[1]))
    return _save(figure, path)


def _headed(figure: Any, title: str) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.2 / height, title, fontsize=10, fontweight="bold", color=INK, va="center", parse_math=False)


def _save(figure: Any, path: Path) -> Path:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    return path
