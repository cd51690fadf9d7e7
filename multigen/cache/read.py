"""Reading a cache: rows of memory-mapped files, one example at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from multigen.cache import shard
from multigen.cache.codec import CODECS, Arrays
from multigen.cache.spec import PREPARE, Spec, digest, locate, manifest
from multigen.cache.whitening import spec_of
from multigen.modality import Dataset, Encoder, Example
from multigen.state import MultigenError

FULL_CHECK = 1 << 30
"""Bytes up to which a cache's checksums are verified when it is opened: about a second."""


class Reader:
    """The features of each example of one data set.

    Args:
        folder: the cache.
        verify: read every shard through and compare checksums. None does so for caches of up to 1 GiB; sizes are always
            compared.
        command: what rebuilds it, for messages.

    Raises:
        MultigenError: a shard is missing, truncated or corrupt.
    """

    def __init__(self, folder: Path, verify: bool | None = None, command: str = PREPARE) -> None:
        found = manifest(folder)
        self.folder, self.spec = folder, Spec(**found["spec"])
        self.count, self.per_shard = int(found["count"]), int(found["shard"])
        self.paths = [shard_path(folder, i) for i in range(-(-self.count // self.per_shard))]
        self._codec = CODECS[self.spec.dtype]
        self._open: list[_Shard | None] = [None] * len(self.paths)
        self._check(verify, command)

    def _check(self, verify: bool | None, command: str) -> None:
        missing = [path for path in self.paths if not shard.summary(path).is_file()]
        if missing:
            done = f"{len(self.paths) - len(missing)} of {len(self.paths)} shards"
            raise MultigenError(f"cached target {self.spec.name!r} is not finished ({done} in {self.folder}); run `{command}`")
        try:
            total = sum(shard.size(path) for path in self.paths)
            if total <= FULL_CHECK if verify is None else verify:
                for path in self.paths:
                    shard.verify(path)
        except MultigenError as error:
            raise MultigenError(f"{error}; run `{command}` to compute it again") from None

    @property
    def fingerprint(self) -> str:
        return self.spec.digest

    @property
    def width(self) -> int:
        """D."""
        return self._shard(0).arrays["rows"].shape[1]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> NDArray | tuple[NDArray, NDArray]:
        """Example `index`: Float (*sites, D), and with it Bool (*sites) where a site is missing inside that box.

        Plain floats are read-only views of the file in its own type; `collate_targets` widens them as it copies.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"example {index} of a cache of {self.count}")
        number, row = divmod(index, self.per_shard)
        part = self._shard(number)
        first, last = part.start[row], part.start[row + 1]
        value = self._codec.decode(part.arrays, first, last).reshape(part.sites[row])  # (*sites, D)
        if part.mask is None:
            return value
        return value, part.mask[first:last].reshape(part.sites[row][:-1])  # (*sites, D), (*sites)

    def _shard(self, number: int) -> _Shard:
        """Opened on first use, in each loader worker by itself."""
        found = self._open[number]
        if found is None:
            found = self._open[number] = _Shard(shard.memory_map(self.paths[number]))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Travels to loader workers as file names; a mapping would be copied in full."""
        return self.__dict__ | {"_open": [None] * len(self.paths)}


class _Shard:
    """A mapped shard with its index as Python numbers, which are quicker to look up one by one."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.start: list[int] = arrays["start"].tolist()
        width = arrays["rows"].shape[1]
        self.sites: list[tuple[int, ...]] = [(*sites, width) for sites in arrays["sites"].tolist()]
        self.mask = arrays.get("mask")


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:05d}.safetensors"


def open_cache(
    dataset: Dataset,
    teacher: Encoder,
    name: str,
    dtype: str,
    root: Path | None = None,
    verify: bool | None = None,
    command: str = PREPARE,
) -> Reader:
    """The finished cache of what `teacher` (see `load_teacher`) says about `dataset`.

    Raises:
        MultigenError: it is not prepared, or stale (the message names the keys that differ), unfinished or damaged.
    """
    return Reader(locate(spec_of(name, dataset, teacher, dtype), root, command), verify, command)


class Cached:
    """A data set whose items carry cached targets: ``item["target"][name]``.

    Args:
        dataset: the examples.
        readers: target name -> the cache of exactly these examples.

    Raises:
        MultigenError: a cache is of other data.
    """

    def __init__(self, dataset: Dataset, readers: Mapping[str, Reader]) -> None:
        for name, reader in readers.items():
            if reader.spec.dataset != dataset.fingerprint or len(reader) != len(dataset):
                had, wanted = f"{len(reader)} of {reader.spec.dataset!r}", f"{len(dataset)} of {dataset.fingerprint!r}"
                raise MultigenError(f"cached target {name!r} is of other examples: {had}, not {wanted}")
        self.dataset, self.readers = dataset, dict(readers)
        self.sizes = getattr(dataset, "sizes", None)
        self.fingerprint = digest({"dataset": dataset.fingerprint} | {name: r.fingerprint for name, r in readers.items()})

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        example = self.dataset[index]
        target = {name: reader[index] for name, reader in self.readers.items()}
        return {**example, "target": {**example.get("target", {}), **target}}
