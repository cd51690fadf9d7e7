"""Prepared latents on the disk, and the data set that reads them by memory map.

A folder of `multigen.store` with one row for each picture: ``moments``, float16 (2 C, h, w), mean and standard deviation of
the autoencoder's posterior; ``label``; and a column for each representation that was computed with them. Its manifest says
their shapes (``latent``: [C, h, w]; ``targets``: name -> shape) and lists the classes in label order (``groups``). It is
written with `multigen.store.Writer` and `layout`; no command makes it yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multigen import files
from multigen.files import nearest
from multigen.modality import Example
from multigen.state import MultigenError
from multigen.store import Column, Layout, Store, kept

HALF = "<f2"
"""Moments and representations are stored in half precision."""


def layout(latent: Sequence[int], targets: Mapping[str, Sequence[int]] | None = None) -> Layout:
    """What an example consists of.

    Args:
        latent: (C, h, w).
        targets: representation -> its shape, such as (256, 768) or (3584,).
    """
    channels, *side = latent
    items = {"moments": Column(HALF, (2 * channels, *side)), "label": Column("<i4")}
    return Layout({}, items | {name: Column(HALF, tuple(shape)) for name, shape in (targets or {}).items()})


class LatentData:
    """The pictures of a prepared folder as latents. An item holds ``latent_mean`` and ``latent_std``, float32 (C, size, size),
    ``label``, ``name``, and the representations in ``target``.

    Args:
        name: of the folder below the data root, or its path.
        size: side of the latents.
        split: "train", "valid", "test" or "all".
        targets: names of the representations to read.
        limit: keep this many, drawn by a fixed hash.
        root: the data root; by default `multigen.files.data_root()`.

    Raises:
        MultigenError: the folder is not prepared, is of another size, or lacks the split or a representation.
    """

    def __init__(
        self,
        name: str | Path,
        size: int = 32,
        split: str = "train",
        targets: Sequence[str] = (),
        limit: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        folder = (Path(root) if root else files.data_root()) / Path(name).expanduser()
        what = f"latents {Path(name).name}"
        self.manifest = Store(folder, layout([1]), what, None).manifest
        known: dict[str, list[int]] = self.manifest.get("targets", {})
        if missing := [target for target in targets if target not in known]:
            raise MultigenError(f"{what} have no target {missing[0]!r}: {nearest(missing[0], known)}")
        if (shape := self.manifest["latent"])[-1] != size:
            raise MultigenError(f"{what} are of shape {shape}, not of side {size}")
        self.store = Store(folder, layout(shape, {target: known[target] for target in targets}), what, None)
        self.split, self.targets, self._options = split, list(targets), [split, list(targets), limit]
        self.rows = kept(self.store.in_split(split), limit)  # (N,)
        self.classes: tuple[str, ...] = tuple(self.manifest.get("groups", ()))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""
        return self.store.column("label")[self.rows].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        return self.store.fingerprint(*self._options)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        item = self.store[self.rows[index]]
        mean, std = np.split(item["moments"].astype(np.float32), 2)  # (C, size, size) each
        target = {name: item[name] for name in self.targets}
        found = {"latent_mean": mean, "latent_std": std, "label": int(item["label"]), "name": item["name"]}
        return found | ({"target": target} if target else {})
