"""Slow measures, on several processes and with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from multigen.cache.progress import bar
from multigen.pool import processes, processors

if TYPE_CHECKING:
    from rdkit.Chem import Mol

T = TypeVar("T")


def over(mols: Sequence[Mol | None], measure: Callable[[bytes], T], text: str, workers: int | None) -> list[T | None]:
    """What a function finds in each molecule, which it gets as RDKit's bytes; None for None.

    Args:
        measure: a function of a module, or a partial of one.
        text: what is being done.
        workers: processes, one thread each; None for one on each processor.
    """
    binaries = [to_bytes(mol) for mol in mols if mol is not None]
    count = min(workers or processors(), len(binaries))
    if not count:
        return [None for _ in mols]
    # libraries that are first loaded in the processes see this
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with bar(text, len(binaries)) as progress, processes(count) as pool:
            found = []
            for one in pool.imap(measure, binaries):
                found.append(one)
                progress(len(found))
    finally:
        _restore("OMP_NUM_THREADS", before)
    rest = iter(found)
    return [None if mol is None else next(rest) for mol in mols]


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def to_bytes(mol: Mol) -> bytes:
    from rdkit import Chem

    return mol.ToBinary(int(Chem.PropertyPickleOptions.NoProps))


def from_bytes(binary: bytes) -> Any:
    from rdkit import Chem

    return Chem.Mol(binary)  # type: ignore[call-overload] # its stub knows no bytes
