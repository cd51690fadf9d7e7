"""Arrays that other programs wrote, one file for each example: read, checked, told apart."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multigen.files import sha256
from multigen.state import MultigenError


def load(path: Path, key: str) -> NDArray[np.floating]:
    """The array of a ``.npy`` file, or that named `key` of a ``.npz`` file.

    Raises:
        MultigenError: the file cannot be read, lacks the key, or holds no floating numbers.
    """
    try:
        value = np.load(path, allow_pickle=False)
        if not isinstance(value, np.ndarray):
            with value as arrays:
                if key not in arrays.files:
                    raise MultigenError(f"embedding {path}: expected key {key!r}, found {sorted(arrays.files)}")
                value = arrays[key]
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise MultigenError(f"embedding {path} cannot be read: {error}") from None
    if not np.issubdtype(value.dtype, np.floating):
        raise MultigenError(f"embedding {path}, key {key!r}: expected floating numbers, found {value.dtype}")
    return value


def checked(
    value: NDArray[np.floating], path: Path, key: str, sites: Sequence[int], width: int | None
) -> NDArray[np.floating]:
    """The array (*sites, D), without a leading dimension of one sample.

    Raises:
        MultigenError: it has other sites, or another width than the one that is wanted, or a number that is not finite.
    """
    if value.ndim == len(sites) + 2 and value.shape[0] == 1:
        value = value[0]  # (*sites, D)
    wrong = value.shape[:-1] != tuple(sites) or (width is not None and value.shape[-1] != width)
    if value.ndim != len(sites) + 1 or wrong:
        expected = f"({', '.join([*map(str, sites), str(width or 'any')])})"
        raise MultigenError(f"embedding {path}, key {key!r}: expected shape {expected}, found {value.shape}")
    if not np.isfinite(value).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        found = f"{value[place]} at {place}"
        raise MultigenError(f"embedding {path}, key {key!r}: expected finite numbers, found {found}")
    return value


def checksum(path: Path, key: str) -> str:
    """Of one array, as the archive states it; of a ``.npy`` file, of all of it."""
    try:
        if path.suffix == ".npy":
            return sha256(path)
        with zipfile.ZipFile(path) as archive:
            return f"{archive.getinfo(f'{key}.npy').CRC:08x}"
    except (OSError, KeyError, zipfile.BadZipFile):
        return "unreadable"
