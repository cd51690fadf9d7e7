"""Uni-Mol (Zhou et al. 2023, ICLR) as a teacher of molecules and of atoms, through the package unimol_tools.

A transformer on elements and distances, trained to restore masked elements and displaced atoms of 209 million conformers; REED
aligns molecules with one of its kind. The package pins an old numpy: ``pip install --no-deps unimol_tools``, with the packages
that it asks for by name when they are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modalities.molecule.encoders.common import atom_level, graph_level, whole
from modalities.molecule.vocabulary import ELEMENTS
from multigen.files import nearest
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, MultigenError

LEVELS = ("graph", "atoms")
MOST = 512
"""Atoms that the package keeps; of a larger molecule it would crop some at random."""

METHANE: dict[str, list[Any]] = {
    "atoms": [["C", "H", "H", "H", "H"]],
    "coordinates": [0.629 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)],
}
"""Asked about first: how wide its states are."""


class UniMol(Frozen):
    """Its last states: (B, N, D) of the atoms, or their mean over all atoms, hydrogens included, (B, D).

    The mean is over the molecule's own atoms: not over padding and the two special tokens, as in REED's code, where what a
    molecule is depends on its batch. A molecule whose hydrogens are not in the data, or that RDKit refuses, has none.

    Args:
        level: "graph" or "atoms".
        model: "unimolv1" (D = 512) or "unimolv2".
        size: of unimolv2: 84m, 164m, 310m, 570m, 1.1B.
        path: weights; by default what the package has, or downloads from the hub (`UNIMOL_WEIGHT_DIR` is its own setting).
        dictionary: the list of tokens that belongs to `path`; by default dict.txt beside it.
        cuda: run on an accelerator, if there is one. Where the network lies is the package's own affair.

    Raises:
        MultigenError: the package is not installed, the weights cannot be had, or there is no such level.
    """

    def __init__(
        self,
        level: str = "graph",
        model: str = "unimolv1",
        size: str = "84m",
        path: str | Path | None = None,
        dictionary: str | Path | None = None,
        cuda: bool = True,
    ) -> None:
        if level not in LEVELS:
            raise MultigenError(f"UniMol has no level {level!r}: {nearest(level, LEVELS)}")
        super().__init__(level=level, model=model)
        self.level = level
        self.tool = _tool(model, size, path, dictionary, cuda)
        self.net = self.tool.model
        self.width = self._states(METHANE)[0].shape[-1]
        self.freeze()

    def to(self, *device: Any, **options: Any) -> UniMol:
        return self

    def forward(self, batch: Batch) -> Features:
        found = whole(batch, self)
        atoms, coords, known = (x.cpu().numpy() for x in (found.atoms, found.coords, found.known))
        rows = [i for i in np.flatnonzero(known).tolist() if (atoms[i] >= 0).sum() <= MOST]
        given = {
            "atoms": [[ELEMENTS[a] for a in atoms[i] if a >= 0] for i in rows],
            "coordinates": [coords[i][atoms[i] >= 0] for i in rows],
        }
        states: dict[int, np.ndarray] = dict(zip(rows, self._states(given), strict=True))
        if self.level == "graph":
            return graph_level((states[i].mean(0) if i in states else None for i in range(len(batch))), self.width, batch)
        count = batch.mask["atoms"].sum(1).tolist()  # (B,)
        return atom_level((states[i][: count[i]] if i in states else None for i in range(len(batch))), self.width, batch)

    def _states(self, given: dict[str, list[Any]]) -> list[np.ndarray]:
        """Of each molecule, the states of its atoms in their order: (M, D)."""
        if not given["atoms"]:
            return []
        found = self.tool.get_repr(given, return_atomic_reprs=True)["atomic_reprs"]
        for atoms, state in zip(given["atoms"], found, strict=True):
            if len(state) != len(atoms):
                raise MultigenError(f"UniMol gives {len(state)} states for {len(atoms)} atoms")
        return found


def _tool(model: str, size: str, path: str | Path | None, dictionary: str | Path | None, cuda: bool) -> Any:
    try:
        from unimol_tools import UniMolRepr
    except ImportError as error:
        raise MultigenError(f"UniMol needs the package {error.name}: pip install --no-deps {error.name}") from None
    if path is not None and not Path(path).is_file():
        raise MultigenError(f"there are no Uni-Mol weights {path}")
    own = {"pretrained_model_path": path and str(path), "pretrained_dict_path": dictionary and str(dictionary)}
    try:
        return UniMolRepr(model_name=model, model_size=size, remove_hs=False, use_cuda=cuda, max_atoms=MOST, **own)
    except Exception as error:  # the hub's client and the package have dozens of ways to say that they have no weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MultigenError(f"cannot have Uni-Mol {model} ({reason}); a local file can be given as `path`") from None
