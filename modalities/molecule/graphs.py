"""Molecules as torch_geometric has them: the format of exchange, and any of its data sets as training data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import scaffold
from modalities.molecule.chemistry import HYDROGEN, Unfit, check_coords, fragments
from modalities.molecule.vocabulary import ATOMIC_NUMBERS, BONDS, CHARGES, charges, numbers
from multigen.files import nearest
from multigen.random import hash64
from multigen.state import MultigenError

if TYPE_CHECKING:
    from torch_geometric.data import Data

SPLITS = ("train", "valid", "all")


def to_data(example: Mapping[str, Any]) -> Data:
    """An example as a graph.

    Returns:
        ``z`` Long (N,) atomic numbers, ``pos`` Float (N, 3) in Angstrom, ``charges`` Long (N,) formal charges, ``edge_index``
        Long (2, 2 M), each bond in both directions, ``edge_attr`` Long (2 M,), the index into `vocabulary.BONDS`: 1 single, 2
        double, 3 triple, 4 aromatic; ``name``, and ``smiles`` if the example has one.
    """
    import torch
    from torch_geometric.data import Data

    edges = np.argwhere(example["bonds"])  # (2 M, 2), sorted
    texts = {name: example[name] for name in ("name", "smiles", "caption") if example.get(name)}
    return Data(
        z=torch.from_numpy(np.array(ATOMIC_NUMBERS)[example["atoms"]]),  # (N,)
        pos=torch.from_numpy(np.array(example["coords"], np.float32)),  # (N, 3)
        charges=torch.from_numpy(np.array(CHARGES)[example["charges"]]),  # (N,)
        edge_index=torch.from_numpy(np.ascontiguousarray(edges.T)),  # (2, 2 M)
        edge_attr=torch.from_numpy(example["bonds"][tuple(edges.T)].astype(np.int64)),  # (2 M,)
        **texts,
    )


def from_data(data: Data, name: str = "") -> dict[str, Any]:
    """A graph as an example.

    Args:
        data: ``z`` (N,) atomic numbers, ``pos`` (N, 3), ``edge_index`` (2, E) in one or both directions, and ``edge_attr``:
            (E,) or (E, 1) as `to_data` makes it, or one-hot (E, 4) single, double, triple, aromatic, as in torch_geometric's
            QM9, or (E, 5) with "none" first. ``charges`` or ``formal_charge`` (N,) where there are any; else all are neutral
            (torch_geometric's QM9 keeps none of its few; ``data=qm9`` does).
        name: of the molecule, unless `data` has one.

    Raises:
        MultigenError: something is missing or out of the vocabulary, bonds contradict one another, two atoms are at one place,
            or the molecule has several fragments.
    """
    name = str(getattr(data, "name", None) or name)
    try:
        example = _example(data)
        check_coords(example["coords"])
        if len(sizes := np.bincount(fragments(example["bonds"]))) > 1:
            raise Unfit("more than one fragment", " and ".join(f"{n} atoms" for n in sorted(sizes.tolist(), reverse=True)))
    except MultigenError as error:
        raise MultigenError(f"graph {name!r}: {error}") from None
    return {"name": name, **example}


def _example(data: Data) -> dict[str, Any]:
    for key in ("z", "pos", "edge_index", "edge_attr"):
        if getattr(data, key, None) is None:
            raise MultigenError(f"it has no {key!r}; it has {sorted(data.keys())}")
    atoms = numbers(data.z.reshape(-1).tolist())  # (N,)
    coords = data.pos.numpy().astype(np.float32)  # (N, 3)
    if coords.shape != (len(atoms), 3):
        raise MultigenError(f"pos has shape {coords.shape}, expected {(len(atoms), 3)}: no 3-D coordinates")
    formal = next((data[key] for key in ("charges", "formal_charge", "formal_charges") if key in data), None)
    if formal is not None and formal.numel() != len(atoms):
        raise MultigenError(f"there are {formal.numel()} formal charges for {len(atoms)} atoms")
    own = charges(formal.reshape(-1).tolist()) if formal is not None else np.zeros(len(atoms), np.int8)  # (N,)
    texts = {key: str(data[key]) for key in ("smiles", "caption") if key in data}
    return {"coords": coords, "atoms": atoms, "charges": own, "bonds": _bonds(data, len(atoms)), **texts}


def _bonds(data: Data, count: int) -> NDArray[np.int8]:
    """(N, N)."""
    edges, kinds = data.edge_index.numpy(), edge_classes(data.edge_attr.numpy())  # (2, E), (E,)
    if edges.shape != (2, len(kinds)) or (edges.size and not 0 <= edges.min() <= edges.max() < count):
        raise MultigenError(f"edge_index of shape {edges.shape} does not fit {count} atoms and {len(kinds)} edge_attr")
    bonds = np.zeros((count, count), np.int8)  # (N, N)
    bonds[tuple(edges)] = kinds
    if ((bonds != bonds.T) & (bonds != 0) & (bonds.T != 0)).any():
        raise MultigenError("a bond has another edge_attr in the other direction")
    bonds = np.maximum(bonds, bonds.T)  # (N, N)
    np.fill_diagonal(bonds, 0)
    return bonds


def edge_classes(attributes: NDArray[Any]) -> NDArray[np.int8]:
    """(E,) classes of edges, of the kinds of ``edge_attr`` that `from_data` takes."""
    flat = attributes.reshape(len(attributes), -1)  # (E, K)
    if (kinds := flat.shape[1]) in (len(BONDS) - 1, len(BONDS)) and ((flat == 0) | (flat == 1)).all():
        return (flat.argmax(1) + len(BONDS) - kinds).astype(np.int8)  # (E,)
    if kinds == 1 and (np.isin(flat, range(len(BONDS)))).all():
        return flat[:, 0].astype(np.int8)  # (E,)
    raise MultigenError(
        f"edge_attr of shape {attributes.shape} is neither classes 0 to {len(BONDS) - 1} nor one-hot of 4 or 5"
    )


class PyGDataset:
    """Any data set of torch_geometric whose graphs `from_data` understands.

    All graphs are looked at once, for their sizes, their frameworks and a fingerprint.

    Args:
        dataset: it.
        split: "train", "valid" or "all"; molecules of one framework are on one side (see `modalities.molecule.scaffold`).
        share: per cent of the frameworks in "valid".
        max_atoms: larger molecules are left out.
        hydrogens: whether hydrogens are among the atoms; by default, they are if any graph has one. Say false of heavy atoms
            alone, so that a run's configuration shows it to `multigen complete`.

    Attributes:
        sizes: int64 (n,), atoms of each.
        hydrogens: as given, or found. Without, valences are filled with implicit ones, of which nobody knows where they are
            (an item says so by ``hydrogens`` of none).

    Raises:
        MultigenError: a graph is not understood (the message names it); there is none; there are hydrogens, unlike
            what is said.
    """

    def __init__(
        self,
        dataset: Any,
        split: str = "train",
        share: float = 10.0,
        max_atoms: int | None = None,
        hydrogens: bool | None = None,
    ) -> None:
        if split not in SPLITS:
            raise MultigenError(f"no split {split!r}: {nearest(split, SPLITS)}")
        self.dataset, self.split = dataset, split
        present = False
        sizes, groups, digest = [], [], hashlib.sha256(f"{split} {share} {max_atoms}".encode())
        for i in range(len(dataset)):
            example = self._read(i)
            sizes.append(len(example["atoms"]))
            groups.append(_group(example))
            present |= bool((example["atoms"] == HYDROGEN).any())
            for key in ("atoms", "charges", "bonds", "coords"):
                digest.update(example[key].tobytes())
        if present and hydrogens is False:
            raise MultigenError(f"{type(dataset).__name__} has graphs with hydrogens: hydrogens=false says that it has none")
        self.hydrogens = present if hydrogens is None else hydrogens
        if self.hydrogens != present:  # items differ, and so do representations of them
            digest.update(b"hydrogens")
        held = np.array(scaffold.sides(groups, share)) == "valid"  # (all,)
        keep = np.ones(len(sizes), bool) if split == "all" else held == (split == "valid")  # (all,)
        counts = np.array(sizes, np.int64)  # (all,)
        self.rows = np.flatnonzero(keep & (counts <= (max_atoms or counts.max(initial=0))))  # (n,)
        if not len(self.rows):
            raise MultigenError(f"{type(dataset).__name__} has nothing in split {split!r} of the sizes that are asked for")
        self.sizes = counts[self.rows]  # (n,)
        self.fingerprint = f"{type(dataset).__name__}-{digest.hexdigest()[:16]}"

    def _read(self, row: int) -> dict[str, Any]:
        return from_data(self.dataset[row], f"{type(self.dataset).__name__} {row}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        apart = {} if self.hydrogens else {"hydrogens": np.zeros((0, 3), np.float32)}  # (0, 3)
        return {**self._read(int(self.rows[index])), **apart}


def _group(example: Mapping[str, Any]) -> int:
    pair = np.argwhere(np.triu(example["bonds"], 1))  # (M, 2)
    return hash64("group", scaffold.framework(example["atoms"], pair))
