"""The 3Di alphabet: twenty states of tertiary contact (van Kempen et al. 2024, Nat. Biotechnol. 42), through mini3di."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modalities.protein.encoders.common import structure
from multigen.files import nearest
from multigen.state import Batch, Features, MultigenError

VERSION = 1
"""Raise it when the same weights give other features."""
WIDTHS = {"states": 20, "latent": 2, "descriptors": 10}


class ThreeDi:
    """What surrounds each residue in space, by Foldseek's autoencoder: (B, L, D).

    A residue is described by the angles and distances between its chain and that of the residue nearest to it in space.
    Partners are sought within the chain and, as in Foldseek, residues that are missing in the structure are passed over: their
    neighbours count as adjacent. The ends of a chain and the neighbours of an incomplete residue have no state (mask False).

    Args:
        what: "states", the one-hot letter (D = 20); "latent", the code before it is quantised (D = 2); "descriptors", the
            angles and distances that the autoencoder reads (D = 10).
    """

    def __init__(self, what: str = "states") -> None:
        from mini3di import Encoder

        if what not in WIDTHS:
            raise MultigenError(f"ThreeDi offers no {what!r}: {nearest(what, WIDTHS)}")
        self.what = what
        encoder: Any = Encoder()
        self._descriptors, net = encoder.feature_encoder, encoder.vae_encoder
        self._encode, self._centroids = type(net)(net.layers[:-1]), net.layers[-1].centroids  # (20, 2)
        content = [x.tobytes() for layer in self._encode.layers for x in (layer.weights, layer.biases)]
        digest = hashlib.sha256(b"".join([*content, self._centroids.tobytes()])).hexdigest()
        self.fingerprint = f"ThreeDi-{VERSION}-{what}-{digest[:16]}"

    def to(self, device: Any) -> ThreeDi:
        return self

    def __call__(self, batch: Batch) -> Features:
        given = structure(batch, self)
        backbone, known, chain = (given[k].detach().cpu().numpy() for k in ("backbone", "known", "chain"))
        value = np.zeros((*known.shape, WIDTHS[self.what]), np.float32)  # (B, L, D)
        mask = np.zeros(known.shape, np.bool_)  # (B, L)
        real = batch.mask["sequence"].cpu().numpy()  # (B, L)
        for row in range(len(real)):
            for number in np.unique(chain[row][real[row]]):
                here = row, np.flatnonzero(real[row] & (chain[row] == number))
                value[here], mask[here] = self.chain(backbone[here], known[here])
        device = batch.key.device
        return Features(torch.from_numpy(value).to(device), torch.from_numpy(mask).to(device))

    def chain(self, backbone: NDArray[np.floating], known: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One chain: atoms (n, 4, 3), N, CA, C, O in Angstrom, and which residues are complete (n,) -> (n, D), Bool (n,)."""
        value = np.zeros((len(known), WIDTHS[self.what]), np.float32)  # (n, D)
        if known[1:-1].sum() < 2:  # nobody has a partner
            return value, np.zeros_like(known)
        n, ca, c, _ = np.where(known[:, None, None], backbone, np.nan).astype(np.float64).swapaxes(0, 1)  # (n, 3) each
        with np.errstate(invalid="ignore"):
            found: Any = self._descriptors.encode_atoms(ca, np.full_like(ca, np.nan), n, c)  # (n, 10), CB in ideal geometry
        real = ~np.ma.getmaskarray(found)[:, 0]  # (n,)
        value[real] = self._features(found.data[real])
        return value, real

    def _features(self, descriptors: NDArray[np.floating]) -> NDArray[np.floating]:
        """(n, 10) -> (n, D)."""
        if self.what == "descriptors":
            return descriptors
        latent = self._encode(descriptors)  # (n, 2)
        if self.what == "latent":
            return latent
        apart = ((latent[:, None] - self._centroids) ** 2).sum(-1)  # (n, 20)
        return np.eye(20)[apart.argmin(1)]  # (n, 20)
