"""Residues as numbers: the twenty amino acids in alphabetical order of their letters, then unknown, then the mask."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN = 20
"""Class of a residue that is none of the twenty; written X."""
CLASSES = 21
MASK = 21
"""Token of a residue that is not made yet; written _."""
LETTERS = AMINO_ACIDS + "X_"
"""Letter of each of the 22 tokens."""

_TOKEN = np.full(256, UNKNOWN, np.int8)
_TOKEN[[ord(letter) for letter in LETTERS]] = np.arange(len(LETTERS))
_TOKEN[[ord(letter) for letter in AMINO_ACIDS.lower()]] = np.arange(len(AMINO_ACIDS))


def tokens(sequence: str) -> NDArray[np.int8]:
    """Letters -> tokens (L,); a letter that is no amino acid is `UNKNOWN`, ``_`` is `MASK`."""
    return _TOKEN[np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)]


def letters(sequence: Iterable[int]) -> str:
    """Tokens (L,) -> letters."""
    return "".join(LETTERS[int(token)] for token in sequence)
