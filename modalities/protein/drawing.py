"""Designs along the chain, beside the native sequence: one picture however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein import palette
from modalities.protein.palette import BLANK, GROUPS, INK, SOFT
from modalities.protein.sample import Designed

CELL, ROW, BAR, MARGIN, GAP = 13.0, 15.0, 9.0, 62.0, 22.0
"""In 1/100 inch: width of a residue, height of a row and of the confidence below it, room for labels and between proteins."""
WIDTHS, TALLEST = (100, 150, 200, 300), 3000.0
"""Residues to a line: the fewest that keep the picture below this height, if any do."""


def draw(samples: Sequence[Designed | None], path: Path) -> Path:
    """Write a picture of all samples (PNG): a row for each design, below the native sequence where there is one.

    Where a design has the native residue, its cell has the full colour of the amino acid's group and a white letter; where it
    differs, a pale one and a dark letter; a residue that was given stays grey. The bars below a row are the confidence. Real
    data are one row each.
    """
    blocks = grouped([_plain(sample) for sample in samples if sample is not None])
    total = sum(len(block[0].sequence) for block in blocks)
    for columns in WIDTHS:
        canvas = _drawn(samples, blocks, max(60, min(columns, total)))
        if canvas.bottom < TALLEST or columns > total:
            break
    return canvas.save(path)


def _drawn(samples: Sequence[Designed | None], blocks: Sequence[Sequence[Designed]], columns: int) -> Canvas:
    canvas = Canvas(columns)
    _legend(canvas, any(b[0].native for b in blocks), any(s.confidence is not None for b in blocks for s in b))
    for number, block in enumerate(blocks, 1):
        title = block[0].name or f"{'design' if block[0].native else 'sequence'} {number}"
        canvas.place(len(block[0].sequence), palette.shortened(title), _facts(block))
        _block(canvas, block)
    if missing := sum(sample is None for sample in samples):
        canvas.place(columns, f"{missing} of {len(samples)} samples are not valid", "")
    return canvas


def _plain(sample: Designed) -> Designed:
    """Real data (which nobody was unsure of) without the native sequence: it is the same."""
    real = sample.sequence == sample.native and sample.confidence is None
    return sample._replace(native="") if real else sample


def grouped(samples: Sequence[Designed]) -> list[list[Designed]]:
    """Designs of the same backbone together, in order of appearance; sequences without one are each alone."""
    groups: dict[Any, list[Designed]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault((sample.name, sample.native) if sample.native else i, []).append(sample)
    return list(groups.values())


def same(design: Designed) -> NDArray[np.bool_]:
    """(L,): where a design has the native residue; everywhere, if there is no native sequence."""
    native = design.native or design.sequence
    return np.array([a == b for a, b in zip(design.sequence, native, strict=True)], bool)


def _facts(block: Sequence[Designed]) -> str:
    """What stands beside the name."""
    chains = len(np.unique(block[0].chain))
    said = [f"{len(block[0].sequence)} residues" + (f" in {chains} chains" if chains > 1 else "")]
    shares = [float(same(s)[s.free].mean()) for s in block if s.native and s.free.any()]
    said += [f"recovery {_span(shares, '.0%')}"] if shares else []
    sure = [float(s.confidence[s.free].mean()) for s in block if s.confidence is not None and s.free.any()]
    return " · ".join(said + ([f"confidence {_span(sure, '.2f')}"] if sure else []))


def _span(values: Sequence[float], form: str) -> str:
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low} to {high}"


def _block(canvas: Canvas, block: Sequence[Designed]) -> None:
    first, length = block[0], len(block[0].sequence)
    for start in range(0, length, canvas.columns):
        part = slice(start, min(start + canvas.columns, length))
        canvas.ruler(part)
        top = canvas.y
        if first.native:
            letters = first.native[part]
            canvas.row("native", letters, np.ones((len(letters), 3)), palette.colours(letters))
        for i, design in enumerate(block):
            name = f"design {i + 1}" if len(block) > 1 else "design"
            canvas.row(name if first.native else "", design.sequence[part], *_shades(design, part))
            if design.confidence is not None:
                canvas.bars(design.confidence[part])
        canvas.borders(np.flatnonzero(np.diff(first.chain[part])) + 1, top)


def _shades(design: Designed, part: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours (L, 3) of the cells and of the letters in them."""
    letters, free, right = design.sequence[part], design.free[part, None], same(design)[part, None]
    full, pale = palette.colours(letters), palette.colours(letters, 0.2)  # (L, 3) each
    face = np.where(free, np.where(right, full, pale), palette.tinted(BLANK, 1))  # (L, 3)
    ink = np.where(free & right, 1.0, np.where(free, palette.tinted(INK, 1), palette.tinted(SOFT, 1)))  # (L, 3)
    return face, ink


def _legend(canvas: Canvas, native: bool, confidence: bool) -> None:
    for name, group in GROUPS.items():
        canvas.chip(f"{name} {group.letters}", palette.tinted(group.colour, 1))
    if native or confidence:
        canvas.next_line(20)
    if native:
        shade = GROUPS["aliphatic"].colour
        canvas.chip("the native residue", palette.tinted(shade, 1), "L", np.ones(3))
        canvas.chip("another one", palette.tinted(shade, 0.2), "L", palette.tinted(INK, 1))
        canvas.chip("given, not designed", palette.tinted(BLANK, 1), "L", palette.tinted(SOFT, 1))
    if confidence:
        canvas.bars(np.array([0.1, 0.5, 1.0]), -BAR / 2)
        canvas.chip("confidence 0.1, 0.5, 1", np.ones(3), cells=3)


class Canvas:
    """A page that is filled like a page of text: blocks from left to right while they fit, and downwards.

    All is in units of 1/100 inch and drawn at once in the end.

    Args:
        columns: residues to a line.
    """

    def __init__(self, columns: int) -> None:
        self.columns, self.width = columns, 2 * MARGIN + columns * CELL
        self.x, self.y, self.top, self.bottom, self.right = 12.0, 18.0, 40.0, 40.0, 0.0
        self._texts: list[tuple[float, float, str, dict[str, Any]]] = []
        self._boxes: list[NDArray[np.float64]] = []
        self._faces: list[NDArray[np.float64]] = []
        self._letters: list[tuple[str, NDArray[Any], float, NDArray[Any]]] = []

    def place(self, length: int, title: str, facts: str) -> None:
        """Begin a block of this many residues, beside the last one or below all."""
        beside = 12 + palette.width(title, 10, "bold")
        need = max(MARGIN + min(length, self.columns) * CELL, beside + palette.width(facts, 8.5)) + GAP
        if self.right == 0 or self.right + need > self.width:
            self.top, self.right = self.bottom + GAP, 0.0
        self.x, self.right, self.y = self.right, self.right + need, self.top
        self._text(self.x + 12, self.y, title, fontsize=10, fontweight="bold", color=INK)
        self._text(self.x + beside + 10, self.y, facts, fontsize=8.5)
        self.x, self.y = self.x + MARGIN, self.y + 4
        self.bottom = max(self.bottom, self.y)

    def next_line(self, height: float) -> None:
        self.x, self.y = 12.0, self.y + height
        self.bottom = self.y

    def ruler(self, part: slice) -> None:
        """Numbers of the residues: the first one and each tenth."""
        self.y += 15
        for i in [i for i in range(part.start, part.stop) if (i + 1) % 10 == 0 or i == part.start]:
            self._text(self.x + (i - part.start + 0.5) * CELL, self.y, str(i + 1), ha="center", fontsize=6.5)
        self.y += 6

    def row(self, name: str, letters: str, faces: NDArray[np.float64], inks: NDArray[np.float64]) -> None:
        """One sequence: colours (L, 3) of its cells and letters."""
        left = self.x + CELL * np.arange(len(letters))  # (L,)
        self._text(self.x - 7, self.y + ROW / 2, name, ha="right", fontsize=7.5)
        self._fill(left, self.y, CELL - 0.7, ROW - 0.7, faces)
        self._letters.append((letters, left + CELL / 2, self.y + ROW / 2, inks))
        self._down(ROW)

    def bars(self, values: NDArray[Any], above: float | None = None) -> None:
        """Confidence (L,), 0 to 1, as heights; from `above` the middle of the line, or else below it."""
        values = np.nan_to_num(np.clip(np.asarray(values, np.float64), 0, 1))  # (L,)
        left, base = self.x + CELL * np.arange(len(values)), self.y + (BAR + 1 if above is None else -above)  # (L,), ()
        self._fill(left, base, CELL - 0.7, -BAR * values, palette.tinted(SOFT, 0.75))
        self._fill(left[:1], base, CELL * len(values), 0.6, palette.tinted(SOFT, 0.75))
        if above is None:
            self._down(BAR + 4)

    def borders(self, cells: NDArray[Any], top: float) -> None:
        """Dark lines before these cells, from `top` to here: there another chain begins."""
        self._fill(self.x + cells * CELL - 1.3, top, 1.9, self.y - top, palette.tinted(INK, 1))

    def chip(self, words: str, face: Any, letter: str = "", ink: Any = None, cells: int = 1) -> None:
        """An entry of the legend."""
        if cells == 1:
            self._fill(self.x, self.y - ROW / 2, CELL, ROW, face)
        if letter:
            self._letters.append((letter, np.array([self.x + CELL / 2]), self.y, np.asarray(ink)[None]))
        self._text(self.x + CELL * cells + 5, self.y, words)
        self.x += CELL * cells + 24 + palette.width(words, 8)

    def save(self, path: Path) -> Path:
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure

        height = self.bottom + GAP
        figure = Figure(figsize=(self.width / 100, height / 100))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(height, 0))
        axes.set_axis_off()
        for x, y, words, style in self._texts:
            axes.text(x, y, words, **{"va": "center", "fontsize": 8, "color": SOFT, "parse_math": False, **style})
        boxes, faces = np.concatenate(self._boxes), np.concatenate(self._faces)  # (cells, 4, 2), (cells, 3)
        axes.add_collection(PolyCollection(list(boxes), facecolors=faces, linewidths=0), autolim=False)
        palette.write_letters(
            axes,
            "".join(text for text, *_ in self._letters),
            np.concatenate([x for _, x, *_ in self._letters] or [np.zeros(0)]),  # (letters,)
            np.concatenate([np.full(len(x), y) for _, x, y, _ in self._letters] or [np.zeros(0)]),  # (letters,)
            np.concatenate([ink for *_, ink in self._letters] or [np.zeros((0, 3))]),  # (letters, 3)
            height=6.0,
        )
        return palette.save(figure, path)

    def _down(self, height: float) -> None:
        self.y += height
        self.bottom = max(self.bottom, self.y)

    def _text(self, x: float, y: float, words: str, **style: Any) -> None:
        self._texts.append((x, y, words, style))

    def _fill(self, x: Any, y: float, width: float, height: Any, faces: Any) -> None:
        """Rectangles at x (L,), of one height or (L,) heights, in one colour or (L, 3) colours."""
        left = np.atleast_1d(np.asarray(x, np.float64))  # (L,)
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        self._boxes.append(np.stack([np.stack([left + a, y + b + 0 * left], 1) for a, b in corners], 1))  # (L, 4, 2)
        self._faces.append(np.broadcast_to(faces, (len(left), 3)))
