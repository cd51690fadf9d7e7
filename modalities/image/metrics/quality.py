"""Samples beside real pictures in the features of a network: FID and its kin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from modalities.image.metrics.measures import Measure, Seen
from modalities.image.metrics.networks import Network
from modalities.image.metrics.reference import Reference, Statistics
from modalities.image.metrics.space import Space, look, wanted
from modalities.image.modality import Picture
from multigen import describe
from multigen.distributed import resolve
from multigen.modality import Dataset
from multigen.state import Batch, MultigenError


class Quality:
    """Measures of samples in the features of one network, which sees each picture once.

    What is kept is the sum and the sum of outer products of features, and rows up to a limit: memory does not grow with the
    number of samples. Several processes may each take in a part; `join` brings the parts together.

    Args:
        network: sees the pictures.
        measures: by any name; None leaves one out.
        reference: real pictures: a data set, a folder, a ``.npz``, or a file of statistics; see `Reference`.
        rows: so many samples at most are compared one by one (precision, recall, kernel distances, Inception score).
        reference_rows: and so many real pictures, evenly spaced.
        batch_size: pictures a call of the network.
        device: where it runs.
        root: data root, below which statistics of real pictures are kept.
    """

    def __init__(
        self,
        network: Network,
        measures: Mapping[str, Measure | None],
        reference: Dataset | str | Path | None = None,
        rows: int = 50_000,
        reference_rows: int = 10_000,
        batch_size: int = 64,
        device: str = "auto",
        root: str | Path | None = None,
    ) -> None:
        self.device = resolve(device)
        self.network = network.to(self.device)
        self.measures = {name: measure for name, measure in measures.items() if measure is not None}
        self.batch_size = batch_size
        self._size: list[int] | None = None
        self._spaces = {k: Space(w, rows, self.device) for k, w in wanted(list(self.measures.values())).items()}
        needed = wanted([m for m in self.measures.values() if m.real])
        if needed and reference is None:
            raise MultigenError(f"metrics in {network.name} features need real pictures: give reference=FILE or FOLDER")
        settings = (reference_rows, batch_size, self.device, Path(root) if root else None)
        self.reference = Reference(reference, network, needed, *settings) if needed and reference is not None else None

    def update(self, samples: Sequence[Picture | None], template: Batch) -> None:
        pictures = [sample for sample in samples if sample is not None]
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            self._check_size(part[0])
            features = look(self.network, part, self.device)
            for name, space in self._spaces.items():
                space.add(features[name])

    def _check_size(self, picture: Picture) -> None:
        """Refuse at once what could not be compared in the end."""
        size = list(picture.shape[:2])
        if self._size is None and self.reference is not None:
            real = self.reference.resolution()
            if real is not None and real != size:
                what = f"{' x '.join(map(str, real))} pixels, the samples are of {' x '.join(map(str, size))}"
                raise MultigenError(f"the reference of metrics in {self.network.name} features is of {what}")
        if self._size not in (None, size):
            raise MultigenError(f"samples are of different sizes: {self._size} and {size}")
        self._size = size

    def join(self) -> None:
        """Bring together what several processes took in; then the first one computes."""
        for space in self._spaces.values():
            space.join()
        _ = self._real

    def compute(self) -> dict[str, float]:
        count = max((space.count for space in self._spaces.values()), default=0)
        if count < 2:
            return dict.fromkeys(self._meaning, math.nan)
        made = {name: space.seen() for name, space in self._spaces.items()}
        found: dict[str, float] = {}
        for measure in self.measures.values():
            values = measure(made[measure.features], self._real.seen.get(measure.features, Seen(None, None)))
            found |= {self._title(measure, name): value for name, value in values.items()}
        return found

    @cached_property
    def _real(self) -> Statistics:
        return self.reference.statistics() if self.reference else Statistics({}, {})

    def _title(self, measure: Measure, name: str) -> str:
        """The name of the literature, or one that says in which features it is measured."""
        if self.network.standard and name in measure.published:
            return measure.published[name]
        kinds = {m.features for m in self.measures.values() if name in m.meaning}
        return "_".join([name, self.network.name, *([measure.features] if len(kinds) > 1 else [])])

    @property
    def _meaning(self) -> dict[str, str]:
        return {self._title(m, k): text for m in self.measures.values() for k, text in m.meaning.items()}

    def about(self) -> dict[str, Any]:
        real = [self._title(m, k) for m in self.measures.values() if m.real for k in m.meaning]
        return {
            "meaning": self._meaning,
            "reference": dict.fromkeys(real, _said(self._real.about)),
            "statistics": self._real.about,
            "network": {"name": self.network.name, "fingerprint": self.network.fingerprint},
            "note": f"Pictures are seen by {self.network.name}, in its own way of resizing; real ones come from files.",
            "settings": {name: describe.plain(measure) for name, measure in self.measures.items()},
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}


def _said(about: Mapping[str, Any]) -> str:
    """Set, count and resolution in one line."""
    count = f"{about['count']:,} pictures" if about.get("count") else "pictures"
    size = f" at {' x '.join(map(str, about['resolution']))} pixels" if about.get("resolution") else ""
    return f"{count}{size} of {about.get('set', {}).get('name', 'the data')}"
