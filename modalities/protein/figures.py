"""Pictures that metrics and reports show: a logo, substitutions, how far confidence can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein import palette
from modalities.protein.palette import GROUPS, INK, LINE, ORDER, SOFT
from modalities.protein.sample import Designed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Outline


def logo(designs: Sequence[Designed], path: Path, columns: int = 80) -> Path:
    """Designs of one backbone as a sequence logo (PNG): a letter is as high as its share of the designs.

    Args:
        designs: equally long; their native sequence stands below, in colour where a design agrees.
        columns: residues to a line.
    """
    from matplotlib.figure import Figure

    first, length = designs[0], len(designs[0].sequence)
    columns = min(columns, length)
    lines = -(-length // columns)
    figure = Figure(figsize=(0.14 * columns + 0.9, 1.15 * lines + 0.4))
    for line in range(lines):
        axes = figure.add_axes(_band(figure, line, lines), xlim=(0.5, columns + 0.5), ylim=(-0.36, 1.02))
        _logo_line(axes, designs, slice(line * columns, min((line + 1) * columns, length)))
    title = f"{palette.shortened(first.name)}: {len(designs)} designs, below them the native sequence"
    _title(figure, title)
    return palette.save(figure, path)


def _band(figure: Any, line: int, lines: int) -> tuple[float, float, float, float]:
    """Where a line of a logo stands: left, bottom, width, height."""
    width, height = figure.get_size_inches()
    top = height - 0.4 - 1.15 * line
    return 0.6 / width, (top - 0.9) / height, (width - 0.8) / width, 0.86 / height


def _title(figure: Any, words: str) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.2 / height, words, fontsize=10, fontweight="bold", color=INK, va="center", parse_math=False)


def _logo_line(axes: Axes, designs: Sequence[Designed], part: slice) -> None:
    shapes: dict[str, list[Outline]] = {}
    made = [design.sequence[part] for design in designs]
    for place, letters in enumerate(zip(*made, strict=True), 1):
        bottom = 0.0
        for letter, count in sorted(Counter(letters).items(), key=lambda found: (found[1], found[0])):
            shapes.setdefault(letter, []).append(_stretched(letter, place, bottom, count / len(designs)))
            bottom += count / len(designs)
    _fill(axes, shapes, designs[0].free[part])
    if native := designs[0].native[part]:
        found = [a in letters for a, letters in zip(native, zip(*made, strict=True), strict=True)]
        shades = np.where(np.array(found)[:, None], palette.colours(native), palette.tinted(SOFT, 0.55))  # (L, 3)
        palette.write_letters(axes, native, np.arange(1, len(native) + 1), np.full(len(native), -0.2), shades, 5.5)
    axes.plot([0.5, len(made[0]) + 0.5], [0, 0], color=LINE, linewidth=0.8)
    _rule(axes, part)


def _stretched(letter: str, place: float, bottom: float, height: float) -> Outline:
    """A letter that fills a box 0.9 wide."""
    from matplotlib.transforms import Affine2D

    shape = palette.outline(letter)
    vertices = np.asarray(shape.vertices)  # (V, 2)
    low, high = vertices.min(0), vertices.max(0)  # (2,), (2,)
    move = Affine2D().translate(*-low).scale(0.9 / (high - low)[0], height * 0.98 / (high - low)[1])
    return move.translate(place - 0.45, bottom).transform_path(shape)


def _fill(axes: Axes, shapes: dict[str, list[Outline]], free: NDArray[np.bool_]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    for letter, drawn in shapes.items():
        whole = Outline.make_compound_path(*drawn)
        axes.add_patch(PathPatch(whole, facecolor=palette.colour(letter), linewidth=0))
    for place in np.flatnonzero(~free) + 1:
        axes.axvspan(place - 0.5, place + 0.5, ymin=0.262, color="white", alpha=0.7, linewidth=0)


def _rule(axes: Axes, part: slice) -> None:
    places = [i for i in range(part.start + 1, part.stop + 1) if i % 10 == 0 or i == part.start + 1]
    axes.set_xticks([i - part.start for i in places], [str(i) for i in places])
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.tick_params(labelsize=6.5, colors=SOFT, length=0, pad=1)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set(color=LINE, bounds=(0, 1))


def substitutions(counts: NDArray[Any], path: Path) -> Path:
    """Which residues stand where the native sequence has which (PNG).

    Args:
        counts: (20, 20) in the order of the alphabet: row native, column designed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    order = np.argsort(np.argsort(list(ORDER)))  # (20,): place in the alphabet of the letters of ORDER
    table = np.asarray(counts, np.float64)[order][:, order]  # (20, 20)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)  # (20, 20)
    figure = Figure(figsize=(6.6, 5.6))
    axes = figure.add_axes((0.12, 0.1, 0.62, 0.76))
    picture = axes.imshow(share, cmap=matplotlib.colormaps["YlGnBu"], vmin=0, vmax=max(0.5, float(share.max())), aspect="auto")
    axes.set_xlabel("designed", color=INK, fontsize=9)
    axes.set_ylabel("native", color=INK, fontsize=9)
    _lettered(axes)
    _margin(figure, axes, table)
    bar = figure.colorbar(picture, cax=figure.add_axes((0.9, 0.1, 0.022, 0.76)))
    bar.ax.tick_params(labelsize=7.5, colors=SOFT, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    _title(figure, f"What is designed in the place of each native residue ({int(table.sum()):,} residues)")
    return palette.save(figure, path)


def _lettered(axes: Axes) -> None:
    """Letters in the colours of their groups, and lines between the groups."""
    _letter_ticks(axes.xaxis, axes.set_xticks)
    _letter_ticks(axes.yaxis, axes.set_yticks)
    for border in np.cumsum([len(group.letters) for group in GROUPS.values()])[:-1] - 0.5:
        axes.axhline(border, color="white", linewidth=2)
        axes.axvline(border, color="white", linewidth=2)
    for i in range(20):
        axes.add_patch(_square(i))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _square(i: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.8, zorder=3, clip_on=False)


def _margin(figure: Any, axes: Axes, table: NDArray[np.float64]) -> None:
    """Beside the rows: how frequent each residue is, native and designed."""
    beside = figure.add_axes((0.755, 0.1, 0.12, 0.76), sharey=axes)
    total = max(table.sum(), 1)
    beside.barh(np.arange(20), table.sum(1) / total, height=0.55, color=LINE, label="native")
    beside.plot(table.sum(0) / total, np.arange(20), "|", color=INK, markersize=8, markeredgewidth=1.6, label="designed")
    beside.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), frameon=False, fontsize=7.5, handlelength=1, labelcolor=SOFT)
    beside.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    beside.tick_params(labelleft=False, labelsize=7, colors=SOFT, length=0)
    beside.spines[:].set_visible(False)


def calibration(confidence: NDArray[Any], right: NDArray[np.bool_], path: Path, bins: int = 10) -> Path:
    """How often residues of each confidence are the native ones (PNG).

    Args:
        confidence: (M,), 0 to 1.
        right: (M,), which designed residues are the native ones.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.6))
    axes, below = figure.add_axes((0.14, 0.33, 0.82, 0.57)), figure.add_axes((0.14, 0.11, 0.82, 0.17))
    place = np.minimum((confidence * bins).astype(int), bins - 1)  # (M,)
    count = np.bincount(place, minlength=bins)  # (bins,)
    some = count > 0  # (bins,)
    sure, found = (np.bincount(place, x, minlength=bins)[some] / count[some] for x in (confidence, right))  # (used bins,)
    error = np.sqrt(found * (1 - found) / count[some])  # (used bins,)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
    axes.errorbar(sure, found, error, color=GROUPS["aliphatic"].colour, marker="o", markersize=4.5, linewidth=1.6, capsize=2)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[])
    axes.set_ylabel("share that is native", color=INK, fontsize=9)
    below.bar((np.arange(bins) + 0.5) / bins, count / max(count.sum(), 1), width=0.9 / bins, color=palette.tinted(SOFT, 0.6))
    below.set(xlim=(0, 1))
    below.set_xlabel("confidence of the designed residue", color=INK, fontsize=9)
    below.set_ylabel("residues", color=INK, fontsize=9)
    for one in (axes, below):
        one.tick_params(labelsize=8, colors=SOFT, length=0)
        one.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(LINE)
    _title(figure, "Confidence and recovery")
    return palette.save(figure, path)


def composition(made: NDArray[Any], real: NDArray[Any], path: Path) -> Path:
    """Frequencies of amino acids (20,) in samples and in real sequences (PNG), in the order of the alphabet."""
    from matplotlib.figure import Figure

    order = np.argsort(np.argsort(list(ORDER)))  # (20,): place in the alphabet of the letters of ORDER
    figure = Figure(figsize=(6.6, 3.2))
    axes = figure.add_axes((0.08, 0.12, 0.9, 0.7), xlim=(-0.6, 19.6))
    axes.bar(np.arange(20), np.asarray(real)[order], width=0.72, color=LINE, label="held-out sequences")
    axes.plot(np.arange(20), np.asarray(made)[order], "_", color=INK, markersize=13, markeredgewidth=2.4, label="samples")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=8, labelcolor=SOFT)
    _letter_ticks(axes.xaxis, axes.set_xticks)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelsize=8, colors=SOFT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    _title(figure, "Amino acids")
    return palette.save(figure, path)


def _letter_ticks(axis: Any, set_ticks: Any) -> None:
    """The amino acids in the colours of their groups."""
    set_ticks(range(20), list(ORDER))
    for label in axis.get_ticklabels():
        label.set(color=palette.colour(label.get_text()), fontweight="bold", fontsize=9, family="DejaVu Sans Mono")
