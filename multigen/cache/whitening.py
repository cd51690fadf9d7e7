"""Whitening: features rotated to their principal components, cut to the first k and scaled to unit variance.

Teachers often put most of their variance into a few directions that all examples share; whitening weights what tells examples
apart (and k components are small to store). With mean m and covariance U diag(l) U^T of the training split's features,

    y = (x - m) U_k diag(l_k)^(-1/2),      Cov(y) = I.

It is fitted once, on the training split, and kept in a file that both the cache and an online encoder read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multigen.cache.encode import Job, cost, features, spaced
from multigen.cache.progress import bar, duration, pass_of
from multigen.cache.spec import FORMAT, PREPARE, Spec, Storage, cache_root, digest, refuse, slug
from multigen.files import atomic_write, make_folder
from multigen.modality import Dataset, Encoder
from multigen.state import Batch, Features, MultigenError


@dataclass(frozen=True)
class Whitening:
    """An affine map of features."""

    mean: Tensor
    """Float32 (D,)."""
    basis: Tensor
    """Float32 (D, k): principal directions over their standard deviations."""

    @property
    def digest(self) -> str:
        content = b"".join(x.cpu().contiguous().numpy().tobytes() for x in (self.mean, self.basis))
        return hashlib.sha256(content).hexdigest()

    @property
    def width(self) -> int:
        """k."""
        return self.basis.shape[1]

    def first(self, k: int) -> Whitening:
        """To the first k components: what would have been fitted to them alone, to the bit."""
        return Whitening(self.mean, self.basis[:, :k])

    def __call__(self, value: Tensor) -> Tensor:
        """(*, D) -> Float32 (*, k). In full precision also under autocast, so that cached and online targets agree."""
        with torch.autocast(value.device.type, enabled=False):
            return (value.float() - self.mean) @ self.basis  # (*, k)

    def to(self, device: Any) -> Whitening:
        return Whitening(self.mean.to(device), self.basis.to(device))

    def save(self, path: Path, keys: dict[str, Any]) -> None:
        from safetensors.torch import save

        with atomic_write(path) as file:
            tensors = {"mean": self.mean.contiguous(), "basis": self.basis.contiguous()}
            file.write(save(tensors, {key: str(value) for key, value in keys.items()}))

    @staticmethod
    def load(path: Path) -> Whitening:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return Whitening(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise MultigenError(f"whitening {path} is damaged ({error}); delete it and run `{PREPARE}`") from None


class Moments:
    """Mean and covariance of rows that arrive in pieces, in float64 about the first piece's mean."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Add rows (R, D)."""
        if rows.shape[0] == 0:
            return
        x = rows.double()  # (R, D)
        if self.count == 0:
            self.shift = x.mean(0)  # (D,)
            self.first = torch.zeros_like(self.shift)  # (D,)
            self.second = x.new_zeros(x.shape[1], x.shape[1])  # (D, D)
        x = x - self.shift  # (R, D)
        self.count += x.shape[0]
        self.first += x.sum(0)
        self.second += x.T @ x

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D), Float64."""
        offset = self.first / self.count  # (D,)
        return self.shift + offset, self.second / self.count - torch.outer(offset, offset)


def whitening(moments: Moments, k: int, name: str = "") -> Whitening:
    """What whitens to `k` dimensions the rows that `moments` is of.

    Raises:
        MultigenError: the rows vary in fewer than `k` directions.
    """
    if moments.count == 0:
        raise MultigenError(f"cannot whiten target {name!r}: no example has a real site")
    mean, covariance = moments.result()
    values, vectors = torch.linalg.eigh(covariance)  # (D,), (D, D), ascending
    values, vectors = values.flip(0), vectors.flip(1)
    # float32 features leave noise of about 1e-7 of the largest deviation, squared, in directions that they do not span
    rank = int((values > values[0].clamp(min=0) * 1e-12).sum())
    if rank < k:
        raise MultigenError(f"cannot whiten target {name!r} to {k} dimensions: its features span {rank}; use whiten={rank}")
    return Whitening(mean.float(), (vectors[:, :k] / values[:k].sqrt()).float())  # (D,), (D, k)


class Whitened:
    """An encoder whose features are whitened: what `targets: online` uses where the cache stores whitened features."""

    def __init__(self, encoder: Encoder, whitening: Whitening) -> None:
        self.encoder, self.whitening = encoder, whitening
        self.fingerprint = digest({"encoder": encoder.fingerprint, "whitening": whitening.digest})

    def __call__(self, batch: Batch) -> Features:
        value, mask = self.encoder(batch)
        if value.shape[-1] != (width := self.whitening.mean.shape[0]):
            raise MultigenError(f"whitening was fitted on features of width {width}, the encoder gives {value.shape[-1]}")
        return Features(self.whitening(value), mask)

    def to(self, device: Any) -> Whitened:
        self.encoder, self.whitening = self.encoder.to(device), self.whitening.to(device)
        return self


def spec_of(name: str, dataset: Dataset, teacher: Encoder, dtype: str) -> Spec:
    """The key of the cache of what `teacher` says about `dataset`."""
    if isinstance(teacher, Whitened):
        return Spec(name, dataset.fingerprint, teacher.encoder.fingerprint, teacher.whitening.digest, dtype)
    return Spec(name, dataset.fingerprint, teacher.fingerprint, "none", dtype)


def _keys(dataset: Dataset, encoder: Encoder, name: str, storage: Storage) -> dict[str, Any]:
    """What a whitening depends on. All values are strings, as the file stores them."""
    keys = {"name": name, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint}
    return keys | {"whiten": str(storage.whiten), "examples": str(storage.examples), "format": str(FORMAT)}


def _path(keys: dict[str, Any], root: Path | None) -> Path:
    return cache_root(root) / f"whitening-{slug(keys['name'])}-{digest(keys)[:12]}.safetensors"


class _Fit:
    """A whitening that is wanted, and where it is kept."""

    def __init__(self, job: Job, k: int, examples: int | None, keys: dict[str, Any], root: Path | None) -> None:
        self.job, self.k, self.keys, self.path = job, k, keys, _path(keys, root)
        self.indices = spaced(len(job.dataset), examples)
        self.moments = Moments()

    def __str__(self) -> str:
        return f"target {self.job.name!r}: whitening to {self.k} dimensions from {len(self.indices):,} examples"

    def save(self) -> None:
        whitening(self.moments, self.k, self.job.name).save(self.path, self.keys)

    def found(self) -> bool:
        """Is it there, or the beginning of one to more dimensions that otherwise depends on the same?"""
        if self.path.is_file():
            return True
        fitted = _fitted(self.path.parent, self.job.name).items()
        same = [path for path, keys in fitted if keys | {"whiten": str(self.k)} == self.keys and int(keys["whiten"]) > self.k]
        if same:
            Whitening.load(same[0]).first(self.k).save(self.path, self.keys)
        return bool(same)


def fit_teachers(
    jobs: Sequence[Job], storages: Sequence[Storage], root: Path | None = None, log: Callable[[str], None] = print
) -> list[Encoder]:
    """The encoders that targets are made of, with whitenings (if any) fitted on the data set unless they already were."""
    from filelock import FileLock

    wanted = [
        _Fit(job, storage.whiten, storage.examples, _keys(job.dataset, job.encoder, job.name, storage), root)
        for job, storage in zip(jobs, storages, strict=True)
        if storage.whiten is not None
    ]
    make_folder(cache_root(root))
    with ExitStack() as held:
        for path in sorted(fit.path for fit in wanted):  # in one order, lest two processes wait for each other
            held.enter_context(FileLock(path.with_suffix(".lock")))
        missing = [fit for fit in wanted if not fit.found()]
        for count in dict.fromkeys(len(fit.indices) for fit in missing):
            _fit_together([fit for fit in missing if len(fit.indices) == count], log)
    return [load_teacher(job.encoder, job.name, s, job.dataset, root) for job, s in zip(jobs, storages, strict=True)]


def _fit_together(fits: Sequence[_Fit], log: Callable[[str], None]) -> None:
    """Fit whitenings in one pass over the examples, which are the same for all."""
    jobs, indices = [fit.job for fit in fits], fits[0].indices
    took = duration(len(indices) * cost(jobs).seconds)
    for line in pass_of([str(fit) for fit in fits], f"about {took}"):
        log(line)
    done = 0
    with bar(f"whitening {', '.join(job.name for job in jobs)}", len(indices)) as show:
        for found in features(jobs, indices):
            for fit, (value, mask) in zip(fits, found, strict=True):
                fit.moments.update(value[mask])  # (R, D)
            done += len(found[0].mask)
            show(done)
    for fit in fits:
        fit.save()


def load_teacher(
    encoder: Encoder, name: str, storage: Storage, train: Dataset, root: Path | None = None, command: str = PREPARE
) -> Encoder:
    """The encoder that targets are made of: `encoder` itself, or whitened as was fitted on `train`.

    Raises:
        MultigenError: the whitening was not fitted, or on other data, another encoder, ... (the message says which).
    """
    if storage.whiten is None:
        return encoder
    keys = _keys(train, encoder, name, storage)
    path = _path(keys, root)
    if not path.is_file():
        raise refuse(f"whitening of target {name!r}", keys, _fitted(path.parent, name), command)
    return Whitened(encoder, Whitening.load(path))


def longer(own: Whitening, name: str, root: Path | None = None) -> list[Whitening]:
    """The whitenings of a target that begin with all of `own`, and go on."""
    found = [Whitening.load(path) for path in _fitted(cache_root(root), name)]
    return [one for one in found if one.width > own.width and one.first(own.width).digest == own.digest]


def _fitted(folder: Path, name: str) -> dict[Path, dict[str, str]]:
    """The whitenings of a target that were fitted, by what they depend on."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in folder.glob(f"whitening-{slug(name)}-*.safetensors"):
        with suppress(SafetensorError), safe_open(path, "pt") as file:
            found[path] = file.metadata() or {}
    return {path: keys for path, keys in found.items() if keys.get("name") == name}
