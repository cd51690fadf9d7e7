"""What a cache is keyed by, where it lies, and how a cache of something else is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multigen.cache.codec import CODECS
from multigen.files import data_root, nearest, read_json
from multigen.state import MultigenError

FORMAT = 1
"""Version of the files; raise it when their layout changes."""
PREPARE = "multigen prepare"
"""The command that (re)builds a cache, for messages."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Storage:
    """How one target is stored: what stands under ``cache.<name>`` in a configuration."""

    dtype: str = "float16"
    """float32 | float16 | int8 (a scale per token) | int8-channel (a scale per feature and shard)."""
    whiten: int | None = None
    """Number of principal components to keep, each scaled to variance 1; None stores the features as they are."""
    examples: int | None = 2048
    """How many examples of the training split the whitening is fitted on, evenly spaced; None takes all."""
    shard: int = 512
    """Examples per file, and what an interruption loses at most."""

    def __post_init__(self) -> None:
        if self.dtype not in CODECS:
            raise MultigenError(f"unknown storage type {self.dtype!r}: {nearest(self.dtype, CODECS)}")
        for field, smallest in (("whiten", 1), ("examples", 2), ("shard", 1)):
            value = getattr(self, field)
            if value is not None and value < smallest:
                raise MultigenError(f"cache option {field}={value} must be at least {smallest}")


@dataclass(frozen=True)
class Spec:
    """Everything that the numbers in a cache depend on."""

    name: str
    dataset: str
    encoder: str
    whitening: str
    dtype: str
    format: int = FORMAT

    @property
    def digest(self) -> str:
        return digest(asdict(self))

    def folder(self, root: Path | None = None) -> Path:
        """``<root>/cache/<data>-<name>-<digest>``; `root` is the data root unless given."""
        return cache_root(root) / f"{slug(self.dataset)}-{slug(self.name)}-{self.digest[:12]}"


def cache_root(root: Path | None = None) -> Path:
    return (data_root() if root is None else Path(root)) / "cache"


def digest(keys: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(keys), sort_keys=True).encode()).hexdigest()


def slug(text: str) -> str:
    """The start of `text`, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:16].strip("_") or "x"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One clause per key in which what was found is not what is wanted."""
    return [f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]]


def refuse(what: str, wanted: Mapping[str, Any], found: Mapping[Path, Mapping[str, Any]], command: str) -> MultigenError:
    """The error for something that was not prepared, or was prepared from other ingredients than those `wanted`."""
    if not found:
        return MultigenError(f"{what} is not prepared; run `{command}`")
    path, keys = min(found.items(), key=lambda item: len(differences(item[1], wanted)))
    return MultigenError(f"{what} is stale: {path} has {' and '.join(differences(keys, wanted))}; run `{command}`")


def manifest(folder: Path) -> dict[str, Any]:
    """What a cache says about itself: its ``spec``, the ``count`` of its examples and how many a ``shard`` holds.

    Raises:
        MultigenError: the file is missing or damaged.
    """
    found = read_json(folder / MANIFEST)
    if not isinstance(found, dict) or {"spec", "count", "shard"} - found.keys():
        raise MultigenError(f"{folder / MANIFEST} is damaged: it has no spec, count and shard")
    return found


def locate(spec: Spec, root: Path | None = None, command: str = PREPARE) -> Path:
    """The folder of a cache that was made from exactly `spec`.

    Raises:
        MultigenError: there is none. The message names the nearest one and the keys in which it differs.
    """
    folder, wanted = spec.folder(root), asdict(spec)
    if (folder / MANIFEST).is_file():
        found = manifest(folder)["spec"]
        if differences(found, wanted):
            raise refuse(f"cached target {spec.name!r}", wanted, {folder: found}, command)
        return folder
    same = {path: keys for path, keys in prepared(root).items() if keys.get("name") == spec.name}
    raise refuse(f"cached target {spec.name!r}", wanted, same, command)


def prepared(root: Path | None = None) -> dict[Path, dict[str, Any]]:
    """The keys of every cache that was begun, by folder; caches with a damaged manifest are left out."""
    found = {}
    for path in sorted(cache_root(root).glob(f"*/{MANIFEST}")):
        with suppress(MultigenError, KeyError, TypeError):
            found[path.parent] = dict(read_json(path)["spec"])
    return found
