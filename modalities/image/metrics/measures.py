"""Measures of two sets of pictures, samples and real ones, each in one kind of features of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from multigen import distances
from multigen.neighbours import overlap

LOWER, HIGHER = "lower is better", "higher is better"


class Seen(NamedTuple):
    """What is kept of a set's features."""

    gaussian: distances.Gaussian | None
    """Of all of them."""
    rows: Tensor | None
    """Float (n, D): the first of them, or evenly spaced ones."""


class Measure(Protocol):
    """Numbers about samples, beside real pictures.

    `published` maps a number's plain name to the one it has in the literature, which it bears only in the features of the
    network that the literature means.
    """

    features: str
    """Which of the network's features."""
    moments: bool
    """Whether `Seen.gaussian` is read."""
    rows: bool
    """Whether `Seen.rows` are read."""
    real: bool
    """Whether it reads real pictures at all."""

    @property
    def published(self) -> Mapping[str, str]: ...

    @property
    def meaning(self) -> Mapping[str, str]:
        """Plain name -> one line."""
        ...

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]: ...


@dataclass(frozen=True)
class Frechet:
    """Frechet distance of the Gaussians (Heusel et al. 2017).

    Args:
        features: of the network.
        name: what the literature calls it in these features: fid, sfid.
    """

    moments: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    real: ClassVar[bool] = True
    features: str = "pool"
    name: str | None = None

    @property
    def published(self) -> dict[str, str]:
        return {"frechet": self.name} if self.name else {}

    @property
    def meaning(self) -> dict[str, str]:
        return {"frechet": f"Frechet distance of Gaussians of {self.features} features; {LOWER}"}

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]:
        assert made.gaussian is not None and real.gaussian is not None
        return {"frechet": distances.frechet(made.gaussian, real.gaussian)}


@dataclass(frozen=True)
class Kernel:
    """Kernel distance (Binkowski et al. 2018, "KID").

    Args:
        features: of the network.
        subset: pictures in each of the `subsets` random subsets; `seed` chooses them.
    """

    moments: ClassVar[bool] = False
    rows: ClassVar[bool] = True
    real: ClassVar[bool] = True
    features: str = "pool"
    subset: int = 1000
    subsets: int = 100
    seed: int = 0

    @property
    def published(self) -> dict[str, str]:
        return {"kid": "kid", "kid_std": "kid_std"} if self.features == "pool" else {}

    @property
    def meaning(self) -> dict[str, str]:
        how = f"mean over {self.subsets} subsets of at most {self.subset}"
        return {"kid": f"kernel distance of {self.features} features, {how}; {LOWER}"}

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]:
        assert made.rows is not None and real.rows is not None
        value, spread = distances.kernel_distance(made.rows, real.rows, self.subset, self.subsets, self.seed)
        return {"kid": value, "kid_std": spread}


@dataclass(frozen=True)
class GaussianMMD:
    """Squared maximum mean discrepancy with a Gaussian kernel: CMMD in CLIP's embeddings (Jayasumana et al. 2024).

    Args:
        features: of the network.
        sigma: width of the kernel.
        scale: the number is multiplied by it.
        name: what the literature calls it in these features: cmmd.
    """

    moments: ClassVar[bool] = False
    rows: ClassVar[bool] = True
    real: ClassVar[bool] = True
    features: str = "embedding"
    sigma: float = 10.0
    scale: float = 1000.0
    name: str | None = None

    @property
    def published(self) -> dict[str, str]:
        return {"mmd": self.name} if self.name else {}

    @property
    def meaning(self) -> dict[str, str]:
        kernel = f"Gaussian kernel of width {self.sigma:g}"
        return {"mmd": f"{self.scale:g} x squared MMD of {self.features} features, {kernel}; {LOWER}"}

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]:
        assert made.rows is not None and real.rows is not None
        return {"mmd": self.scale * distances.gaussian_mmd(made.rows, real.rows, self.sigma)}


@dataclass(frozen=True)
class Neighbours:
    """Precision and recall (Kynkaanniemi et al. 2019), and the symmetric ones (Khayatkhoei and AbdAlmageed 2023).

    Args:
        features: of the network.
        k: the neighbour whose distance is a ball's radius.
    """

    moments: ClassVar[bool] = False
    rows: ClassVar[bool] = True
    real: ClassVar[bool] = True
    features: str = "pool"
    k: int = 3

    @property
    def published(self) -> dict[str, str]:
        return {name: name for name in self.meaning if self.features == "pool"}

    @property
    def meaning(self) -> dict[str, str]:
        balls = f"balls to neighbour {self.k} in {self.features} features"
        return {
            "precision": f"share of samples in the real pictures' {balls}; {HIGHER}",
            "recall": f"share of real pictures in the samples' {balls}; {HIGHER}",
            "symmetric_precision": f"the smaller of precision and its complement, {balls}; {HIGHER}",
            "symmetric_recall": f"the smaller of recall and its complement (coverage), {balls}; {HIGHER}",
        }

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]:
        assert made.rows is not None and real.rows is not None
        found = overlap(made.rows, real.rows, self.k)
        return {name: getattr(found, name) for name in self.meaning}


@dataclass(frozen=True)
class InceptionScore:
    """Exponential of the mutual information of picture and class (Salimans et al. 2016), of the samples alone.

    Args:
        features: logits.
        splits: equal parts of the samples, in order, whose scores are averaged.
    """

    moments: ClassVar[bool] = False
    rows: ClassVar[bool] = True
    real: ClassVar[bool] = False
    features: str = "logits"
    splits: int = 10
    published: Mapping[str, str] = field(
        default_factory=lambda: {name: name for name in ("inception_score", "inception_score_std")}, init=False
    )

    @property
    def meaning(self) -> dict[str, str]:
        return {"inception_score": f"mean over {self.splits} parts of the samples; {HIGHER}"}

    def __call__(self, made: Seen, real: Seen) -> dict[str, float]:
        assert made.rows is not None
        log_p = made.rows.double().log_softmax(-1)  # (n, K)
        scores = torch.stack([_score(part) for part in log_p.tensor_split(min(self.splits, len(log_p)))])  # (splits,)
        return {"inception_score": float(scores.mean()), "inception_score_std": float(scores.std(unbiased=False))}


def _score(log_p: Tensor) -> Tensor:
    """exp(E KL(p(class | picture) || p(class))): ()."""
    p = log_p.exp()  # (n, K)
    marginal = p.mean(0).log()  # (K,)
    return (p * (log_p - marginal)).sum(1).mean().exp()
