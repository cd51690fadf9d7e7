"""One file of a cache: the features of consecutive examples, as rows with an index.

A shard is a safetensors file with ``rows`` (R, D) of all examples one after the other, ``start`` (n + 1) and ``sites``
(n, ndim), which say where an example's rows begin and how they are arranged, ``scale`` for integers, and ``mask`` (R,) when
some example has a missing site inside its box. Examples may therefore differ in size, and padding costs nothing. Beside it
stands a JSON file with the size and checksum; it is written last, so that a shard without it was never finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multigen.cache.codec import Codec
from multigen.files import atomic_write, read_json, sha256, write_json
from multigen.state import Features, MultigenError

_DTYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I64": np.int64, "BOOL": np.bool_}
"""The types that a shard may hold, by their names in a safetensors header."""


class Item(NamedTuple):
    """The features of one example."""

    value: NDArray
    """Float32 (*sites, D)."""
    mask: NDArray
    """Bool (*sites), True = real."""


def split(features: Features) -> list[Item]:
    """The examples of a batch, each cut to the smallest box of sites that holds all of its real ones."""
    value, mask = features.value.float().cpu().numpy(), features.mask.cpu().numpy()  # (B, *sites, D), (B, *sites)
    return [_crop(v, m) for v, m in zip(value, mask, strict=True)]


def _crop(value: NDArray, mask: NDArray) -> Item:
    # per dimension of sites, one past the last index at which something is real
    box = tuple(slice(int(index.max(initial=-1)) + 1) for index in np.nonzero(mask)) if mask.ndim else ()
    kept = np.asarray(mask[box])  # (*sites)
    return Item(np.where(kept[..., None], value[box], 0), kept)  # (*sites, D): what stands in a gap may be anything


def pack(items: Sequence[Item], codec: Codec) -> dict[str, NDArray]:
    """The arrays that a shard of `items` consists of."""
    width = items[0].value.shape[-1]
    counts = [item.mask.size for item in items]
    rows = np.concatenate([item.value.reshape(-1, width) for item in items])  # (R, D)
    real = np.concatenate([item.mask.reshape(-1) for item in items])  # (R,)
    index = {
        "start": np.cumsum([0, *counts], dtype=np.int64),  # (n + 1,)
        "sites": np.array([item.mask.shape for item in items], np.int64).reshape(len(items), -1),  # (n, ndim)
    }
    return codec.encode(rows) | index | ({} if real.all() else {"mask": real})


def write(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write a shard, and then the file that says so."""
    from safetensors.numpy import save

    content = save(dict(arrays))
    with atomic_write(path) as file:
        file.write(content)
    write_json(summary(path), {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def summary(path: Path) -> Path:
    """The neighbour of a shard that holds its size and checksum."""
    return path.with_suffix(".json")


def size(path: Path) -> int:
    """Bytes of a finished shard.

    Raises:
        MultigenError: it was cut off, or is not there.
    """
    expected, actual = _summary(path)["bytes"], path.stat().st_size if path.is_file() else 0
    if expected != actual:
        raise MultigenError(f"cache shard {path} is truncated: {actual} of {expected} bytes")
    return actual


def verify(path: Path) -> None:
    """Read a shard through and compare its checksum.

    Raises:
        MultigenError: it is not what was written.
    """
    size(path)
    if sha256(path) != _summary(path)["sha256"]:
        raise MultigenError(f"cache shard {path} is corrupt: its checksum does not match")


def valid(path: Path) -> bool:
    try:
        verify(path)
    except MultigenError:
        return False
    return True


def _summary(path: Path) -> dict[str, Any]:
    content = read_json(summary(path))
    if not isinstance(content, dict) or {"bytes", "sha256"} - content.keys():
        raise MultigenError(f"{summary(path)} is damaged: no size and checksum")
    return content


def memory_map(path: Path) -> dict[str, NDArray]:
    """The arrays of a shard as read-only views of the file; nothing is read before it is touched.

    safetensors: 8 bytes with the length of a JSON header, the header, and the arrays at the offsets it names.
    """
    try:
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)  # (bytes,); plain, since slicing a memmap is slow
        length = int(data[:8].view(np.int64)[0])
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        return {name: _view(data[8 + length :], entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise MultigenError(f"cache shard {path} cannot be read: {error}") from None


def _view(data: NDArray, entry: Mapping[str, Any]) -> NDArray:
    first, last = entry["data_offsets"]
    return data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
