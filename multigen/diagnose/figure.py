"""A diagnosis as a picture: taps by noise level, one panel for each measure, one row of panels for each representation."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigen.diagnose.study import MEASURES
from multigen.files import atomic_write
from multigen.report.charts import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"cosine": "cosine (linear map)", "cka": "linear CKA", "cknna": "CKNNA", "probe": "probe accuracy"}


def draw(found: Mapping[str, Any], path: Path) -> Path:
    """Write the picture as PNG. The tap with the highest mean over the noise levels is marked."""
    from matplotlib.figure import Figure

    targets, taps = found["targets"], found["taps"]
    height = 1.2 + 0.24 * max(len(taps), 4)
    figure = Figure(figsize=(3.1 * len(MEASURES), height * len(targets)), layout="constrained")
    panels = figure.subplots(len(targets), len(MEASURES), squeeze=False)
    for row, (name, values) in zip(panels, targets.items(), strict=True):
        for axes, measure in zip(row, MEASURES, strict=True):
            _panel(figure, axes, f"{name}: {TITLES[measure]}", values[measure], found["levels"], found["best"][name][measure])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    with atomic_write(path) as file:
        file.write(content.getvalue())
    return path


def _panel(figure: Figure, axes: Axes, title: str, values: Mapping[str, Any], levels: Any, best: str | None) -> None:
    taps = list(values)
    drawn = axes.imshow([values[tap] for tap in taps], aspect="auto", origin="lower", cmap="cividis")
    figure.colorbar(drawn, ax=axes, pad=0.02).ax.tick_params(labelsize=7, length=0, labelcolor=LIGHT.ink)
    axes.set_title(title, loc="left", color=LIGHT.ink, fontsize=9, fontweight="bold")
    axes.set_xticks(range(len(levels)), [f"{t:g}" for t in levels])
    axes.set_yticks(range(len(taps)), [f"{tap} *" if tap == best else tap for tap in taps])
    axes.set_xlabel("t (0 noise, 1 clean)", color=LIGHT.ink, fontsize=8)
    axes.tick_params(colors=LIGHT.ink, labelsize=7, length=0)
    axes.spines[:].set_visible(False)
