"""What is to be designed: a backbone, which residues to make, and what is wished of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modalities.protein.alphabet import CLASSES, LETTERS, UNKNOWN
from modalities.protein.choice import residues
from modalities.protein.structure import Structure
from multigen.state import MultigenError


@dataclass(frozen=True, eq=False)
class Task:
    """One backbone to design.

    Args:
        structure: its sequence is what given residues show, and what recovery is measured against.
        wanted: Bool (L,), residues to make; all by default. One without N, CA, C and O cannot be made and keeps its letter.
        bias: Float (L, 21), added to the logits of each residue; -inf forbids an amino acid.
        tie: (L,), residues of equal number >= 0 get the same amino acid; -1 where a residue is tied to none.

    Raises:
        MultigenError: an array is of another length, tied residues are given as different amino acids, every amino acid is
            forbidden for a residue, or nothing is left to make.
    """

    structure: Structure
    wanted: NDArray[np.bool_] | None = None
    bias: Tensor | None = None
    tie: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name, shape in (("wanted", (len(self.structure),)), ("tie", (len(self.structure),))):
            if (found := getattr(self, name)) is not None and np.shape(found) != shape:
                raise MultigenError(f"{self.structure.name}: {name} has shape {np.shape(found)}, expected {shape}")
        if self.bias is not None and tuple(self.bias.shape) != (len(self.structure), CLASSES):
            raise MultigenError(f"{self.structure.name}: bias has shape {tuple(self.bias.shape)}, expected (L, {CLASSES})")
        made = self.bound.made
        if not made.any():
            raise MultigenError(f"{self.structure.name}: nothing is left to design{self._why()}")
        if self.bias is not None and (~self.bias[made, :UNKNOWN].isfinite().any(-1)).any():
            row = np.flatnonzero(made)[int((~self.bias[made, :UNKNOWN].isfinite().any(-1)).nonzero()[0])]
            raise MultigenError(f"every amino acid is forbidden for residue {self.label(int(row))} of {self.structure.name}")

    @property
    def asked(self) -> NDArray[np.bool_]:
        """(L,): `wanted`, or all."""
        return np.ones(len(self.structure), np.bool_) if self.wanted is None else np.asarray(self.wanted, np.bool_)  # (L,)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(L,): residues with N, CA, C and O."""
        return np.asarray(np.isfinite(self.structure.backbone).all((1, 2)))  # (L,)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """(L,): residues that were asked for and cannot be made, for want of atoms."""
        return self.asked & ~self.known & (self.bound.leader == np.arange(len(self.structure)))  # (L,)

    @cached_property
    def bound(self) -> Bound:
        """What ties make of the task."""
        structure, length = self.structure, len(self.structure)
        sequence, made = structure.sequence.copy(), self.asked & self.known  # (L,), (L,)
        tie, leader = np.full(length, -1, np.int64), np.arange(length)  # (L,), (L,)
        for number, rows in enumerate(groups(self.tie)):
            given = rows[~self.asked[rows] & (sequence[rows] != UNKNOWN)]
            free = rows[self.asked[rows]]
            self._check_given(given)
            if len(given):
                sequence[free], made[free] = sequence[given[0]], False
            elif made[free].any():
                tie[free[made[free]]] = number
                leader[free[~made[free]]] = free[made[free]][0]
        return Bound(sequence, made, tie, leader)

    def _check_given(self, rows: NDArray[np.int64]) -> None:
        for row in rows[1:]:
            if (one := self.structure.sequence[rows[0]]) != (other := self.structure.sequence[row]):
                raise MultigenError(
                    f"{self.structure.name}: residues {self.label(rows[0])} and {self.label(row)} are tied, "
                    f"and are given as {LETTERS[one]} and {LETTERS[other]}"
                )

    def label(self, row: int) -> str:
        """Chain and number of a residue, like A:52."""
        return label(self.structure, row)

    def _why(self) -> str:
        if not self.asked.any():
            return ": all its residues are fixed"
        if not (self.asked & self.known).any():
            return ": none of the chosen residues has all of N, CA, C and O"
        return ": the chosen residues are tied to fixed ones"


class Bound(NamedTuple):
    """A task without what ties have decided already."""

    sequence: NDArray[np.int8]
    """(L,): what is given, also through a tie to a residue that is given."""
    made: NDArray[np.bool_]
    """(L,): residues that the network makes."""
    tie: NDArray[np.int64]
    """(L,): ties between those; -1 elsewhere."""
    leader: NDArray[np.int64]
    """(L,): whose amino acid each residue shows in the end: its own, or of one without atoms the one that it is tied to."""


def label(structure: Structure, row: int) -> str:
    """Chain and number of a residue, like A:52."""
    return f"{structure.chains[structure.chain[row]]}:{structure.labels[row]}"


def groups(tie: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
    """The rows of each number >= 0."""
    if tie is None:
        return []
    return [np.flatnonzero(tie == number) for number in np.unique(tie[tie >= 0])]


def ties(texts: Sequence[str], structure: Structure) -> NDArray[np.int64]:
    """Ties as `Task` takes them, from texts like ``A=B`` or ``A:1-10=B:1-10=C:1-10``.

    The n-th residue of one side is tied to the n-th of the others; what is tied to the same residue is tied together.

    Raises:
        MultigenError: a text is written otherwise, names what is not there, or its sides are not equally long.
    """
    number = np.arange(len(structure))  # (L,)
    for text in texts:
        sides = [np.flatnonzero(residues(side, structure)) for side in _sides(text)]  # (M,) each
        if len({len(side) for side in sides}) > 1:
            counts = " and ".join(f"{name.strip()} has {len(side)}" for name, side in zip(_sides(text), sides, strict=True))
            raise MultigenError(f"tie {text!r} in {structure.name} is between unequal numbers of residues: {counts}")
        for rows in zip(*sides, strict=True):
            together = np.isin(number, number[list(rows)])  # (L,)
            number[together] = number[together].min()
    alone = np.bincount(number, minlength=len(number))[number] == 1  # (L,)
    return np.where(alone, -1, number)  # (L,)


def _sides(text: str) -> list[str]:
    sides = text.split("=")
    if len(sides) < 2:
        raise MultigenError(f"tie {text!r} has one side: write two or more with = between them, like A=B or A:1-10=B:1-10")
    return sides
