"""The layout in which prepared proteins lie on the disk (see `multigen.store`).

Of all proteins one after the other: ``sequence.npy`` (int8 (M,)), ``backbone.npy`` (float32 (M, 4, 3)), ``chain.npy`` (int16
(M,)), ``index.npy`` (int32 (M,)) and ``free.npy`` (bool (M,)); of each protein, its first residue, ``start.npy`` (int64
(N + 1,)), ``split.npy`` (int8 (N,), into `multigen.store.SPLITS`) and ``cluster.npy`` (int64 (N,)); and the names,
``name.npy`` (uint8, UTF-8) with ``name_start.npy`` (int64 (N + 1,)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import CLASSES
from multigen.state import MultigenError
from multigen.store import Column, Layout

RESIDUES = {
    "sequence": Column("<i1"),
    "backbone": Column("<f4", (4, 3)),
    "chain": Column("<i2"),
    "index": Column("<i4"),
    "free": Column("|b1"),
}
LAYOUT = Layout(tables={"": RESIDUES}, items={"cluster": Column("<i8")}, texts=("name",))


def checked(example: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of an example, by column, if they are what they should be.

    Raises:
        MultigenError: naming the example and what is wrong with it.
    """
    count = len(example["sequence"])
    arrays = {name: np.asarray(example[name]) for name in RESIDUES if name in example}
    arrays.setdefault("free", np.ones(count, bool))  # (L,)
    for problem in _problems(arrays, count):
        raise MultigenError(f"protein {example.get('name')!r} is malformed: {problem}")
    return arrays


def _problems(arrays: Mapping[str, NDArray[Any]], count: int) -> Iterator[str]:
    if not count:
        yield "it has no residue"
    for name, column in RESIDUES.items():
        if name not in arrays:
            yield f"it has no {name!r}"
        if arrays[name].shape != (count, *column.row):
            yield f"{name} has shape {arrays[name].shape}, expected {(count, *column.row)}"
    sequence, chain, index = arrays["sequence"], arrays["chain"], arrays["index"]  # (L,) each
    if sequence.min() < 0 or sequence.max() >= CLASSES:
        yield f"tokens from {sequence.min()} to {sequence.max()}, expected 0 to {CLASSES - 1}"
    if np.isinf(arrays["backbone"]).any():
        yield "a coordinate is infinite"
    if not (np.diff(index.astype(np.int64)) > 0)[np.diff(chain) == 0].all():
        yield "index does not increase along a chain"
