"""How close samples are to the mixture that they should come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.points.data import Mixture
from modalities.points.modality import Sample
from multigen.state import Batch


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, which is 0 for equal distributions alone (Szekely and Rizzo 2013).

    Args:
        x: (N, D).
        y: (M, D).
    """
    x, y = x.double(), y.double()
    within = [torch.pdist(z).sum() * 2 / (len(z) * (len(z) - 1)) for z in (x, y)]  # (), ()
    return float(2 * torch.cdist(x, y).mean() - within[0] - within[1])


class Truth:
    """Samples against held-out points.

    Measures:
        energy_distance: of the points alone; ``_real`` is that of two halves of the held-out set.
        frequency_error: total variation between the classes of samples and of held-out points.
        label_accuracy: share of samples whose label is that of the nearest held-out point; only where samples have labels.

    Args:
        reference: held-out points; the nearest one says which class a sample is of.
    """

    def __init__(self, reference: Mixture) -> None:
        self.reference = reference
        self.samples: list[Sample] = []

    def update(self, samples: Sequence[Sample | None], template: Batch) -> None:
        self.samples += [s for s in samples if s is not None]

    def compute(self) -> dict[str, float]:
        if len(self.samples) < 2:
            return {}
        points = torch.from_numpy(np.stack([s.point for s in self.samples]))  # (N, 2)
        real = self.reference.points.double()  # (M, 2)
        found = self.classify(points)  # (N,)
        measures = {
            "energy_distance": energy_distance(points, real),
            "energy_distance_real": energy_distance(real[::2], real[1::2]),
            "frequency_error": float((self._frequency(found) - self._frequency(self.reference.labels)).abs().sum() / 2),
        }
        labels = [s.label for s in self.samples]
        if None not in labels:
            measures["label_accuracy"] = float((found == torch.tensor(labels)).double().mean())
        return measures

    def classify(self, points: Tensor) -> Tensor:
        """(N, 2) -> (N,): the class of the nearest held-out point."""
        return self.reference.labels[torch.cdist(points.double(), self.reference.points.double()).argmin(1)]

    def _frequency(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=self.reference.classes) / len(labels)  # (K,)

    def about(self) -> dict[str, Any]:
        return {
            "meaning": {
                "energy_distance": "distance between the distributions of samples and held-out points; 0 is equal",
                "frequency_error": "share of samples that lie in classes which have too many; 0 is best",
                "label_accuracy": "share of samples that lie where their label says; 1 is best",
            },
            "reference": f"{len(self.reference)} held-out points ({self.reference.fingerprint})",
        }

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}
