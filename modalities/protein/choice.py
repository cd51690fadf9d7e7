"""Which residues are meant by "A:10-25,B:3,C"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multigen.state import MultigenError

if TYPE_CHECKING:
    from modalities.protein.structure import Structure

_NUMBER = r"-?\d+[A-Za-z]?"
_SPAN = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")


def residues(text: str, structure: Structure) -> NDArray[np.bool_]:
    """The residues that a text names: Bool (L,).

    Between commas stands a whole chain (``C``), a residue (``B:3``, with an insertion code ``B:52A``) or a range that
    includes both ends (``A:10-25``, ``A:-3--1``), in the author's numbering and the order of the chain.

    Raises:
        MultigenError: a part is written otherwise, or names a chain or residue that is not there, or its range is reversed.
    """
    chosen = np.zeros(len(structure), bool)  # (L,)
    for part in text.split(","):
        chosen[_rows(part.strip(), structure)] = True
    return chosen


def _rows(part: str, structure: Structure) -> NDArray[np.int64]:
    """(M,): numbers of the residues of one part."""
    chain, colon, span = (piece.strip() for piece in part.partition(":"))
    if not chain or (not colon and chain not in structure.chains and _SPAN.fullmatch(chain)):
        raise MultigenError(f"{part!r} names no chain: write chain:first-last, like {structure.chains[0]}:10-25")
    rows = np.flatnonzero(structure.of_chain(chain))  # (M,)
    if not colon:
        return rows
    if not (match := _SPAN.fullmatch(span)):
        raise MultigenError(f"{part!r} is no range of residues: write chain:first-last, like {chain}:10-25 or {chain}:52A")
    first, last = (_place(label, part, rows, structure) for label in (match[1], match[2] or match[1]))
    if first > last:
        raise MultigenError(f"range {part!r} is reversed: residue {match[2]} comes before {match[1]}")
    return rows[first : last + 1]


def _place(label: str, part: str, rows: NDArray[np.int64], structure: Structure) -> int:
    """Where in the chain the residue stands."""
    labels = [structure.labels[row] for row in rows]
    if label not in labels:
        raise MultigenError(f"no residue {label} for {part!r} in {structure.name}: its chain has {spans(rows, structure)}")
    return labels.index(label)


def spans(rows: NDArray[np.int64], structure: Structure, most: int = 8) -> str:
    """The stretches without a gap in the numbering, like "1-57, 61-120"."""
    cuts = np.flatnonzero(np.diff(structure.index[rows]) > 1) + 1  # (stretches - 1,)
    ends = [(structure.labels[part[0]], structure.labels[part[-1]]) for part in np.split(rows, cuts)]
    written = [first if first == last else f"{first}-{last}" for first, last in ends]
    return ", ".join(written[:most]) + (", ..." if len(written) > most else "")
