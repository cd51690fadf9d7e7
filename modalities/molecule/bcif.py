"""Reads tables of a BinaryCIF file (Sehnal et al. 2020, PLoS Comput. Biol. 16(10): e1008247; specification 0.3).

A column is a chain of encodings, undone from the last to the first. Where the file says that there is no value, a real number
is read as NaN; a text is "." or "?", as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multigen.state import MultigenError

_TYPES = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}

Tables = dict[str, dict[str, NDArray[Any]]]


def read(content: bytes, wanted: Mapping[str, Sequence[str]]) -> Tables:
    """Columns of the file's first block.

    Args:
        content: of the file.
        wanted: table -> columns, without leading underscore.

    Returns:
        table -> column -> (rows,): numbers as they are stored, or object arrays of str.

    Raises:
        MultigenError: this is no BinaryCIF, or something that is wanted is not in it.
    """
    import msgpack

    try:
        blocks = msgpack.unpackb(content)["dataBlocks"]
        found = {table["name"].lstrip("_"): table["columns"] for table in blocks[0]["categories"]}
    except (ValueError, KeyError, IndexError, TypeError, msgpack.UnpackException) as error:
        raise MultigenError(f"this is not a BinaryCIF file ({type(error).__name__}: {error})") from None
    return {table: _columns(found, table, names) for table, names in wanted.items()}


def _columns(found: Mapping[str, Any], table: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    columns = {column["name"]: column for column in found.get(table, [])}
    if missing := [name for name in names if name not in columns]:
        raise MultigenError(f"the BinaryCIF file has no {table}.{missing[0]}")
    return {name: _column(columns[name]) for name in names}


def _column(column: Mapping[str, Any]) -> NDArray[Any]:
    values = decode(**_chain(column["data"]))  # (n,)
    if column.get("mask") and values.dtype.kind == "f":
        values = np.where(decode(**_chain(column["mask"])) == 0, values, np.nan)  # (n,)
    return values


def _chain(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": part["data"], "encodings": part["encoding"]}


def decode(data: Any, encodings: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """Undo a chain of encodings.

    >>> decode(bytes([1, 3, 2, 2]), [{"kind": "RunLength", "srcType": 3}, {"kind": "ByteArray", "type": 1}]).tolist()
    [1, 1, 1, 2, 2]
    """
    for encoding in reversed(encodings):
        if encoding["kind"] not in _DECODERS:
            raise MultigenError(f"unknown BinaryCIF encoding {encoding['kind']!r}; choices are {sorted(_DECODERS)}")
        data = _DECODERS[encoding["kind"]](data, encoding)
    return data


def _bytes(data: bytes, encoding: Mapping[str, Any]) -> NDArray[Any]:
    return np.frombuffer(data, _TYPES[encoding["type"]])  # (n,)


def _fixed_point(data: NDArray[Any], encoding: Mapping[str, Any]) -> NDArray[Any]:
    return (data / encoding["factor"]).astype(_TYPES[encoding["srcType"]])  # (n,)


def _quantised(data: NDArray[Any], encoding: Mapping[str, Any]) -> NDArray[Any]:
    step = (encoding["max"] - encoding["min"]) / (encoding["numSteps"] - 1)
    return (encoding["min"] + data * step).astype(_TYPES[encoding["srcType"]])  # (n,)


def _run_length(data: NDArray[Any], encoding: Mapping[str, Any]) -> NDArray[Any]:
    """Pairs of a value and how often it comes."""
    return np.repeat(data[::2].astype(_TYPES[encoding["srcType"]]), data[1::2])  # (n,)


def _delta(data: NDArray[Any], encoding: Mapping[str, Any]) -> NDArray[Any]:
    return (np.cumsum(data, dtype=np.int64) + encoding["origin"]).astype(_TYPES[encoding["srcType"]])  # (n,)


def _packed(data: NDArray[Any], encoding: Mapping[str, Any]) -> NDArray[Any]:
    """A number outside the small type's range is a sum: as often its bound as needed, and a rest that is not the bound."""
    bounds = np.iinfo(data.dtype)
    goes_on = data == bounds.max  # (m,)
    if not encoding["isUnsigned"]:
        goes_on |= data == bounds.min
    first = np.concatenate([[True], ~goes_on[:-1]]) if len(data) else goes_on  # (m,): where a number begins
    if not len(data):
        return data.astype(np.int32)  # (0,)
    return np.add.reduceat(data.astype(np.int64), np.flatnonzero(first)).astype(np.int32)  # (n,)


def _strings(data: bytes, encoding: Mapping[str, Any]) -> NDArray[Any]:
    """Indices into the pieces of one long text."""
    text = encoding["stringData"]
    ends = decode(encoding["offsets"], encoding["offsetEncoding"])  # (k + 1,)
    pieces = [text[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return np.array([*pieces, ""], object)[decode(data, encoding["dataEncoding"])]  # (n,), where -1 stands for nothing


_DECODERS: dict[str, Callable[[Any, Mapping[str, Any]], NDArray[Any]]] = {
    "ByteArray": _bytes,
    "FixedPoint": _fixed_point,
    "IntervalQuantization": _quantised,
    "RunLength": _run_length,
    "Delta": _delta,
    "IntegerPacking": _packed,
    "StringArray": _strings,
}
