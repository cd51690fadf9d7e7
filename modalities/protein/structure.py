"""Backbones read from PDB and mmCIF files, a choice of their residues, and designs written as PDB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from modalities.protein import polymer
from modalities.protein.alphabet import letters
from modalities.protein.choice import residues
from modalities.protein.geometry import CA, C, N, place_oxygen
from modalities.protein.pdb import CHAINS, pdb_text, write_pdb
from modalities.protein.polymer import Residue, read_chains
from multigen.files import nearest
from multigen.state import MultigenError

__all__ = ["SUFFIXES", "Structure", "pdb_text", "read_structure", "residues", "stem", "write_pdb"]

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
"""Names of structure files end so, or so and ``.gz``."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The protein chains of a file, one after another."""

    name: str
    sequence: NDArray[np.int8]
    """(L,) tokens 0..20."""
    backbone: NDArray[np.float32]
    """(L, 4, 3): N, CA, C, O in Angstrom, NaN where missing."""
    chain: NDArray[np.int16]
    """(L,): number of the chain, 0, 1, ..."""
    index: NDArray[np.int32]
    """(L,): place along the chain; strictly increasing in each, a missing loop of 3 residues is a jump of 4."""
    chains: tuple[str, ...]
    """Name of each chain."""
    labels: tuple[str, ...]
    """Of each residue, the author's number with its insertion code, like 52A."""

    def __len__(self) -> int:
        return len(self.sequence)

    def example(self) -> dict[str, Any]:
        """As an item of a data set: copies of the arrays."""
        arrays = {key: getattr(self, key).copy() for key in ("sequence", "backbone", "chain", "index")}
        return {"name": self.name, **arrays}

    @classmethod
    def of(cls, example: Mapping[str, Any]) -> Self:
        """From an item of a data set; chains are named A, B, ..., residues by their place."""
        arrays = {key: np.asarray(example[key]) for key in ("sequence", "backbone", "chain", "index")}
        names = [*CHAINS, *map(str, range(int(arrays["chain"].max(initial=0))))][: int(arrays["chain"].max(initial=-1)) + 1]
        return cls(example["name"], **arrays, chains=tuple(names), labels=tuple(map(str, arrays["index"])))

    def letters(self, chain: str | None = None) -> str:
        """Sequence of a chain, or of all one after another."""
        return letters(self.sequence if chain is None else self.sequence[self.of_chain(chain)])

    def of_chain(self, chain: str) -> NDArray[np.bool_]:
        """(L,): the residues of a chain; `MultigenError` naming the chains if there is none of that name."""
        check_chains(self.name, self.chains, [chain])
        return self.chain == self.chains.index(chain)  # (L,)

    def select(self, chains: str | Sequence[str]) -> Structure:
        """These chains, in this order: names, or one text with commas between them."""
        names = chain_names(chains)
        rows = np.concatenate([np.flatnonzero(self.of_chain(name)) for name in names])  # (M,)
        chain = np.concatenate([np.full(self.of_chain(name).sum(), i, np.int16) for i, name in enumerate(names)])  # (M,)
        labels = tuple(self.labels[row] for row in rows)
        return Structure(self.name, self.sequence[rows], self.backbone[rows], chain, self.index[rows], tuple(names), labels)


def chain_names(chains: str | Sequence[str]) -> list[str]:
    """The names in "A,B" or ["A", "B"], each once; `MultigenError` if there is none."""
    parts = chains.split(",") if isinstance(chains, str) else chains
    names = list(dict.fromkeys(part.strip() for part in parts))
    if not names or "" in names:
        raise MultigenError(f"no chain is named in {chains!r}: write names with commas between them, like A,B")
    return names


def check_chains(what: str, there: Iterable[str], wanted: Iterable[str]) -> None:
    for name in wanted:
        if name not in (known := list(there)):
            raise MultigenError(f"{what} has no protein chain {name!r}: {nearest(name, known)}")


def read_structure(path: str | Path, chains: str | Sequence[str] | None = None, model: int = 0) -> Structure:
    """Read the protein chains of a PDB or mmCIF file, plain or gz; the content tells which.

    Waters, ligands, nucleic acids and hydrogens are left out; an O that alone is missing is placed. What counts as a residue,
    see `modalities.protein.polymer.read_chains`.

    Args:
        path: the file.
        chains: names of the wanted ones (the author's, as printed in papers), in the wanted order; by default all of the file.
        model: 0 for the first model.

    Raises:
        MultigenError: there is no such file, it is no structure, or it lacks the model, a chain, all protein, or the
            backbone of a wanted chain.
    """
    path = Path(path)
    found = read_chains(path, model)
    wanted = list(found) if chains is None else chain_names(chains)
    check_chains(str(path), found, wanted)
    for name in wanted:
        _check_backbone(path, name, np.stack([residue.backbone for residue in found[name]]))
    return assemble(stem(path), {name: found[name] for name in wanted})


def _check_backbone(path: Path, chain: str, backbone: NDArray[np.float32]) -> None:
    known = np.all(np.isfinite(backbone), axis=-1)  # (L, 4)
    if not known[:, CA].any():
        raise MultigenError(f"{path}: chain {chain} has no CA atom")
    if not known[:, [N, CA, C]].all(-1).any():
        raise MultigenError(f"{path}: chain {chain} has no residue with all of N, CA and C")


def stem(path: Path) -> str:
    """The file's name without what tells the format."""
    name = path.name.removesuffix(".gz")
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def assemble(name: str, chains: Mapping[str, Sequence[Residue]]) -> Structure:
    """One structure of the residues of these chains."""
    residues = [residue for chain in chains.values() for residue in chain]
    return Structure(
        name=name,
        sequence=polymer.sequence(residues),
        backbone=place_oxygen(np.stack([residue.backbone for residue in residues])).astype(np.float32),
        chain=np.repeat(np.arange(len(chains), dtype=np.int16), [len(chain) for chain in chains.values()]),
        index=np.concatenate([polymer.index(chain) for chain in chains.values()]),
        chains=tuple(chains),
        labels=tuple(polymer.label((residue.number, residue.code)) for residue in residues),
    )
