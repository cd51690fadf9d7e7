"""What samples are compared with: features of real pictures, from a file of statistics or computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modalities.image.metrics.measures import Seen
from modalities.image.metrics.networks import Network
from modalities.image.metrics.space import Space, Wanted, look
from modalities.image.sets import PICTURES, Archive, members, open_set, read_array, resolution
from multigen import describe, distributed
from multigen.cache.encode import spaced
from multigen.cache.progress import bar
from multigen.distances import Gaussian
from multigen.files import atomic_write, data_root
from multigen.modality import Dataset
from multigen.state import MultigenError

SUITE = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Features -> mean and covariance in a file of ADM's suite."""


class Statistics(NamedTuple):
    """Of a set of real pictures."""

    about: dict[str, Any]
    """Set, resolution, count, file and features."""
    seen: dict[str, Seen]


@dataclass(frozen=True)
class Reference:
    """Real pictures in the features of a network.

    =========================  ======================================================================================
    a data set                 computed once, by all processes that take part, and kept below the data root
    a folder, a ``.npz``       the same, of the pictures that it holds
    a ``.npz`` with ``mu``     read: ADM's suite has the Gaussians of whole training sets, and some of their pictures
    a ``.safetensors``         read: one of those that were kept
    =========================  ======================================================================================

    Args:
        source: one of these.
        network: whose features.
        wanted: features -> what is read of them.
        limit: rows that are kept, of evenly spaced pictures.
        batch_size: pictures a call of the network.
        device: where it runs.
        root: data root, below which statistics are kept.
    """

    source: Dataset | str | Path
    network: Network
    wanted: Mapping[str, Wanted]
    limit: int
    batch_size: int
    device: torch.device
    root: Path | None = None

    def statistics(self) -> Statistics:
        """Every process that takes part has to ask.

        Raises:
            MultigenError: they are of other features, or lack what is wanted.
        """
        path = self.file
        if path is None:
            return self._of_set(self.data, self.wanted)
        return self._stored(path) if path.suffix == ".safetensors" else self._of_suite(path)

    @property
    def file(self) -> Path | None:
        """A file of statistics, if the source is one."""
        if not isinstance(self.source, (str, Path)):
            return None
        path = Path(self.source).expanduser()
        suite = path.suffix == ".npz" and path.is_file() and "mu" in members(path)
        return path if suite or path.suffix == ".safetensors" else None

    @cached_property
    def data(self) -> Dataset:
        """The pictures, if the source is no file of statistics."""
        return open_set(self.source) if isinstance(self.source, (str, Path)) else self.source

    def resolution(self) -> list[int] | None:
        """Height and width of the pictures, as far as it is known."""
        path = self.file
        if path is None:
            return resolution(self.data)
        if path.suffix == ".safetensors":
            return _metadata(path)["resolution"]
        return resolution(Archive(path)) if PICTURES in members(path) else None

    # ------------------------------------------------------------------------------------------------- from pictures

    def _of_set(self, data: Dataset, wanted: Mapping[str, Wanted]) -> Statistics:
        asked = {name: list(w) for name, w in sorted(wanted.items())}
        key = describe.digest(data.fingerprint, self.network.fingerprint, asked, self.limit)
        path = (self.root or data_root()) / "statistics" / f"{key[:16]}.safetensors"
        if not distributed.first(path.is_file()):
            seen = self._computed(data, wanted)
            if distributed.rank() == 0:
                about = self._about(describe.dataset(data), resolution(data), len(data))
                _write(path, Statistics(about, seen))
            distributed.barrier()
        return self._stored(path, wanted)

    def _about(self, what: Any, size: Sequence[int] | None, count: int | None) -> dict[str, Any]:
        features = {"network": self.network.name, "fingerprint": self.network.fingerprint}
        return {"set": what, "resolution": size, "count": count, **features}

    def _computed(self, data: Dataset, wanted: Mapping[str, Wanted]) -> dict[str, Seen]:
        spaces = {name: Space(w, self.limit, self.device) for name, w in wanted.items()}
        chosen = torch.zeros(len(data), dtype=torch.bool)  # (N,)
        chosen[spaced(len(data), self.limit)] = True
        mine = distributed.shard(range(len(data)))
        with bar("features of real pictures", len(mine)) as done:
            for start in range(0, len(mine), self.batch_size):
                index = mine[start : start + self.batch_size]
                features = look(self.network, [data[i]["image"] for i in index], self.device)
                for name, space in spaces.items():
                    space.add(features[name], chosen[list(index)])
                done(start + len(index))
        for space in spaces.values():
            space.join()
        return {name: space.seen() for name, space in spaces.items()}

    # ---------------------------------------------------------------------------------------------------- from files

    def _stored(self, path: Path, wanted: Mapping[str, Wanted] | None = None) -> Statistics:
        from safetensors.torch import load_file

        about = _metadata(path)
        if about["fingerprint"] != self.network.fingerprint:
            raise MultigenError(f"{path} holds features of {about['network']}, not of {self.network.name} with these weights")
        found = load_file(path, device=str(self.device))
        seen = {name: self._read(path, name, w, found) for name, w in (wanted or self.wanted).items()}
        return Statistics({**about, "source": str(path)}, seen)

    def _read(self, path: Path, name: str, wanted: Wanted, found: Mapping[str, Tensor]) -> Seen:
        needed = [f"{name}.mean", f"{name}.cov"] * wanted.moments + [f"{name}.rows"] * wanted.rows
        if missing := [key for key in needed if key not in found]:
            raise MultigenError(f"{path} lacks {missing[0]}, which the measures need; it holds {sorted(found)}")
        gaussian = Gaussian(found[f"{name}.mean"], found[f"{name}.cov"]) if wanted.moments else None
        return Seen(gaussian, found[f"{name}.rows"] if wanted.rows else None)

    def _of_suite(self, path: Path) -> Statistics:
        """Gaussians as the file has them; rows of the pictures that lie beside them."""
        if not self.network.standard:
            raise MultigenError(f"{path} holds features of the published Inception network, not of {self.network.name}")
        found = members(path)
        rows = {name: Wanted(False, True) for name, w in self.wanted.items() if w.rows}
        if rows and PICTURES not in found:
            raise MultigenError(f"{path} holds no pictures ({PICTURES}), which measures of rows need: set those to null")
        beside = self._of_set(Archive(path), rows).seen if rows else {}
        gaussians = {name: self._gaussian(path, name) for name, w in self.wanted.items() if w.moments}
        seen = {name: Seen(gaussians.get(name), beside[name].rows if name in beside else None) for name in self.wanted}
        pictures = Archive(path) if PICTURES in found else None
        about = self._about({"name": str(path), "checksums": found}, resolution(pictures) if pictures else None, None)
        return Statistics({**about, "rows": len(pictures) if pictures else 0, "source": str(path)}, seen)

    def _gaussian(self, path: Path, name: str) -> Gaussian:
        keys, found = SUITE.get(name, ()), members(path)
        if not keys or any(key not in found for key in keys):
            raise MultigenError(f"{path} has no mean and covariance of {name!r} features: it holds {sorted(found)}")
        mean, cov = (torch.tensor(read_array(path, key)).double().to(self.device) for key in keys)  # (D,), (D, D)
        return Gaussian(mean, cov)


def _write(path: Path, statistics: Statistics) -> None:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, (gaussian, rows) in statistics.seen.items():
        tensors |= {f"{name}.mean": gaussian.mean, f"{name}.cov": gaussian.cov} if gaussian else {}
        tensors |= {f"{name}.rows": rows} if rows is not None else {}
    with atomic_write(path) as file:
        file.write(save({k: x.cpu().contiguous() for k, x in tensors.items()}, {"about": json.dumps(statistics.about)}))


def _metadata(path: Path) -> dict[str, Any]:
    """What a file of kept statistics says about itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["about"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise MultigenError(f"cannot read statistics {path}: {error}") from None
