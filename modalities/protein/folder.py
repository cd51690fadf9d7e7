"""A folder of one's own structures as a data set."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from modalities.protein import cluster, gather
from modalities.protein.sides import Added, chains_of, sides
from modalities.protein.stored import Stored, Writer
from modalities.protein.structure import stem
from multigen import files
from multigen.files import nearest
from multigen.state import MultigenError
from multigen.store import SPLITS, digest, lock

FORMAT = 1
LIST = "splits.json"
"""A file of this name in the folder says what is on which side: {"train": [name, ...], "valid": [...], "test": [...]}."""
BY = ("cluster", "name")


class Folder(Stored):
    """Every PDB and mmCIF file below a folder, plain or gz.

    They are read once, when the data set is first made, and from then on by memory map; a run that was interrupted goes on. A
    file that cannot be read is left out, and a line says so. An example is named after its file, without what tells the
    format; files of equal names are named by their path. An example of one chain has the chain's name behind it: 1abc_A.

    Args:
        path: the folder.
        split: "train", "valid", "test" or "all". What is on which side is said by `LIST` if the folder has one (names of files
            or of examples; what it does not name is left out), otherwise by `by`.
        share: per cent of the clusters, or of the files, in "valid".
        min_length, max_length: residues, both included.
        limit: keep this many.
        chains: "all" makes one example of a file, "first" one of its first protein chain, "each" one of each chain.
        by: "cluster" keeps together what has similar chains (see `modalities.protein.cluster`); "name" goes by a hash of the
            name and is quicker.
        strict: refuse the folder if a file cannot be read.
        root: the data root, below which the arrays are kept.

    Raises:
        MultigenError: there is no such folder, it holds no structure, nothing is left of it, `LIST` is damaged, an option is
            unknown, or, with `strict`, a file cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        share: int = 10,
        min_length: int = 20,
        max_length: int | None = None,
        limit: int | None = None,
        chains: str = "all",
        by: str = "cluster",
        strict: bool = False,
        root: str | Path | None = None,
    ) -> None:
        _check(share, chains=(chains, gather.CHAINS), by=(by, BY))
        source = Path(path).expanduser()
        found = gather.find_structures(source)
        listed = read_list(source / LIST)
        recipe = {"format": FORMAT, "share": share, "chains": chains, "by": by, "list": listed, "clusters": cluster.recipe()}
        store = (Path(root) if root else files.data_root()) / "proteins" / digest(source, found, recipe)
        with lock(store):
            if not (store / "manifest.json").is_file():
                _build(store, source, found, recipe, strict)
        super().__init__(store, split, min_length, max_length, limit, f"structures of {source.name}", f"rm -r {store}")
        unreadable = self.manifest["unreadable"]
        _stop(strict and bool(unreadable), source, unreadable, len(found))


def _check(share: int, **options: tuple[str, Sequence[str]]) -> None:
    if not 0 <= share < 100:
        raise MultigenError(f"share is 0 to 99 per cent, got {share}")
    for name, (value, choices) in options.items():
        if value not in choices:
            raise MultigenError(f"unknown {name} {value!r}: {nearest(value, choices)}")


def read_list(path: Path) -> dict[str, str] | None:
    """Name -> split of a `LIST`; None if there is no such file.

    Raises:
        MultigenError: it is damaged, names an unknown split, or has a name twice.
    """
    if not path.is_file():
        return None
    content = files.read_json(path)
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise MultigenError(f'{path} is damaged: expected {{"train": [name, ...], "valid": [...]}}')
    if unknown := [split for split in content if split not in SPLITS]:
        raise MultigenError(f"{path} has an unknown split {unknown[0]!r}: choices are {list(SPLITS)}")
    count = Counter(str(name) for name in chain.from_iterable(content.values()))
    if twice := [name for name, times in count.items() if times > 1]:
        raise MultigenError(f"{path} has {twice[0]!r} more than once")
    return {str(name): split for split, names in content.items() for name in names}


def _build(store: Path, source: Path, found: Sequence[Path], recipe: Mapping[str, Any], strict: bool) -> None:
    """Read all files and write the arrays; the lock on `store` is held."""
    parts = store.with_name(f"{store.name}.parts")
    unreadable: dict[str, str] = {}
    with Writer(store, {"name": str(source), "licence": "", "recipe": recipe, "unreadable": unreadable}) as writer:
        added: list[Added] = []
        for file, examples, why in gather.gather(source, found, recipe["chains"], parts):
            if why:
                unreadable[file] = why
                _stop(strict, source, unreadable, len(found))
            for example in examples:
                _add(writer, added, example, file, recipe["list"])
        _stop(not added, source, unreadable, len(found))
        writer.label(*sides(added, recipe["by"], recipe["share"]))
    gather.forget(parts)
    if unreadable:
        print(_complaint(source, unreadable, len(found)), file=sys.stderr)


def _add(writer: Writer, added: list[Added], example: Mapping[str, Any], file: str, listed: Mapping[str, str] | None) -> None:
    """Add an example, unless a `LIST` does not name it."""
    side = ""
    if listed is not None:
        keys = [example["name"], file, Path(file).name, stem(Path(file))]
        side = next((listed[key] for key in keys if key in listed), "")
        if not side:
            return
    writer.add(example)
    added.append(Added(example["name"], chains_of(example), side))


def _stop(stop: bool, source: Path, unreadable: Mapping[str, str], count: int) -> None:
    if stop and unreadable:
        raise MultigenError(_complaint(source, unreadable, count))
    if stop:
        raise MultigenError(f"{source / LIST} names none of the {count} files")


def _complaint(source: Path, unreadable: Mapping[str, str], count: int, most: int = 3) -> str:
    """One line that names the first files that cannot be read, and why."""
    named = [f"{file} ({why})" for file, why in list(unreadable.items())[:most]]
    more = ", ..." if len(unreadable) > most else ""
    return f"{len(unreadable)} of {count} files of {source} cannot be used and are left out: {', '.join(named)}{more}"
