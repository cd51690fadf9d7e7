"""When two tensors, or two examples, are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def close(a: Tensor, b: Tensor, mask: Tensor | None = None, tolerance: float = 1e-5) -> bool:
    """Equal up to `tolerance`, where the mask (a prefix of the dimensions) is True; discrete tensors exactly."""
    if mask is not None:
        a, b = a[mask], b[mask]
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a == b) | ((a - b).abs() <= tolerance * (1 + b.abs()))).all())  # inf equals inf


def same(a: Tensor, b: Tensor, mask: Tensor | None = None) -> bool:
    """Equal to the bit, where the mask is True."""
    return torch.equal(a, b) if mask is None else torch.equal(a[mask], b[mask])


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == y.dtype.kind == "f"))  # what is missing may be nan
