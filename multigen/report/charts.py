"""Line charts as SVG, in colours for light and for dark pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Line(NamedTuple):
    label: str
    steps: Sequence[int]
    values: Sequence[float]
    colour: int = 0
    """Index into the palette; beyond its end, colours are taken again, with other dashes and markers."""
    dashed: bool = False
    raw: bool = False
    """Noisy: drawn faintly, with a smoothed line over it."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """The two sides of a band around the line, if it has one."""
    silent: bool = False
    """Not in the legend."""


@dataclass(frozen=True)
class Theme:
    ink: str
    faint: str
    palette: tuple[str, ...]

    @property
    def colours(self) -> tuple[str, ...]:
        return self.ink, self.faint, *self.palette


# told apart by readers who see few colours (a search under simulated colour blindness), with at least 3:1 contrast to the page
LIGHT = Theme(
    "#1f2430",
    "#d5d9e2",
    ("#0067a5", "#c2410c", "#00785a", "#d63ae0", "#7a1212", "#a5874b", "#4b00a5", "#004b5a", "#9687a5", "#2424f0"),
)
DARK = Theme(
    "#e6e8ee",
    "#3a4150",
    ("#6cb8f0", "#ff9b66", "#4fd1a5", "#a05aa0", "#d8281a", "#f2dc2c", "#7c46f6", "#a8f0fc", "#78695a", "#4b78e1"),
)

_SOLID, _DASHED = ("-", (0, (1, 1.2))), ((0, (4, 2)), (0, (4, 1.5, 1, 1.5)))
_MARKERS = "os^D"
"""How lines are drawn that have a colour first, second, ..."""

STEP = "training step"


def chart(lines: Sequence[Line], title: str, over: str = STEP) -> tuple[str, str, str]:
    """(light SVG, dark SVG, description in words) of lines over the training step, or over what `over` names."""
    light = svg(lines, title, LIGHT, over)
    return light, recoloured(light, LIGHT, DARK), in_words(lines, title, over)


def recoloured(drawn: str, before: Theme, after: Theme) -> str:
    """The same SVG in the colours of another theme."""
    for old, new in zip(before.colours, after.colours, strict=True):
        drawn = drawn.replace(old, new)
    return drawn


def in_words(lines: Sequence[Line], title: str, over: str = STEP) -> str:
    """What a reader who cannot see the chart is told."""
    at = "step " if over == STEP else ""
    ends = [f"{x.label} from {x.values[0]:.4g} to {x.values[-1]:.4g} at {at}{x.steps[-1]:,}" for x in lines if x.values]
    return f"{title} by {over}: {'; '.join(ends)}."


def smoothed(values: Sequence[float], share: float = 0.04) -> list[float]:
    """Moving average over about `share` of the values, centred; narrower in the beginning, where losses fall steeply."""
    count, reach = len(values), int(share * len(values) / 2)
    windows = [(max(0, i - reach), min(count, i + reach + 1, 2 * i + 1)) for i in range(count)]
    return [sum(values[low:high]) / (high - low) for low, high in windows]


def svg(lines: Sequence[Line], title: str, theme: Theme, over: str = STEP) -> str:
    """The SVG's text: transparent, with text as text, the same for the same data."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "multigen", "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.6, 3.1))
        axes = figure.add_axes((0.11, 0.15, 0.87, 0.74))
        for line in lines:
            draw(axes, line, theme)
        dress(axes, title, theme, legend=len(lines) > 1, over=over)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def draw(axes: Axes, line: Line, theme: Theme) -> None:
    """One line, and its band."""
    again, index = divmod(line.colour, len(theme.palette))
    colour, dashes = theme.palette[index], _DASHED if line.dashed else _SOLID
    style: dict[str, Any] = {
        "color": colour,
        "linestyle": dashes[again % len(dashes)],
        "linewidth": 1.8,
        "label": f"{'_' * line.silent}{line.label}",  # matplotlib's sign for what its legend leaves out
    }
    if line.raw and len(line.values) > 20:
        axes.plot(line.steps, line.values, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(line.steps, smoothed(line.values), **style)
    else:
        marker = _MARKERS[again % len(_MARKERS)] if len(line.values) < 20 else None
        axes.plot(line.steps, line.values, marker=marker, markersize=3.5, **style)
    if line.low:
        axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.2, linewidth=0)


def dress(axes: Axes, title: str, theme: Theme, legend: bool, over: str = STEP) -> None:
    axes.set_title(title, loc="left", color=theme.ink, fontsize=11, fontweight="bold")
    axes.set_xlabel(over, color=theme.ink, fontsize=9)
    axes.tick_params(colors=theme.ink, labelsize=8.5, length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:g}")
    axes.grid(axis="y", color=theme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    if legend:
        words = title + "".join(
            str(line.get_label()) for line in axes.get_lines() if not str(line.get_label()).startswith("_")
        )
        beside = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "borderaxespad": 0.2, "ncols": 4}
        place: dict[str, Any] = beside if title and len(words) < 45 else {"loc": "best"}
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9, handlelength=1.6, columnspacing=1.2, **place)


def data_uri(content: bytes | str, kind: str) -> str:
    """A picture inside a page: `kind` is "png" or "svg+xml"."""
    raw = content.encode() if isinstance(content, str) else content
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
