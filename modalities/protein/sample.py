"""What the modality decodes to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Designed(NamedTuple):
    """A sequence that was made, with all that is needed to judge it."""

    sequence: str
    """One letter for each residue, chains one after another."""
    native: str
    """The sequence that the backbone came with; empty where there is none."""
    free: NDArray[np.bool_]
    """(L,): residues that were made; the others were given."""
    confidence: NDArray[np.float32] | None
    """(L,): the model's probability of each residue when it was chosen, 1 where it was given; None if not recorded."""
    backbone: NDArray[np.float32] | None
    """(L, 4, 3): N, CA, C, O in Angstrom, NaN where missing; None for a sequence without a structure."""
    chain: NDArray[np.int64]
    """(L,): number of the chain."""
    name: str
    """Of the backbone, or "" ."""
