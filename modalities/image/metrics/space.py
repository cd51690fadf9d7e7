"""What is kept of the features of pictures while they go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modalities.image.metrics.measures import Measure, Seen
from modalities.image.metrics.networks import Network
from modalities.image.modality import Image, Picture
from multigen import distributed
from multigen.distances import Sums


class Wanted(NamedTuple):
    """What measures read of one kind of features."""

    moments: bool
    rows: bool


def wanted(measures: Sequence[Measure]) -> dict[str, Wanted]:
    """Features -> what any of the measures reads of them."""
    names = dict.fromkeys(measure.features for measure in measures)
    each = {name: [m for m in measures if m.features == name] for name in names}
    return {name: Wanted(any(m.moments for m in some), any(m.rows for m in some)) for name, some in each.items()}


class Space:
    """One kind of features of one set: sums of all of them, and some rows.

    Args:
        wanted: which of the two are kept.
        limit: of the rows; the first ones are kept.
        device: where the features are.
    """

    def __init__(self, wanted: Wanted, limit: int, device: torch.device) -> None:
        self.wanted, self.limit, self.device = wanted, limit, device
        self._sums: Sums | None = None
        self._rows: list[Tensor] = []
        self.count = self._kept = 0

    def add(self, x: Tensor, rows: Tensor | None = None) -> None:
        """Take in features (B, D); of the rows those that Bool (B,) says, by default all."""
        self.count += len(x)
        if self.wanted.moments:
            self._sums = self._sums or Sums(x.shape[1], self.device)
            self._sums.add(x)
        if self.wanted.rows and self._kept < self.limit:
            some = x if rows is None else x[rows.to(x.device)]  # (b, D)
            self._rows.append(some[: self.limit - self._kept].float().cpu())
            self._kept += len(self._rows[-1])

    def join(self) -> None:
        """Bring together what the processes took in: each has the sums, the first one the rows in order."""
        self.count = sum(distributed.gather([self.count]))
        if self.wanted.moments:
            width = distributed.highest(len(self._sums.total) if self._sums else 0)
            sums = self._sums = self._sums or Sums(width, self.device)
            sums.count, sums.total, sums.outer = (distributed.total(x) for x in (sums.count, sums.total, sums.outer))
        if self.wanted.rows:
            self._rows = distributed.gather(self._rows)

    def seen(self) -> Seen:
        rows = torch.cat(self._rows)[: self.limit].to(self.device) if self._rows else None  # (n, D)
        return Seen(self._sums.gaussian() if self._sums else None, rows)


@torch.no_grad()
def look(network: Network, pictures: Sequence[Picture], device: torch.device) -> dict[str, Tensor]:
    """The features (B, D) of uint8 (H, W, C) each, by name."""
    image = Image._stack(pictures).to(device)  # (B, C, H, W)
    return network(image.expand(-1, 3, -1, -1).contiguous())  # (B, 3, H, W)
