"""What a domain brings: examples to batches, batches to targets, states to things a person can use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from multigen.state import Batch, Features, MultigenError, State

Example = dict[str, Any]
"""One item of a data set: named arrays. ``example["target"]`` holds cached representations by name, when there are any."""

S = TypeVar("S")
"""What a modality decodes to: a picture, a sequence, a molecule."""

T = TypeVar("T", contravariant=True)
"""The same, as what is consumed."""


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set. Items are pure functions of their index; random augmentation belongs to `collate`."""

    fingerprint: str
    """Changes whenever the items do; keys the representation cache."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Abridged(Protocol):
    """What a `Dataset` may add whose items hold less than teachers see: training on cached targets needs no more."""

    def whole(self) -> Dataset:
        """The same examples, under one fingerprint whatever is left out, with all that teachers see."""
        ...


def whole(dataset: Dataset) -> Dataset:
    """A data set as teachers see it."""
    return dataset.whole() if isinstance(dataset, Abridged) else dataset


class Encoder(Protocol):
    """A frozen representation of the clean data: a teacher.

    A class whose weights have to be fetched has a static method ``prepare``, which does so for the settings that it takes (of
    those that the class takes): ``multigen prepare experiment=...`` calls it.
    """

    fingerprint: str
    """Changes whenever the features do; keys the representation cache."""

    def __call__(self, batch: Batch) -> Features:
        """The features of each example: value (B, *sites, D), mask (B, *sites). Called without gradient."""
        ...

    def to(self, device: Any) -> Any:
        """Move to a device, in place; return itself."""
        ...


class Modality(Protocol[S]):
    """One domain. It never owns a loop, knows no step number and imports no other modality."""

    encoders: Mapping[str, Encoder]
    """Teachers that run online, by target name. Empty when every target comes from the cache."""

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        """In a loader worker, on the CPU: pad, mask, build graphs. ``keys`` become `Batch.key`."""
        ...

    def encode(self, batch: Batch) -> Batch:
        """On the device, without gradient: latents into ``clean``, encoders into ``target``, ``raw`` emptied."""
        ...

    def template(self, index: Sequence[int], seed: int) -> Batch:
        """Things to make, one per index: shapes, masks and conditions.

        Row i is a function of (seed, index[i]) alone: ``key`` is `multigen.random.keys(seed, index, "sample")`, and what the
        template draws (a label, a size) it draws from `Noise(key).fold("template")`.
        """
        ...

    def decode(self, state: State, template: Batch) -> list[S | None]:
        """Samples from a finished state; None where nothing valid came out."""
        ...

    def save(self, samples: Sequence[S | None], folder: Path) -> list[Path]:
        """Write samples as files a person can open."""
        ...

    def draw(self, samples: Sequence[S | None], path: Path) -> Path:
        """Draw samples into one picture (PNG) for reports."""
        ...


@runtime_checkable
class Reported(Protocol):
    """What the class of a `Modality` may add for the readers of reports."""

    @staticmethod
    def parts() -> Sequence[Callable[[Any], Any]]:
        """Parts of a run's page, see `multigen.report.Part`: functions from a record to a section, or to None.

        Asked of the class, so that a page is written without data, network or teacher. What a part shows, a metric wrote into
        the run's folder.
        """
        ...


Drawn = Iterable[tuple[Sequence[Any], Batch]]
"""Samples batch by batch, each with the template that it was made for."""


class Alternative(NamedTuple):
    """An experiment with one thing done otherwise."""

    meaning: str
    """What is compared, in few words: "with / without"."""
    config: dict[str, Any]
    """The experiment's configuration, changed."""
    against: str = "step"
    """What is divided by it: "step" is the experiment as it is, "compiled" the same compiled."""


@runtime_checkable
class Compared(Protocol):
    """What the class of a `Modality`, or of a denoiser, may add whose parts have a cost that is worth knowing."""

    @staticmethod
    def alternatives(config: dict[str, Any]) -> Mapping[str, Alternative]:
        """Name -> an alternative to an experiment, against which ``multigen benchmark`` measures its training step."""
        ...


@runtime_checkable
class Filed(Protocol):
    """What a `Modality` may add that has formats for many samples in one file."""

    formats: Collection[str]
    """Endings of names, such as ".npz"."""

    def write(self, drawn: Drawn, count: int, path: Path) -> Path:
        """Write `count` samples, as they are drawn, to a file in the format that its name ends with."""
        ...


class Metric(Protocol[T]):
    """A number, or several, about a set of samples."""

    def update(self, samples: Sequence[T | None], template: Batch) -> None:
        """Take in more samples; row i of `template` is what sample i was made for: its conditions, its size."""
        ...

    def compute(self) -> dict[str, float]: ...


@runtime_checkable
class Joined(Protocol):
    """What a `Metric` may add, to be fed by several processes with a part of the samples each."""

    def join(self) -> None:
        """Called by all of several processes: bring together, in order, what each took in. The first computes afterwards."""
        ...


def run_encoders(batch: Batch, encoders: Mapping[str, Encoder], joint: Collection[str] = ()) -> Batch:
    """Fill in the targets that the batch does not carry yet and drop ``raw``: the core of every `Modality.encode`.

    Args:
        batch: as collated.
        encoders: by target name.
        joint: targets that are denoised together with the data, see `place`; a batch that is only drawn has none.
    """
    # to where the batch is: a batch of training data and a template that is still on the CPU may ask the same encoder
    missing = {name: e.to(batch.key.device)(batch) for name, e in encoders.items() if name not in batch.target}
    found = batch.replace(target={**batch.target, **missing}, raw={})
    return place(found, [name for name in joint if name in found.target])


def place(batch: Batch, components: Collection[str] = (), conditions: Collection[str] = ()) -> Batch:
    """Move representations out of ``target``: where one lies decides how it guides.

    Args:
        batch: whose encoders have run.
        components: names that are denoised together with the data: to ``clean``, ``mask`` and ``free``.
        conditions: names that are given: the value alone, to ``cond``. Sites that the mask leaves out should hold zeros.

    Raises:
        MultigenError: the batch has a name nowhere.
    """
    clean, cond, mask, rest = dict(batch.clean), dict(batch.cond), dict(batch.mask), dict(batch.target)
    for kind, names, there in (("component", components, clean), ("condition", conditions, cond)):
        for name in names:
            if name not in there and name not in rest:
                raise MultigenError(f"{kind} {name!r} comes from neither data, cache nor encoder; is targets=online missing?")
            if name in rest:
                there[name], real = rest.pop(name)
                mask |= {name: real} if kind == "component" else {}
    free = {k: batch.free.get(k, m) for k, m in mask.items()}
    return batch.replace(clean=clean, mask=mask, free=free, cond=cond, target=rest)


def unmade(batch: Batch, components: Mapping[str, tuple[Tensor, int]]) -> Batch:
    """A template with further components, all of them to be made: what `place` brings a batch of data.

    Args:
        components: name -> its sites, Bool (B, *sites), and its width D.
    """
    masks = {name: mask for name, (mask, _) in components.items()}
    zeros = {name: torch.zeros(*mask.shape, width, device=mask.device) for name, (mask, width) in components.items()}
    return batch.replace(clean=batch.clean | zeros, mask=batch.mask | masks, free=batch.free | masks)


def collate_targets(examples: Sequence[Example], sites: Mapping[str, Sequence[int]] | None = None) -> dict[str, Features]:
    """Pad and stack the cached representations of `examples`: the value of `Batch.target` in every `Modality.collate`.

    Args:
        examples: each may hold ``example["target"]``: name -> array (*sites, D), all of whose sites are real, or a pair of
            such an array and a Bool array (*sites).
        sites: name -> sizes (*sites) to pad to at least, for a modality that pads its batches further than the longest
            example.

    Returns:
        name -> value Float32 (B, *sites, D), 0 where padded, and mask Bool (B, *sites); {} when there are no targets.
    """
    names = list(examples[0].get("target", {})) if examples else []
    for example in examples:
        if set(found := example.get("target", {})) != set(names):
            raise MultigenError(f"examples of one batch have different targets: {names} and {list(found)}")
    at_least = sites or {}
    return {name: _stack(name, [e["target"][name] for e in examples], at_least.get(name, ())) for name in names}


def _stack(name: str, targets: Sequence[Any], at_least: Sequence[int]) -> Features:
    pairs = [t if isinstance(t, tuple) else (t, True) for t in targets]
    shapes = [value.shape for value, _ in pairs]
    if len({(len(shape), shape[-1]) for shape in shapes}) > 1:
        raise MultigenError(f"target {name!r} has examples that cannot be stacked: shapes {sorted(set(shapes))}")
    least = at_least or (0,) * (len(shapes[0]) - 1)
    size = [max(sizes) for sizes in zip(*(shape[:-1] for shape in shapes), least, strict=True)]
    # in the arrays' own type and widened at once: torch converts half precision several times faster than numpy
    value = np.zeros(
        (len(pairs), *size, shapes[0][-1]), np.result_type(*(array.dtype for array, _ in pairs))
    )  # (B, *sites, D)
    mask = np.zeros((len(pairs), *size), np.bool_)  # (B, *sites)
    for i, (array, real) in enumerate(pairs):
        box: Any = (i, *(slice(n) for n in array.shape[:-1]))
        value[box], mask[box] = array, real
    return Features(torch.from_numpy(value).float(), torch.from_numpy(mask))


def encode_text(lines: Sequence[str]) -> Tensor:
    """UTF-8, padded with zeros: uint8 (B, L). Text travels as a tensor, so that only the teacher needs a tokeniser."""
    encoded = [line.encode() for line in lines]
    length = max([1, *map(len, encoded)])
    return torch.frombuffer(bytearray(b"".join(e.ljust(length, b"\0") for e in encoded)), dtype=torch.uint8).view(-1, length)


def decode_text(rows: Tensor) -> list[str]:
    """Uint8 (B, L) -> the lines."""
    return [bytes(row).rstrip(b"\0").decode() for row in rows.cpu().numpy()]
