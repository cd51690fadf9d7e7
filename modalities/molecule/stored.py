"""The layout in which prepared molecules lie on the disk, and the data set that reads it by memory map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import vocabulary
from modalities.molecule.chemistry import HYDROGEN, Record, dense
from modalities.molecule.vocabulary import ELEMENTS
from multigen.state import MultigenError
from multigen.store import Column, Layout, Store, kept

LAYOUT = Layout(
    tables={
        "": {"atoms": Column("<i1"), "charges": Column("<i1"), "coords": Column("<f4", (3,))},
        "bond": {"pair": Column("<i2", (2,)), "order": Column("<i1")},
    },
    items={"heavy": Column("<i2"), "composition": Column("<i4"), "group": Column("<i8")},
    texts=("name", "caption", "smiles"),
)
"""A record (`modalities.molecule.chemistry.Record`); the number of heavy atoms, the elements as bits, what the molecule is
grouped by when the set is split; name, chemical name and SMILES."""
ORGANIC = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")


def stored(record: Record, group: int, name: str, caption: str = "", smiles: str = "") -> dict[str, Any]:
    """A record as `LAYOUT` holds it."""
    atoms = record["atoms"].astype(np.int64)  # (N,)
    own = {"heavy": int((atoms != HYDROGEN).sum()), "composition": int(np.bitwise_or.reduce(1 << atoms)), "group": group}
    return {**record, **own, "name": name, "caption": caption, "smiles": smiles}


class Stored:
    """The molecules of a prepared folder. An item holds

    - ``name``, ``caption`` (the chemical name, or "") and ``smiles``;
    - ``coords`` float32 (N, 3) in Angstrom; ``atoms``, ``charges`` int8 (N,) and ``bonds`` int8 (N, N), in classes of
      `modalities.molecule.vocabulary`;
    - without hydrogens, ``hydrogens`` float32 (h, 3), where those are that are left out.

    Args:
        folder: where they lie.
        split: "train", "valid", "test" or "all".
        hydrogens: whether hydrogens are atoms of their own.
        aromatic: whether aromatic bonds are a class of their own; by default, they are if hydrogens are (see
            `modalities.molecule.chemistry.from_rdkit`).
        min_heavy, max_heavy: heavy atoms, both included; others are left out.
        max_atoms: likewise, of what is counted as an atom.
        elements: molecules of other elements are left out; None allows all of the vocabulary.
        limit: keep this many, drawn by a fixed hash: a smaller limit gives a subset of a larger one's.
        what: the data's name in messages.
        command: what prepares them, for messages.

    Attributes:
        sizes: int64 (n,), atoms of each.
        groups: int64 (n,), numbers of what they were grouped by when the set was split.

    Raises:
        MultigenError: the folder is not prepared or damaged, has no such split, or no hydrogens; nothing is left of it.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        hydrogens: bool = True,
        aromatic: bool | None = None,
        min_heavy: int = 1,
        max_heavy: int | None = None,
        max_atoms: int | None = None,
        elements: Sequence[str] | None = None,
        limit: int | None = None,
        what: str = "molecules",
        command: str = "multigen prepare",
    ) -> None:
        self.store = Store(folder, LAYOUT, what, command)
        self.split, self.hydrogens, self.aromatic = split, hydrogens, hydrogens if aromatic is None else aromatic
        if hydrogens and not self.store.manifest.get("hydrogens", True):
            raise MultigenError(f"{what} are prepared without hydrogens; set hydrogens=false, or prepare them anew")
        options = [split, hydrogens, self.aromatic, min_heavy, max_heavy, max_atoms, elements and sorted(elements), limit]
        self._options = options
        sizes = self.store.sizes() if hydrogens else self.store.column("heavy").astype(np.int64)  # (all,)
        keep = self._kept(sizes, min_heavy, max_heavy, max_atoms, elements)  # (all,)
        if not (keep := keep & self.store.in_split(split)).any():
            raise MultigenError(f"{what} have nothing in split {split!r} of the sizes and elements that are asked for")
        self.rows = kept(keep, limit)  # (n,)
        self.sizes = sizes[self.rows]  # (n,)
        self.groups = self.store.column("group")[self.rows]  # (n,)

    def _kept(
        self,
        sizes: NDArray[np.int64],
        min_heavy: int,
        max_heavy: int | None,
        max_atoms: int | None,
        elements: Sequence[str] | None,
    ) -> NDArray[np.bool_]:
        """(all,), the molecules of the sizes and elements that are asked for."""
        heavy = self.store.column("heavy")  # (all,)
        keep = (heavy >= min_heavy) & (sizes >= 1)  # (all,)
        for bound, found in ((max_heavy, heavy), (max_atoms, sizes)):
            keep &= found <= bound if bound is not None else True
        others = bits(ELEMENTS) & ~bits(elements) if elements is not None else 0
        return keep & ((self.store.column("composition") & others) == 0)

    @cached_property
    def fingerprint(self) -> str:
        return self.store.fingerprint(*self._options)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.store[self.rows[index]]
        texts = {text: item[text] for text in LAYOUT.texts}
        return {**texts, **dense(item, self.hydrogens, self.aromatic)}


def bits(symbols: Sequence[str]) -> int:
    """A set of elements as one number.

    Raises:
        MultigenError: one of them is not in the vocabulary.
    """
    return int(np.bitwise_or.reduce(1 << vocabulary.elements(symbols).astype(np.int64), initial=0))
