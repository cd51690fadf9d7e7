"""What a page is made of. The template draws each kind; a section is a title and some blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from multigen.files import to_json
from multigen.report.charts import STEP, Line, chart, data_uri


@dataclass(frozen=True)
class Text:
    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Picture:
    """An image inside the page.

    Args:
        uri: its content, see `multigen.report.charts.data_uri`.
        alt: what a reader who does not see it is told.
        caption: below.
        dark: replaces it on dark pages.
        pixels: keep it crisp when it is enlarged.
        width: in pixels, if known.
    """

    uri: str
    alt: str
    caption: str = ""
    dark: str = ""
    pixels: bool = False
    width: int = 0
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Viewer:
    """A structure that the reader can turn and enlarge, see `multigen.report.viewer`.

    Args:
        text: the structure, as a file has it.
        format: of the text: "pdb", "cif", "sdf", "mol2" or "xyz".
        style: how it is drawn, as 3Dmol's ``setStyle`` takes it: {"stick": {}}, {"cartoon": {"color": "spectrum"}}, ...
        picture: stands for it where no script runs; its description is the viewer's too.
        caption: below.
    """

    text: str
    format: str
    style: Mapping[str, Any]
    picture: Picture
    caption: str = ""
    kind: ClassVar[str] = "viewer"

    @property
    def data(self) -> str:
        """What the page's script reads, as JSON."""
        return to_json({"text": self.text, "format": self.format, "style": dict(self.style)})


@dataclass(frozen=True)
class Gallery:
    """Pictures beside one another, as wide as `columns` to a row."""

    pictures: Sequence[Picture | Viewer]
    columns: int = 2
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""
    """Smaller, below."""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading. Columns in `numeric` are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    numeric: Sequence[int] = ()
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Folded:
    """Long text, such as a configuration, that opens on a click."""

    summary: str
    text: str
    kind: ClassVar[str] = "folded"


MISSING = "-"

Block = Text | Picture | Viewer | Gallery | Table | Folded


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def line_chart(lines: Sequence[Line], title: str, over: str = STEP) -> Picture:
    light, dark, words = chart(lines, title, over)
    return Picture(data_uri(light, "svg+xml"), words, dark=data_uri(dark, "svg+xml"))


def png(path: Path, alt: str, caption: str = "") -> Picture:
    content = path.read_bytes()
    width = int.from_bytes(content[16:20])  # where it is in every PNG's header
    return Picture(data_uri(content, "png"), alt, caption, pixels=width < 400, width=width)


def number(value: Any) -> str:
    """Four significant digits; a dash for what is missing or not finite.

    >>> number(0.123456), number(1234567.0), number(None), number(640)
    ('0.1235', '1,235,000', '-', '640')
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    short = f"{value:.3e}"
    exponent = int(short.partition("e")[2])
    return f"{float(short):,.{max(3 - exponent, 0)}f}" if exponent >= -4 else short
