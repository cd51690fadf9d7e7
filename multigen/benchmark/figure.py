"""A comparison as a picture: held-out losses over the training step, mean and band of each arm."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigen.files import atomic_write
from multigen.report.charts import LIGHT, Line, dress
from multigen.report.charts import draw as draw_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(comparison: Mapping[str, Any], path: Path) -> Path | None:
    """Write one panel for each curve as PNG; None, and no file, when there are no curves."""
    from matplotlib.figure import Figure

    curves = comparison["curves"]
    if not curves:
        return None
    figure = Figure(figsize=(6.4 * len(curves), 4.0), layout="constrained")
    for axes, (key, arms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        _panel(axes, key, arms, comparison["steps_to_baseline"][key]["target"])
    return save(figure, path)


def line(name: str, band: Mapping[str, Any], colour: int, axis: str = "steps", unit: float = 1.0) -> Line:
    """An arm's mean with its band over `axis`, see `multigen.benchmark.compare.band`."""
    low, high = (() if band["std"] is None else _side(band, sign) for sign in (-1, 1))
    return Line(name, [x / unit for x in band[axis]], band["mean"], colour, low=low, high=high)


def _side(band: Mapping[str, Any], sign: int) -> list[float]:
    return [m + sign * s for m, s in zip(band["mean"], band["std"], strict=True)]


def save(figure: Figure, path: Path) -> Path:
    """As a PNG that is the same for the same data."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    with atomic_write(path) as file:
        file.write(content.getvalue())
    return path


def _panel(axes: Axes, key: str, arms: Mapping[str, Any], target: float) -> None:
    for i, (name, band) in enumerate(arms.items()):
        draw_line(axes, line(name, band, i), LIGHT)
    axes.axhline(target, color=LIGHT.ink, linewidth=0.8, linestyle=(0, (2, 3)))
    if all(value > 0 for band in arms.values() for value in band["mean"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7, length=0, labelcolor=LIGHT.ink)
    dress(axes, f"{key.removeprefix('valid/')} loss, held out", LIGHT, legend=True)
