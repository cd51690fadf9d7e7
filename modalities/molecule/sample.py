"""What the modality decodes to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Molecule(NamedTuple):
    """A molecule in three dimensions, in classes of `modalities.molecule.vocabulary`."""

    atoms: NDArray[np.int8]
    """(N,)."""
    coords: NDArray[np.floating[Any]]
    """(N, 3), in Angstrom."""
    bonds: NDArray[np.int8]
    """(N, N), symmetric."""
    charges: NDArray[np.int8]
    """(N,)."""
    name: str = ""
