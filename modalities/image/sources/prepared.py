"""Pictures that are prepared already (`modalities.image.stored`), at the sizes that they are prepared at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modalities.image.sources.base import Entry, Source, bare
from multigen import describe, files


class Prepared(Source):
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        return [self.path / "manifest.json"]  # it holds the checksums of the others

    def about(self) -> dict[str, Any]:
        manifest = files.read_json(self.path / "manifest.json")
        return {key: manifest[key] for key in ("licence", "attribution") if key in manifest}

    def classes(self) -> list[str]:
        return [group for group in files.read_json(self.path / "manifest.json")["groups"] if group]

    def entries(self) -> Iterator[Entry]:
        stamp = describe.digest(files.read_json(self.path / "manifest.json")["files"])[:16]
        for i, row in enumerate(files.read_json(self.path / "table.json")):
            yield Entry(row.get("code", row["name"]), f"{i}//{stamp}", row["group"], row["split"], row["name"])

    def picture(self, name: str, place: str, size: int) -> Any:
        from PIL import Image

        large = [known for known in self._pictures if known >= size]
        return Image.fromarray(self._pictures[min(large, default=max(self._pictures))][int(bare(place))])

    @cached_property
    def _pictures(self) -> Mapping[int, NDArray[np.uint8]]:
        """Size -> (N, size, size, 3), on the disk until it is read."""
        sizes = files.read_json(self.path / "manifest.json")["sizes"]
        return {size: np.load(self.path / f"images_{size}.npy", mmap_mode="r") for size in sizes}

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}
