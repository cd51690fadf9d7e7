"""Colours and letters of residues in pictures, told apart also by readers who see few colours: by lightness and letter."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import LETTERS, tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.path import Path as Outline

INK, SOFT, LINE, BLANK = "#1f2430", "#565d6d", "#d5d9e2", "#e3e6eb"


class Group(NamedTuple):
    """Amino acids of like chemistry."""

    letters: str
    colour: str


GROUPS = {
    "aliphatic": Group("AVLIM", "#2f6fb0"),
    "aromatic": Group("FWY", "#6a4fa3"),
    "polar": Group("STNQ", "#26806a"),
    "positive": Group("KRH", "#c2410c"),
    "negative": Group("DE", "#b5307f"),
    "special": Group("CGP", "#6b6250"),
}
"""By side chain. Each colour carries white text at a contrast of 4.5 : 1 or more."""

ORDER = "".join(group.letters for group in GROUPS.values())
"""The twenty amino acids, group by group."""

_COLOUR = {letter: group.colour for group in GROUPS.values() for letter in group.letters}


def colour(letter: str) -> str:
    """Of a residue's group; grey for one that is unknown."""
    return _COLOUR.get(letter, SOFT)


def tinted(shade: str, share: float = 0.2) -> NDArray[np.float64]:
    """(3,): `share` of a colour on white."""
    return 1 - share * (1 - np.array([int(shade[i : i + 2], 16) for i in (1, 3, 5)]) / 255)


def colours(sequence: str, share: float = 1.0) -> NDArray[np.float64]:
    """(L, 3): colour of each residue, mixed with white."""
    table = np.stack([tinted(colour(letter), share) for letter in LETTERS])  # (22, 3)
    return table[tokens(sequence)]


SCALE = ("#e8702a", "#f6c945", "#7cc8e8", "#1d5fbf")
"""Colours of a confidence from 0 to 1, in the order that predicted structures are commonly shown in: orange to blue."""


@cache
def scale() -> LinearSegmentedColormap:
    """`SCALE` as a colour map."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("confidence", list(SCALE))


@cache
def outline(letter: str) -> Outline:
    """A bold letter as a path, one unit high and centred on the origin."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    bold = FontProperties(family="DejaVu Sans Mono", weight="bold")
    drawn, height = TextPath((0, 0), letter, prop=bold, size=1), TextPath((0, 0), "E", prop=bold, size=1).get_extents().height
    box = drawn.get_extents()
    return Affine2D().translate(-(box.x0 + box.x1) / 2, -height / 2).scale(1 / height).transform_path(drawn)


@cache
def width(words: str, size: float, weight: str = "normal") -> float:
    """Of a line of text, in 1/100 inch; `size` in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    # the full stop, because the advance of the last letter counts too
    return float(TextPath((0, 0), words + ".", prop=FontProperties(weight=weight), size=size).vertices[:, 0].max()) / 0.72


def shortened(words: str, longest: int = 48) -> str:
    return words if len(words) <= longest else words[: longest - 1] + "…"


def write_letters(axes: Axes, sequence: str, x: Any, y: Any, shades: Any, height: float) -> None:
    """Put each letter at its place: one collection for all equal letters, which is many times faster than one text each.

    Args:
        x, y: (L,), centres, in data coordinates.
        shades: (L, 3), colours.
        height: of a capital letter, in points.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.transforms import IdentityTransform

    places, shades = np.stack([x, y], 1), np.asarray(shades)  # (L, 2), (L, 3)
    places_of: dict[str, list[int]] = {}
    for i, letter in enumerate(sequence):
        places_of.setdefault(letter, []).append(i)
    for letter, here in sorted(places_of.items()):
        axes.add_collection(
            PathCollection(
                [outline(letter)],
                sizes=[height**2],
                offsets=places[here],
                offset_transform=axes.transData,
                transform=IdentityTransform(),
                facecolors=shades[here],
                linewidths=0,
            ),
            autolim=False,
        )


def save(figure: Any, path: Any, dpi: int = 130) -> Any:
    """Write a figure as PNG, whole or not at all."""
    from multigen.files import atomic_write

    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return path
