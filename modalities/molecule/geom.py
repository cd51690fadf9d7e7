"""GEOM-Drugs: 304,466 drug-like molecules with their conformers (Axelrod and Gomez-Bombarelli 2022).

It comes as pickles, and to unpickle is to run what the file says. `prepare` therefore is a step of its own, and reads pickles
by an unpickler that makes nothing but RDKit molecules, numbers, texts and plain containers; of numpy's objects, which it does
not make either, it takes numbers and leaves out arrays. Any other name in a file is refused before it is looked up. (RDKit's
own reader of molecules still sees the bytes: take files from where you trust.) Training reads only what `prepare` wrote.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modalities.molecule import collect, sdf
from modalities.molecule.collect import Found, Rules, Source
from modalities.molecule.stored import Stored
from multigen import files, store
from multigen.state import MultigenError

FORMAT = 1
LISTS = {"train_data.pickle": "train", "val_data.pickle": "valid", "test_data.pickle": "test"}
"""The three lists of (SMILES, conformers) that MiDi (Vignac et al. 2023) divided the set into; most work since uses them."""
FOLDERS = ("", "drugs", "rdkit_folder/drugs")
"""Where the raw pickles, one for each molecule, lie below the folder that is given."""
CONFORMERS = 5
SHARE = TESTED = 10.0
SPLITS = "splits.json"
"""A file of this name beside raw pickles divides them: {"train": [file's name without its ending, ...], "valid": ...}."""

_ADMITTED = {
    ("rdkit.Chem.rdchem", "Mol"),
    ("collections", "OrderedDict"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray", "complex")),
}
"""What a pickle may make."""


class GeomDrugs(Stored):
    """Conformers of GEOM-Drugs, a few of each molecule, in the usual splits. Their name is the molecule's.

    Args:
        split: "train", "valid", "test" or "all".
        hydrogens, aromatic, max_heavy, max_atoms, limit: see `modalities.molecule.stored.Stored`.
        root: the data root; by default `multigen.files.data_root()`.
    """

    def __init__(
        self,
        split: str = "train",
        hydrogens: bool = True,
        aromatic: bool | None = None,
        max_heavy: int | None = None,
        max_atoms: int | None = None,
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / "geom_drugs"
        command = "multigen prepare data=geom_drugs data.path=FOLDER"
        chosen = {"hydrogens": hydrogens, "aromatic": aromatic, "max_heavy": max_heavy, "max_atoms": max_atoms, "limit": limit}
        super().__init__(folder, split, **chosen, what="geom_drugs molecules", command=command)  # type: ignore[arg-type]


def prepare(path: str | Path, conformers: int = CONFORMERS, strict: bool = False, root: str | Path | None = None) -> Path:
    """Convert GEOM-Drugs, unless that is done. Returns the folder of what is stored.

    Args:
        path: a folder of one of three kinds. `LISTS`, of which each is read into memory whole. Or the raw pickles, in one of
            `FOLDERS`: they are divided by `SPLITS` if that is there, else 80 : 10 : 10 by a hash of their name. Or SDF files,
            where train.sdf, valid.sdf and test.sdf are the splits, and records of one molecule have one title.
        conformers: of each molecule the first ones, or those of lowest energy where the file has energies.
        strict: stop at the first that cannot be used.
        root: the data root.

    Raises:
        MultigenError: the folder is of no such kind, a pickle is damaged or holds something that is refused, ...
    """
    source = Path(path).expanduser()
    found, read, given = _recognised(source)
    rules = Rules(by="given" if given else "name", share=SHARE, tested=TESTED)
    recipe = {"format": FORMAT, "files": store.digest(source, found), "conformers": conformers}
    kind = Source("geom_drugs", lambda progress: read(found, conformers, progress), lambda: sdf.size(found), recipe, "CC0-1.0")
    return collect.prepare((Path(root) if root else files.data_root()) / "geom_drugs", kind, rules, strict)


Reader = Callable[[Sequence[Path], int, Callable[[int], None]], Iterator[Found]]


def _recognised(path: Path) -> tuple[list[Path], Reader, bool]:
    """The files, what reads them, and whether they say themselves what is on which side."""
    if not path.is_dir():
        raise MultigenError(f"{path} is not a folder")
    if (path / "train_data.pickle").is_file():
        if missing := [name for name in LISTS if not (path / name).is_file()]:
            raise MultigenError(f"{path} is no GEOM-Drugs folder: it has train_data.pickle, but no {missing[0]}")
        return [path / name for name in LISTS], from_lists, True
    for below in FOLDERS:
        if raw := sorted((path / below).glob("*.pickle")):
            listed = read_splits(path / SPLITS)
            return raw, partial(from_pickles, listed=listed), listed is not None
    if any(p.name.lower().endswith(sdf.SUFFIXES) for p in path.iterdir()):
        found = sdf.find(path)
        return found, from_sdf, all(sdf.stem(p) in sdf.SIDES for p in found)
    expected = f"{', '.join(LISTS)}; or *.pickle, there or in {' or '.join(FOLDERS[1:])}; or *.sdf"
    raise MultigenError(f"{path} is no GEOM-Drugs folder: expected {expected}")


def read_splits(path: Path) -> dict[str, str] | None:
    """Name -> split of a `SPLITS`; None if there is no such file."""
    if not path.is_file():
        return None
    content = files.read_json(path)
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise MultigenError(f'{path} is damaged: expected {{"train": [name, ...], "valid": [...], "test": [...]}}')
    return {str(name): split for split, names in content.items() for name in names}


def from_lists(found: Sequence[Path], conformers: int, progress: Callable[[int], None]) -> Iterator[Found]:
    """The molecules of `LISTS`."""
    before = 0
    for path in found:
        content = load(path)
        if not isinstance(content, list):
            raise MultigenError(f"{path} is no list of molecules, but a {type(content).__name__}")
        for number, entry in enumerate(content, 1):
            yield from _conformers(f"{path.name} entry {number}", entry, conformers, LISTS[path.name])
            progress(before + path.stat().st_size * number // len(content))
        before += path.stat().st_size


def _conformers(where: str, entry: Any, conformers: int, split: str) -> Iterator[Found]:
    """Of an entry (SMILES, [molecule, ...])."""
    if not (isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[1], (tuple, list))):
        yield Found(where, reason="broken", detail="it is not a pair of a SMILES and molecules")
        return
    for number, mol in enumerate(entry[1][:conformers], 1):
        yield _found(f"{where} conformer {number}", mol, str(entry[0]), split)


def _found(where: str, mol: Any, name: str, split: str = "train") -> Found:
    if type(mol).__name__ != "Mol":
        return Found(where, reason="broken", detail=f"a {type(mol).__name__} where a molecule should be", name=name)
    return Found(where, mol, name=name, split=split)


def from_pickles(
    found: Sequence[Path], conformers: int, progress: Callable[[int], None], listed: Mapping[str, str] | None = None
) -> Iterator[Found]:
    """The molecules of raw pickles, one file in memory at a time.

    Args:
        listed: name -> split; files that it does not name are left out.
    """
    done = 0
    for path in found:
        done += path.stat().st_size
        progress(done)
        if listed is None or path.stem in listed:
            try:
                entry = load(path)["conformers"]
                entry = sorted(entry, key=lambda c: c.get("relativeenergy", c.get("totalenergy", 0.0)))[:conformers]
                mols = [conformer["rd_mol"] for conformer in entry]
            except (KeyError, TypeError, AttributeError) as error:
                yield Found(path.name, reason="broken", detail=f"no conformers in it ({type(error).__name__}: {error})")
                continue
            for number, mol in enumerate(mols, 1):
                yield _found(f"{path.name} conformer {number}", mol, path.stem, listed[path.stem] if listed else "train")


def from_sdf(found: Sequence[Path], conformers: int, progress: Callable[[int], None]) -> Iterator[Found]:
    """The molecules of SDF files; of records that follow one another with one title, the first ones."""
    title, count = None, 0
    for one in sdf.molecules(found, progress):
        title, count = one.name, count + 1 if one.name and one.name == title else 1
        if count <= conformers:
            yield one


class _Inert:
    """Stands in for an object of numpy's that is not wanted: takes anything, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Ignored."""


def _scalar(kind: Any, content: Any = b"") -> Any:
    """A number of numpy's as a plain one; whatever else it is stays unmade."""
    code = kind.args[0] if isinstance(kind, _Inert) and kind.args else ""
    letter = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "b1": "?"}.get(code if isinstance(code, str) else "")
    whole = letter and isinstance(content, bytes) and len(content) == struct.calcsize(f"<{letter}")
    return struct.unpack(f"<{letter}", content)[0] if whole else _Inert()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for `codecs.encode`, by which old pickles write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is refused")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Makes nothing but what is admitted."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module.partition(".")[0] == "numpy":
            return _scalar if name == "scalar" else _Inert
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is refused")
        return super().find_class(module, name)


def load(path: Path) -> Any:
    """What a pickle holds, as long as it is RDKit molecules, numbers, texts and plain containers.

    Raises:
        MultigenError: the file is damaged, or asks for anything else.
    """
    import rdkit.Chem  # noqa: F401 # molecules cannot be made before it is there

    try:
        with open(path, "rb") as file:
            return _Unpickler(file).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise MultigenError(f"{path} cannot be unpickled ({type(error).__name__}: {error})") from None
