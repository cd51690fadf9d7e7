"""How rows of features are stored as numbers: plain floats, or 8-bit integers with a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multigen.state import MultigenError

Arrays = Mapping[str, NDArray]


class Codec(Protocol):
    """Both ways between features and what is written."""

    def encode(self, rows: NDArray) -> dict[str, NDArray]:
        """Float32 (R, D) -> the arrays to store. ``rows`` among them is (R, D)."""
        ...

    def decode(self, arrays: Arrays, start: int, stop: int) -> NDArray:
        """Rows start .. stop - 1 of what was stored: Float (stop - start, D)."""
        ...


@dataclass(frozen=True)
class Plain:
    """Floats of a given width. Decoding is a view of the file: it is widened where it is copied into a batch."""

    dtype: type[np.floating]

    def encode(self, rows: NDArray) -> dict[str, NDArray]:
        largest, limit = float(np.abs(rows).max(initial=0)), float(np.finfo(self.dtype).max)
        if largest > limit:
            raise MultigenError(f"a feature of size {largest:.3g} is beyond {self.dtype.__name__}'s {limit:.3g}: use float32")
        return {"rows": rows.astype(self.dtype)}  # (R, D)

    def decode(self, arrays: Arrays, start: int, stop: int) -> NDArray:
        return arrays["rows"][start:stop]  # (r, D)


@dataclass(frozen=True)
class Quantised:
    """Symmetric 8-bit integers. The error is at most half a step, 1/254 of the largest entry of the token or channel."""

    per_token: bool

    def encode(self, rows: NDArray) -> dict[str, NDArray]:
        axis = 1 if self.per_token else 0
        largest = np.abs(rows).max(axis, keepdims=True, initial=0)  # (R, 1) or (1, D)
        scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)  # (R, 1) or (1, D)
        return {"rows": np.rint(rows / scale).clip(-127, 127).astype(np.int8), "scale": scale}  # (R, D)

    def decode(self, arrays: Arrays, start: int, stop: int) -> NDArray:
        scale = arrays["scale"][start:stop] if self.per_token else arrays["scale"]  # (r, 1) or (1, D)
        return arrays["rows"][start:stop] * scale  # (r, D), int8 times float32 is float32


CODECS: dict[str, Codec] = {
    "float32": Plain(np.float32),
    "float16": Plain(np.float16),
    "int8": Quantised(per_token=True),
    "int8-channel": Quantised(per_token=False),
}
