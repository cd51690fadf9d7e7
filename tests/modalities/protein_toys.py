"""Designs small enough to know the answers: helices with sequences that agree with the native one where they are told to."""

import numpy as np

from modalities.protein.alphabet import AMINO_ACIDS, letters, tokens
from modalities.protein.sample import Designed
from multigen.random import hash64


def helix(length):
    """A backbone float32 (L, 4, 3) with the rise, turn and radii of an alpha helix."""
    i = np.arange(length)[:, None]  # (L, 1)
    angle = np.radians(100 * i + np.array([-28.0, 0.0, 26.0, 30.0]))  # (L, 4)
    radius, height = np.array([1.55, 2.29, 1.68, 2.02]), np.array([-0.88, 0.0, 1.10, 2.32])  # (4,), (4,)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), 1.5 * i + height], -1).astype(np.float32)


def sequence(length, name="native"):
    """Letters that are a function of the name."""
    return "".join(AMINO_ACIDS[hash64(name, i) % 20] for i in range(length))


def differing(native, places):
    """Another amino acid at each of these places."""
    row = tokens(native).copy()
    row[list(places)] = (row[list(places)] + 7) % 20
    return letters(row)


def design(native, wrong=(), confidence=None, name="one", free=None, chain=None, backbone=True):
    length = len(native)
    return Designed(
        sequence=differing(native, wrong),
        native=native,
        free=np.ones(length, bool) if free is None else np.asarray(free, bool),
        confidence=None if confidence is None else np.broadcast_to(np.float32(confidence), (length,)),
        backbone=helix(length) if backbone else None,
        chain=np.zeros(length, np.int64) if chain is None else np.asarray(chain),
        name=name,
    )


def made(letters_, confidence=None):
    """A sequence without a backbone."""
    return design(letters_, confidence=confidence, name="", backbone=False)._replace(native="")


class Sequences:
    """A data set of sequences alone."""

    def __init__(self, rows):
        self.rows = list(rows)
        self.fingerprint = f"rows-{len(self.rows)}"
        self.manifest = {"name": "toys"}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"sequence": tokens(self.rows[index])}
