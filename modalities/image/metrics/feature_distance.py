"""Quality, memorisation and obedience of sampled pictures, in the features of a frozen network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.image.metrics.networks import averaged
from modalities.image.modality import Image, Picture, grid, save_png
from multigen import describe, distances
from multigen.cache import Job, Reader, Storage, build
from multigen.cache.encode import spaced
from multigen.distributed import resolve
from multigen.modality import Dataset, Encoder, Example
from multigen.state import Batch, MultigenError

NEAR = 0.05
"""A sample is a near copy when it is closer to a training picture than all but this share of held-out pictures are."""
Measures = dict[tuple[str, ...], float]
"""By measure and endings: ("frechet", "train", "real")."""
PROBED = 128
"""Principal components that the classifier of labels sees."""


class AsSampled:
    """A data set whose pictures the encoder sees at the size of the samples, and not at the teachers' finer one.

    Without it real pictures would differ from perfect samples by their sharpness alone.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.fingerprint = f"{dataset.fingerprint}-as-sampled"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        item = self.dataset[index]
        return {"image": item["image"], "raw": item["image"], "label": item.get("label", 0)}


class FeatureDistance:
    """How far samples are from held-out real pictures, how near to training ones, and whether they show their label.

    ====================================  =========================================================================
    ``frechet_<name>_pca<components>``    Frechet distance to the held-out pictures in principal components of the
                                          encoder's features, fitted on the training pictures. Lower is better.
    ``kid_<name>``                        kernel distance to the held-out pictures in all features. Lower is better.
    ``..._train``                         both distances, to the training pictures.
    ``nearest_train_<name>``              mean of 1 - cosine between a sample and the training picture nearest to it.
    ``near_copies_<name>``                share of samples nearer to a training picture than 95 % of held-out ones.
    ``label_accuracy_<name>``             share of samples that a linear classifier, fitted on the training pictures'
                                          features, puts into the class they were made for.
    ====================================  =========================================================================

    Each comes with ``..._real``, the same of real pictures in the place of samples: held-out ones, or, for a distance to
    these, training ones. Distances depend on the number of pictures, so no more real ones are taken than there are samples.
    None of these is FID, which is defined by another network.

    Args:
        train: training pictures; items hold ``image`` uint8 (H, W, 3) and perhaps ``label``.
        held_out: pictures that the model has not seen.
        encoder: reads ``raw["image"]``, uint8 (B, 3, H, W); pooled: value (B, D).
        name: of the encoder in the names of the measures; by default its class, in small letters.
        components: principal components of the Frechet distance.
        subset: pictures in each of the `subsets` random subsets of the kernel distance; `seed` chooses them.
        batch_size: pictures a call of the encoder.
        device: where it runs.
        root: data root, in whose cache the features of real pictures are kept.
    """

    def __init__(
        self,
        train: Dataset,
        held_out: Dataset,
        encoder: Encoder,
        name: str | None = None,
        components: int = 32,
        subset: int = 500,
        subsets: int = 25,
        seed: int = 0,
        batch_size: int = 64,
        device: str = "auto",
        root: Path | str | None = None,
    ) -> None:
        self.train, self.held_out = AsSampled(train), AsSampled(held_out)
        self.device = resolve(device)
        self.encoder = encoder.to(self.device)
        self.name = name or type(encoder).__name__.lower()
        self.components, self.subset, self.subsets, self.seed = components, subset, subsets, seed
        self.batch_size, self.root = batch_size, Path(root) if root else None
        self.samples: list[Picture] = []
        self._features: list[Tensor] = []
        self._wanted: list[Tensor] = []

    def update(self, samples: Sequence[Picture | None], template: Batch) -> None:
        valid = {i: sample for i, sample in enumerate(samples) if sample is not None}
        pictures = list(valid.values())
        for start in range(0, len(pictures), self.batch_size):
            self._features.append(self._encode(pictures[start : start + self.batch_size]))
        self.samples += pictures
        if "label" in template.cond:
            self._wanted.append(template.cond["label"][list(valid)].cpu())

    def compute(self) -> dict[str, float]:
        x = torch.cat([torch.zeros(0, self.real_train.shape[1]), *self._features])  # (N, D)
        if len(x) < 2:
            return dict.fromkeys(self.about()["meaning"], math.nan)
        measured = {**self._distances(x), **self._copies(x), **self._labels(x)}
        return {self._full(*parts): value for parts, value in measured.items()}

    def _full(self, measure: str, *endings: str) -> str:
        """frechet, real -> ``frechet_<name>_pca32_real``."""
        components = [f"pca{self.components}"] if measure == "frechet" else []
        return "_".join([measure, self.name, *components, *endings])

    def _distances(self, x: Tensor) -> Measures:
        found: Measures = {}
        real = (self.real_held_out, self.real_train)
        for reference, control, side in ((*real, ()), (*real[::-1], ("train",))):
            some = control[spaced(len(control), len(x))]  # (N at most, D)
            found[("frechet", *side)] = self._frechet(x, reference)
            found[("frechet", *side, "real")] = self._frechet(some, reference)
            found[("kid", *side)], found[("kid", *side, "std")] = self._kid(x, reference)
            found[("kid", *side, "real")] = self._kid(some, reference)[0]
        return found

    def _frechet(self, x: Tensor, reference: Tensor) -> float:
        return distances.frechet(*(distances.moments(self._project(some)) for some in (x, reference)))

    def _kid(self, x: Tensor, reference: Tensor) -> tuple[float, float]:
        return distances.kernel_distance(x, reference, self.subset, self.subsets, self.seed)

    @cached_property
    def _project(self) -> distances.Principal:
        return distances.principal(self.real_train, self.components)

    def _copies(self, x: Tensor) -> Measures:
        near, real = self._nearest(x)[0], self._nearest(self.real_held_out)[0]  # (N,), (M,)
        found: Measures = {}
        for some, ending in ((near, ()), (real, ("real",))):
            found[("nearest_train", *ending)] = float(some.mean())
            found[("near_copies", *ending)] = float((some < real.quantile(NEAR)).double().mean())
        return found

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to and index of the nearest training picture, the mean of all pictures taken away: (N,), (N,)."""
        centre = self.real_train.mean(0)  # (D,)
        return distances.nearest_neighbour(x - centre, self.real_train - centre)

    def _labels(self, x: Tensor) -> Measures:
        label = _labels(self.train)  # (training pictures,)
        if not self._wanted or len(label.unique()) < 2:
            return {}
        project = distances.principal(self.real_train, PROBED)
        probe = distances.probe(project(self.real_train), label)
        pairs = {(): (x, torch.cat(self._wanted)), ("real",): (self.real_held_out, _labels(self.held_out))}
        return {
            ("label_accuracy", *k): float((probe(project(some)) == want).double().mean()) for k, (some, want) in pairs.items()
        }

    @cached_property
    def real_train(self) -> Tensor:
        """(training pictures, D)."""
        return self._real(self.train)

    @cached_property
    def real_held_out(self) -> Tensor:
        """(held-out pictures, D)."""
        return self._real(self.held_out)

    def _real(self, dataset: AsSampled) -> Tensor:
        """Features of real pictures, from the representation cache, which is filled on first use."""
        if len(dataset) < 2:
            raise MultigenError(f"a distance needs at least 2 real pictures, {dataset.fingerprint} has {len(dataset)}")
        shape = dataset[0]["image"].shape
        modality = Image(size=shape[0], classes=0, channels=shape[-1], encoders={self.name: self.encoder})
        job = Job(dataset, modality, self.encoder, self.name, self.batch_size, self.device)
        reader = Reader(build(job, Storage(dtype="float32"), self.root))
        return torch.stack([torch.tensor(reader[i]) for i in range(len(reader))])

    def _encode(self, pictures: Sequence[Picture]) -> Tensor:
        """(B, D)."""
        image = Image._stack(pictures).contiguous()  # (B, 3, H, W)
        return averaged(self.encoder, image.to(self.device)).cpu()

    def about(self) -> dict[str, Any]:
        size, seen = self.train[0]["image"].shape[0], getattr(self.encoder, "size", None)
        features = f"Features are those of {self.name} from pictures of {size} pixels" + (
            f" enlarged to {seen}" if seen else ""
        )
        frechet = f"Frechet distance in {self.components} principal components of features; lower is better"
        kernel = f"kernel distance of features, mean and deviation over {self.subsets} subsets; lower is better"
        held_out, train = (
            _named(data.dataset, side) for data, side in ((self.held_out, "held-out"), (self.train, "training"))
        )
        said = {
            ("frechet",): (frechet, held_out),
            ("kid",): (kernel, held_out),
            ("frechet", "train"): (frechet, train),
            ("kid", "train"): (kernel, train),
            ("nearest_train",): ("1 - cosine to the nearest training picture, mean; far below real data means copying", train),
            ("near_copies",): (f"share nearer to a training picture than {1 - NEAR:.0%} of held-out ones are", train),
            ("label_accuracy",): ("share in the wanted class by a linear classifier of the features; higher is better", train),
        }
        return {
            "meaning": {self._full(*parts): text for parts, (text, _) in said.items()},
            "reference": {self._full(*parts): data for parts, (_, data) in said.items()},
            "sets": {"held out": describe.dataset(self.held_out.dataset), "train": describe.dataset(self.train.dataset)},
            "note": f"{features}; these measures are not FID, which is defined by another network.",
            "encoder": getattr(self.encoder, "fingerprint", self.name),
            "settings": {"components": self.components, "subset": self.subset, "subsets": self.subsets, "seed": self.seed},
        }

    def pictures(self, folder: Path, shown: int = 12) -> dict[str, Path]:
        """The samples that are nearest to a training picture, above that picture."""
        if not self.samples:
            return {}
        distance, index = self._nearest(torch.cat(self._features))
        worst = distance.argsort()[:shown].tolist()
        rows = [self.samples[i] for i in worst] + [self.train[int(index[i])]["image"] for i in worst]
        size = rows[0].shape[0]
        caption = f"The {len(worst)} samples that are nearest to a training picture (above), and that picture (below)"
        return {caption: save_png(grid(rows, len(worst), size, zoom=max(1, 96 // size)), folder / "nearest.png")}


def _named(dataset: Dataset, side: str) -> str:
    return f"{len(dataset):,} {side} pictures of {describe.dataset(dataset).get('name', 'the data')}"


def _labels(dataset: AsSampled) -> Tensor:
    """Long (N,)."""
    known = getattr(dataset.dataset, "labels", None)
    return torch.tensor([dataset[i]["label"] for i in range(len(dataset))] if known is None else known.tolist())
