"""Elements, bonds and formal charges as classes. Each component's mask token is one above its last class."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from multigen.state import MultigenError

ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "Se", "As", "Al", "Hg", "Bi")
"""The elements of GEOM-Drugs and of the small organic molecules of the PDB, the commonest first."""
ATOMIC_NUMBERS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53, 5, 14, 34, 33, 13, 80, 83)
ATOMS = len(ELEMENTS)
BONDS = ("none", "single", "double", "triple", "aromatic")
CHARGES = (0, 1, 2, 3, -1, -2, -3)

_ELEMENT = {symbol: i for i, symbol in enumerate(ELEMENTS)}
_NUMBER = {number: i for i, number in enumerate(ATOMIC_NUMBERS)}
_CHARGE = {charge: i for i, charge in enumerate(CHARGES)}


def elements(symbols: Iterable[str]) -> NDArray[np.int8]:
    """Symbols -> classes (N,).

    Raises:
        MultigenError: an element is not in the vocabulary.
    """
    return np.array([_find(symbol, _ELEMENT, "element", ELEMENTS) for symbol in symbols], np.int8)  # (N,)


def numbers(atomic: Iterable[int]) -> NDArray[np.int8]:
    """Atomic numbers -> classes (N,); `MultigenError` for one that is not in the vocabulary."""
    return np.array([_find(int(z), _NUMBER, "atomic number", ATOMIC_NUMBERS) for z in atomic], np.int8)  # (N,)


def charges(formal: Iterable[int]) -> NDArray[np.int8]:
    """Formal charges -> classes (N,); `MultigenError` for one that is not in the vocabulary."""
    return np.array([_find(int(q), _CHARGE, "formal charge", CHARGES) for q in formal], np.int8)  # (N,)


def _find(value: object, table: dict, kind: str, choices: tuple) -> int:
    if value not in table:
        raise MultigenError(f"{kind} {value} is not in the vocabulary; choices are {', '.join(map(str, choices))}")
    return table[value]
