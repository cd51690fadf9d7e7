"""Numbers of atoms as a person gives them: 12, 6:14, 8 or 10 or 12."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multigen.random import Noise
from multigen.state import MultigenError, at_least

Sizes = int | str | Sequence[int]
"""A number; a range "6:14", both ends included; or several numbers, each as likely as it is often. In a YAML file a range
wants its quotes: without them, 6:14 is the number 374, as of minutes and seconds."""


def choices(given: Sizes, what: str) -> NDArray[np.int64]:
    """The numbers that are meant: (K,).

    >>> choices("6:8", "size").tolist(), choices(5, "size").tolist()
    ([6, 7, 8], [5])

    Raises:
        MultigenError: it is no such thing, or a number is below 1; `what` is its name in the message.
    """
    found = _range(given, what) if isinstance(given, str) else _listed(given, what)  # (K,)
    if not len(found):
        raise MultigenError(f"{what} is {given!r}: nothing lies between the two; write the smaller number first, like 6:14")
    at_least(1, **{what: int(found.min())})
    return found


def _range(text: str, what: str) -> NDArray[np.int64]:
    low, _, high = text.partition(":")
    try:
        return np.arange(int(low), int(high or low) + 1)  # (K,)
    except ValueError:
        raise MultigenError(f"{what} is {text!r}: write a number of atoms like 8, or a range like 6:14") from None


def _listed(given: int | Sequence[int], what: str) -> NDArray[np.int64]:
    """A number, or several: (K,)."""
    numbers = np.atleast_1d(np.asarray(given, object)).tolist()
    if wrong := [number for number in numbers if not isinstance(number, int | np.integer)]:
        raise MultigenError(f"{what} holds {wrong[0]!r}: write a number of atoms like 8, or several like [8,10,12]")
    return np.array(numbers, np.int64)  # (K,)


def drawn(sizes: NDArray[np.int64], noise: Noise) -> list[int]:
    """One of the numbers (K,) for each row of the noise."""
    return sizes[noise.integers(len(sizes)).numpy()].tolist()
