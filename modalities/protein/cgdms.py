"""The embedded default: 2,204 short chains of the PDB, out of the package `cgdms` (Greener and Jones 2021).

A member of the package is a text: the sequence, the secondary structure, and a line of twelve numbers for each residue: N, CA,
C and the side chain's centroid. The carbonyl O is not in it and is placed by geometry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.protein import alphabet, cluster, stored
from modalities.protein.geometry import BOND, CA, C, N, O, place_oxygen
from modalities.protein.packages import CGDMS
from modalities.protein.stored import Stored, Writer
from multigen import assets, files
from multigen.state import MultigenError

FOLDER = "cgdms/protein_data/train_val/"
"""Where the package keeps the chains."""
SHARE = 10
"""Per cent of the clusters that are held out."""
EXPECT = 1e-3
"""Chains this short have relatives whose likeness is hardly significant; where a thousand times as much chance counts as
likeness, one chain in eight hangs together in one cluster, which stays in training, and enough are left to be held out."""
STEP = 3.8
"""Angstrom from one CA to the next."""


class Cgdms(Stored):
    """Chains of 20 to 100 residues; the held-out ones share no sequence cluster with the others (see `cluster`).

    Args:
        split: "train", "valid" or "all".
        min_length, max_length: residues, both included.
        limit: keep this many.
        root: the data root; by default `multigen.files.data_root()`.
    """

    def __init__(
        self,
        split: str = "train",
        min_length: int = 1,
        max_length: int | None = None,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / "cgdms"
        super().__init__(folder, split, min_length, max_length, limit, "cgdms chains", "multigen prepare data=cgdms")


def prepare(root: str | Path | None = None) -> Path:
    """Make the chains, or verify what is there. Returns their folder.

    Raises:
        MultigenError: the registry cannot be reached, the package is not the pinned one, or the disk is full.
    """
    base = Path(root) if root else files.data_root()
    about = {"name": "cgdms", "licence": f"{CGDMS.licence} (coordinates: PDB, CC0)", "recipe": recipe()}
    return stored.prepare(base / "cgdms", about, lambda writer: _fill(writer, base))


def recipe() -> dict[str, Any]:
    """Everything that the data depend on."""
    return {"format": 1, "source": CGDMS.describe(), "share": SHARE, "clusters": cluster.recipe(EXPECT)}


def _fill(writer: Writer, root: Path) -> None:
    seen: set[str] = set()
    with assets.opened(CGDMS, root) as archive:
        for member in sorted(name for name in archive.namelist() if name.startswith(FOLDER) and name.endswith(".txt")):
            text = archive.read(member).decode()
            if (sequence := text.partition("\n")[0]) not in seen:  # a dozen chains are there twice
                seen.add(sequence)
                writer.add(parse(text, Path(member).stem))
    sequences = writer.sequences()
    groups = cluster.clusters(sequences, expect=EXPECT)
    writer.label(cluster.splits(sequences, groups, SHARE), groups)


def parse(text: str, name: str) -> dict[str, Any]:
    """One member of the package -> an example.

    Raises:
        MultigenError: it has another number of coordinates than its sequence says, or is no protein.
    """
    sequence, _, numbers = text.split("\n", 2)
    try:
        atoms = np.array(numbers.split(), np.float32).reshape(len(sequence), 4, 3)  # (L, 4, 3): N, CA, C, centroid
    except ValueError:
        raise MultigenError(f"chain {name} of {CGDMS.file}: expected {len(sequence)} lines of twelve numbers") from None
    atoms[:, O] = np.nan  # the centroid
    tokens = alphabet.tokens(sequence)  # (L,)
    length = float(np.median(np.linalg.norm(atoms[:, CA] - atoms[:, N], axis=-1)))
    if (tokens > alphabet.UNKNOWN).any() or not 1.3 < length < 1.6:
        raise MultigenError(f"chain {name} of {CGDMS.file} is no protein: N-CA is {length:.2f} A, sequence {sequence!r}")
    return {
        "name": name,
        "sequence": tokens,
        "backbone": place_oxygen(atoms),
        "chain": np.zeros(len(sequence), np.int16),  # (L,)
        "index": numbering(atoms),
    }


def numbering(backbone: NDArray[np.float32]) -> NDArray[np.int32]:
    """(L, 4, 3) -> (L,): positions along the chain; where it is broken, as few residues are missing as can bridge the gap."""
    bond = np.linalg.norm(backbone[1:, N] - backbone[:-1, C], axis=-1)  # (L - 1,)
    across = np.linalg.norm(backbone[1:, CA] - backbone[:-1, CA], axis=-1)  # (L - 1,)
    step = np.where(bond < BOND, 1, np.maximum(np.ceil(across / STEP), 2))  # (L - 1,)
    return np.concatenate([[0], np.cumsum(step)]).astype(np.int32)  # (L,)
