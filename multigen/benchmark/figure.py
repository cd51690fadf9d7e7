"""A comparison as a picture: held-out losses over the training step, mean and band of each arm."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigen.files import atomic_write
from multigen.report.charts import LIGHT, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(comparison: Mapping[str, Any], path: Path) -> Path | None:
    """Write one panel for each curve as PNG; None, and no file, when there are no curves."""
    from matplotlib.figure import Figure

    curves = comparison["curves"]
    if not curves:
        return None
    figure = Figure(figsize=(6.4 * len(curves), 4.0), layout="constrained")
    for axes, (key, arms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        _panel(axes, key, arms, comparison["steps_to_baseline"][key]["target"])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    with atomic_write(path) as file:
        file.write(content.getvalue())
    return path


def _panel(axes: Axes, key: str, arms: Mapping[str, Any], target: float) -> None:
    for i, (name, band) in enumerate(arms.items()):
        steps, mean, colour = band["steps"], band["mean"], LIGHT.palette[i % len(LIGHT.palette)]
        axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
        if band["std"] is not None:
            low, high = ([m + sign * s for m, s in zip(mean, band["std"], strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(target, color=LIGHT.ink, linewidth=0.8, linestyle=(0, (2, 3)))
    if all(value > 0 for band in arms.values() for value in band["mean"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7, length=0, labelcolor=LIGHT.ink)
    dress(axes, f"{key.removeprefix('valid/')} loss, held out", LIGHT, legend=True)
