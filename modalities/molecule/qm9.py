"""QM9: 130,831 molecules of up to nine heavy atoms C, N, O, F, at equilibrium (Ramakrishnan et al. 2014).

The raw files are those of `torch_geometric.datasets.QM9`, and are downloaded the way it does when they are not there. They are
read here rather than from its processed `Data`, which do not keep formal charges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import collect, sdf
from modalities.molecule.collect import Found, Rules, Source
from modalities.molecule.stored import Stored
from multigen import files, store
from multigen.state import MultigenError

FORMAT = 1
RAW = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
TRAIN, ALL = 100_000, 130_831
"""Molecules of the usual training set, and of the whole without the uncharacterised ones."""


class Qm9(Stored):
    """QM9, without the uncharacterised molecules, in the usual splits (see `usual_split`). Names are gdb_1, gdb_2, ...

    Args:
        split: "train", "valid", "test" or "all".
        hydrogens, aromatic, max_atoms, limit: see `modalities.molecule.stored.Stored`.
        root: the data root; by default `multigen.files.data_root()`.
    """

    def __init__(
        self,
        split: str = "train",
        hydrogens: bool = True,
        aromatic: bool | None = None,
        max_atoms: int | None = None,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / "qm9" / "molecules"
        options = {"hydrogens": hydrogens, "aromatic": aromatic, "max_atoms": max_atoms, "limit": limit}
        super().__init__(folder, split, **options, what="qm9 molecules", command="multigen prepare data=qm9")  # type: ignore[arg-type]


def prepare(path: str | Path | None = None, strict: bool = False, root: str | Path | None = None) -> Path:
    """Store QM9, or verify what is there. Returns its folder.

    Args:
        path: a folder that holds `RAW`, itself or in ``raw``, as torch_geometric keeps them; without it they are downloaded
            into the data root.
        strict: stop at a molecule that cannot be used. A few have a valence that RDKit refuses.
        root: the data root.

    Raises:
        MultigenError: the raw files are not there and cannot be downloaded, do not belong together, or hold nothing.
    """
    base = (Path(root) if root else files.data_root()) / "qm9"
    raw = find_raw(Path(path).expanduser()) if path else download(base / "raw")
    found = [raw / name for name in RAW]
    recipe = {"format": FORMAT, "files": store.digest(raw, found)}
    source = Source("qm9", lambda progress: molecules(raw, progress), lambda: sdf.size(found[:1]), recipe, "CC0-1.0")
    return collect.prepare(base / "molecules", source, Rules(by="given"), strict)


def find_raw(path: Path) -> Path:
    """The folder of the raw files: `path`, or ``raw`` in it.

    Raises:
        MultigenError: one is missing.
    """
    if not path.is_dir():
        raise MultigenError(f"{path} is not a folder")
    raw = path / "raw" if (path / "raw").is_dir() else path
    if missing := [name for name in RAW if not (raw / name).is_file()]:
        raise MultigenError(f"{raw} is no QM9 folder: it has no {missing[0]}; expected {', '.join(RAW)}")
    return raw


def download(raw: Path) -> Path:
    """Bring the raw files from where torch_geometric has them from; those that are there are kept.

    Raises:
        MultigenError: they cannot be reached.
    """
    if all((raw / name).is_file() for name in RAW):
        return raw
    from torch_geometric.data import download_url, extract_zip
    from torch_geometric.datasets import QM9

    files.make_folder(raw)
    try:
        archive = download_url(QM9.raw_url, str(raw))
        extract_zip(archive, str(raw))
        os.unlink(archive)
        os.replace(download_url(QM9.raw_url2, str(raw)), raw / RAW[2])
    except OSError as error:  # urllib's errors are
        by_hand = f"put {', '.join(RAW)} into {raw} by hand, or give their folder as data.path"
        raise MultigenError(f"cannot download QM9 ({error}): {by_hand}") from None
    return find_raw(raw)


def molecules(raw: Path, progress: Callable[[int], None] = lambda done: None) -> Iterator[Found]:
    """The molecules of the raw files, without the uncharacterised ones, each with its split.

    Raises:
        MultigenError: there are not as many molecules as the table of properties has rows.
    """
    with open(raw / RAW[1], "rb") as table:
        count = sum(1 for line in table if line.strip()) - 1
    left_out = uncharacterised(raw / RAW[2])
    splits = iter(usual_split(count - len({i for i in left_out if i < count})))
    number = 0
    for number, found in enumerate(sdf.molecules([raw / RAW[0]], progress), 1):
        if number > count:
            break
        if number - 1 not in left_out:
            yield found._replace(split=next(splits))
    if number != count:
        raise MultigenError(f"{raw / RAW[0]} has {number}{'+' * (number > count)} molecules, {RAW[1]} {count} rows: not QM9")


def uncharacterised(path: Path) -> set[int]:
    """Numbers, from 0, of the molecules that changed while they were relaxed: the lines that begin with a number.

    Raises:
        MultigenError: the file names none.
    """
    first = (line.split()[0] for line in files.read_text(path).splitlines() if line.strip())
    if not (found := {int(word) - 1 for word in first if word.isdigit()}):
        raise MultigenError(f"{path} is not QM9's list of uncharacterized molecules: no line begins with a number")
    return found


def usual_split(count: int) -> Sequence[str]:
    """A side for each of `count` molecules.

    For the whole set it is the one of Anderson et al. 2019 (Cormorant) that has been used since: numpy's permutation with
    seed 0; the first 100,000 train, the last tenth tests, what is between validates. Smaller sets are divided in proportion.
    """
    train, test = TRAIN * count // ALL, count // 10
    sides: NDArray[np.object_] = np.empty(count, object)  # (N,)
    order = np.random.RandomState(0).permutation(count)  # (N,); the published split is made by this generator
    sides[order] = list(chain(["train"] * train, ["valid"] * (count - train - test), ["test"] * test))
    return sides.tolist()
