"""Sequences out of data sets and samples, for metrics that compare the two."""

from __future__ import annotations

from collections.abc import Sequence

from modalities.protein.alphabet import letters
from modalities.protein.sample import Designed
from multigen import describe
from multigen.cache.encode import spaced
from multigen.modality import Dataset


def of_dataset(dataset: Dataset, limit: int | None = None) -> list[str]:
    """The sequences of a data set, or of so many evenly spaced items."""
    return [letters(dataset[i]["sequence"]) for i in spaced(len(dataset), limit)]


def made(sample: Designed) -> str:
    """The residues that were made, those that were given as X."""
    return "".join(letter if free else "X" for letter, free in zip(sample.sequence, sample.free, strict=True))


def fitting(real: Sequence[str], count: int) -> list[str]:
    """As many real sequences as there are samples, evenly spaced, since distances depend on the number."""
    return [real[i] for i in spaced(len(real), count)]


def named(dataset: Dataset, side: str) -> str:
    """A data set in a few words."""
    return f"{len(dataset):,} {side} sequences of {describe.dataset(dataset).get('name', 'the data')}"
