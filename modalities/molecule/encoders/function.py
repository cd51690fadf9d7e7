"""Any function of an RDKit molecule as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.molecule.encoders.common import Rows, atom_level, graph_level, mols
from multigen.files import nearest
from multigen.state import Batch, Features, MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LEVELS = {"graph": graph_level, "atoms": atom_level}


class Function:
    """What a function says about each molecule: (B, D) or (B, N, D). In a configuration:

        encoders.mine:
          _target_: modalities.molecule.encoders.Function
          width: 7
          function: {_target_: my.module.mine, _partial_: true}

    A molecule that RDKit refuses, or of which the function says None, has no target.

    Args:
        function: of a molecule with coordinates in Angstrom, its N atoms in the data's order (hydrogens that are no atoms of
            the data are implicit): an array (D,), or (N, D) with NaN for atoms that it says nothing of; or None.
        width: D.
        level: "graph" or "atoms".
        version: change it when the function changes: what it said before is cached under its name, its arguments and this.
    """

    def __init__(
        self, function: Callable[[Mol], NDArray[np.floating] | None], width: int, level: str = "graph", version: int = 1
    ) -> None:
        if level not in LEVELS:
            raise MultigenError(f"level is {level!r}: {nearest(level, LEVELS)}")
        self.function, self.width, self.level = function, width, level
        self.fingerprint = f"{_named(function)}-{level}-{width}-{version}"

    def to(self, device: Any) -> Function:
        return self

    def __call__(self, batch: Batch) -> Features:
        return LEVELS[self.level](self._rows(batch), self.width, batch)

    def _rows(self, batch: Batch) -> Rows:
        for mol in mols(batch, self):
            found = None if mol is None else self.function(mol)
            if mol is not None and found is not None:
                expected = (self.width,) if self.level == "graph" else (mol.GetNumAtoms(), self.width)
                if np.shape(found) != expected:
                    raise MultigenError(f"{_named(self.function)} gives shape {np.shape(found)}, expected {expected}")
            yield found


def _named(function: Callable[..., Any]) -> str:
    """Module, name and the arguments that are already given."""
    if isinstance(function, partial):
        given: dict[Any, Any] = {**dict(enumerate(function.args)), **function.keywords}
        return f"{_named(function.func)}{sorted(given.items(), key=str) if given else ''}"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"
