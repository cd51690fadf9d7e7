"""Numbers about a trained model: its loss on held-out data, and metrics of its samples.

Both are pure functions of (weights, data, settings, seed). Held-out noise is keyed by the example's index, so that every run
and every arm of a comparison is asked the same questions; sample number i is keyed by (seed, i), so that neither the batch
size nor the number of processes changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from multigen import buckets, describe, distributed
from multigen.buckets import ranges
from multigen.cache.encode import spaced
from multigen.files import atomic_write, make_folder, write_json
from multigen.modality import Dataset, Drawn, Joined, Metric, Modality, whole
from multigen.random import hash64, keys
from multigen.run import Run
from multigen.state import Batch, MultigenError, State

S = TypeVar("S")

FORMAT = 1
"""Version of `evaluation.json`."""


@runtime_checkable
class Explained(Protocol):
    """What a `Metric` may add for its readers.

    By convention `compute` returns, beside a measure ``name``, its spread as ``name_std`` and the same measure of real
    held-out data as ``name_real``: what a perfect model would score.
    """

    def about(self) -> dict[str, Any]:
        """``meaning``: measure -> one line; ``reference``: set -> what it is, in one line; and what else identifies it."""
        ...

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Draw what the numbers cannot say into `folder`: caption -> PNG."""
        ...


class ValidationLoss(NamedTuple):
    """Means over a held-out set."""

    total: float
    """Weighted as training would weight the parts at that step."""
    parts: dict[str, float]
    """Unweighted."""
    draws: int
    """Pairs of an example and a noise that were averaged."""


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; the mode that each module was in is restored."""
    modules = {m: m.training for m in network.modules()} if isinstance(network, nn.Module) else {}
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, was in modules.items():
            module.training = was


def validation_loss(
    diffusion: nn.Module,
    dataset: Dataset,
    modality: Modality[Any],
    batch_size: int = 64,
    repeats: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    step: int = 0,
    limit: int | None = None,
) -> ValidationLoss:
    """Mean of every loss part over a held-out set, with fixed times and noise and no dropped conditions.

    Args:
        diffusion: ``(batch, step) -> Losses``, see `multigen.diffusion.Diffusion`.
        dataset: held-out examples.
        batch_size: changes the result by rounding only.
        repeats: independent times and noises for each example; the r-th of example i has the key of (seed, i * repeats + r).
        step: the global step whose weights make the total.
        limit: use so many evenly spaced examples only.

    Several processes share the work when all of them call it; the first one gets the numbers, the others nan.
    """
    used = spaced(len(dataset), limit)
    if not used or repeats < 1:
        raise MultigenError(f"a validation loss needs examples and repeats, got {len(used)} examples and {repeats} repeats")
    asked = [index * repeats + r for index in used for r in range(repeats)]  # N * R pairs of an example and a noise
    rows: list[tuple[int, dict[str, float]]] = []
    with evaluating(diffusion):
        for part in distributed.shard(ranges(len(asked), batch_size)):
            pairs = asked[part.start : part.stop]
            batch = modality.collate([dataset[pair // repeats] for pair in pairs], keys(seed, pairs, "valid").tolist())
            losses = diffusion(modality.encode(batch.to(device)), step)
            rows.append((len(pairs), {k: float(v) for k, v in {"": losses.total, **losses.parts}.items()}))
    rows = distributed.gather(rows)
    names = rows[0][1] if rows else {"": math.nan}
    means = {name: sum(count * row[name] for count, row in rows) / len(asked) if rows else math.nan for name in names}
    return ValidationLoss(means.pop(""), means, len(asked))


def sample_batches(
    sampler: Any,
    denoiser: Any,
    processes: Mapping[str, Any],
    modality: Modality[S],
    batches: Iterable[Sequence[int]],
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
) -> Iterator[tuple[list[S | None], Batch]]:
    """The samples with these indices and their templates, a batch at a time. Sample i is a function of (seed, i).

    Args:
        sampler: ``(denoiser, processes, template) -> State``.
        batches: see `multigen.buckets.batches`; with several processes each takes its `multigen.distributed.shard` of them.
        folder: where finished states are kept, one file per batch, so that an interrupted drawing goes on where it was. A file
            is used again only if weights, sampler, processes and template are those that made it.
    """
    made_by = describe.digest(denoiser, sampler, processes) if folder else None
    for index in batches:
        template = modality.template(index, seed)
        path = folder / f"{index[0]:07d}-{hash64(*index) & 0xFFFFFFFF:08x}.safetensors" if folder else None
        mark = describe.digest(made_by, template) if folder else ""
        state = _load(path, mark)
        if state is None:
            with evaluating(denoiser):
                drawn = sampler(denoiser, processes, template.to(device))
            state = {name: _single(x.cpu()) for name, x in drawn.items()}
            _store(path, mark, state)
        yield modality.decode(state, template), template


def _single(x: torch.Tensor) -> torch.Tensor:
    """Samplers work in double precision; the difference is below what any decoder sees, and fills a disk."""
    return x.float() if x.dtype == torch.float64 else x  # (B, *sites, *features)


def _load(path: Path | None, mark: str) -> State | None:
    """A stored state, unless it is missing, damaged or made by something else."""
    from safetensors import SafetensorError, safe_open

    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("made_by") != mark:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError:
        return None


def _store(path: Path | None, mark: str, state: State) -> None:
    from safetensors.torch import save

    if path is not None:
        with atomic_write(path) as file:
            file.write(save({name: x.contiguous() for name, x in state.items()}, {"made_by": mark}))


def real_samples(
    modality: Modality[S], dataset: Dataset, index: Sequence[int], device: torch.device | str = "cpu"
) -> list[S | None]:
    """Examples of a data set as if they had been sampled: through the same encoding and decoding."""
    data = whole(dataset) if modality.encoders else dataset
    batch = modality.collate([data[i] for i in index], keys(0, index, "real").tolist()).to(device)
    with torch.no_grad():
        encoded = modality.encode(batch)
        return modality.decode(encoded.clean, encoded)


def evaluate(
    sampler: Any,
    denoiser: Any,
    processes: Mapping[str, Any],
    modality: Modality[Any],
    metrics: Mapping[str, Metric[Any]],
    folder: Path,
    n: int,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    held_out: Dataset | None = None,
    about: Mapping[str, Any] | None = None,
    shown: int = 64,
    into: Path | None = None,
) -> dict[str, Any]:
    """Draw samples, measure them and write ``evaluation.json``; interrupted and called again, it goes on where it was.

    Args:
        metrics: by name. Each gets all samples; two metrics may not return the same measure.
        folder: the run's folder. States of samples go to ``evaluation/<digest>/``.
        n: how many samples.
        held_out: real data to draw beside the samples.
        about: what the caller knows: ``checkpoint`` (step, weights), ``data`` (see `describe.dataset`), ``validation``.
        shown: how many samples the picture shows.
        into: the folder of ``evaluation.json``, and of the pictures in ``evaluation/``; the run's by default.

    Returns:
        What stands in ``evaluation.json``; with several processes, which share the drawing, only the first gets it.
    """
    kept, into = states_folder(folder, sampler, denoiser, processes, seed), into or folder
    draw = partial(sample_batches, sampler, denoiser, processes, modality, seed=seed, device=device, folder=kept)
    plan = buckets.batches(modality, n, batch_size, seed)

    def ordered() -> Drawn:
        return buckets.in_order(modality, plan, draw(plan), ranges(n, batch_size), seed)

    valid = _feed(lambda: draw(distributed.shard(plan)), ordered, metrics)
    if distributed.rank() > 0:
        return {}
    first = list(islice((sample for drawn, _ in ordered() for sample in drawn), shown))
    result = {
        "format": FORMAT,
        "metrics": _compute(metrics),
        "samples": {"count": n, "valid": valid, "seed": seed, "sampler": describe.plain(sampler), "states": kept.name},
        "about_metrics": {k: m.about() for k, m in metrics.items() if isinstance(m, Explained)},
        "held_out": None if held_out is None else describe.dataset(held_out),
        "grids": _grids(into, modality, first, held_out, device),
        "pictures": _pictures(into, metrics),
        "parameters": sum(p.numel() for p in denoiser.parameters()) if isinstance(denoiser, nn.Module) else None,
        "versions": describe.versions(device),
        "config": Run(folder).stored() if Run(folder).begun else None,
        **(about or {}),
    }
    write_json(into / "evaluation.json", result)
    return result


def measured(drawn: Drawn, metrics: Mapping[str, Metric[Any]]) -> dict[str, float]:
    """What the metrics, fresh ones, say about some samples, and which share of them is ``valid_samples``."""
    some = list(drawn)
    valid = _take(some, list(metrics.values()))
    return {"valid_samples": valid / sum(len(samples) for samples, _ in some), **_compute(metrics)}


def states_folder(folder: Path, sampler: Any, denoiser: Any, processes: Mapping[str, Any], seed: int) -> Path:
    """Where the states of a run's samples are kept: one folder for each way of drawing them, whoever asks."""
    return folder / "evaluation" / describe.digest(denoiser, sampler, processes, seed)[:12]


def evaluate_finished(
    samples: Finished,
    metrics: Mapping[str, Metric[Any]],
    path: Path,
    batch_size: int = 64,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure samples that were made elsewhere and write what was found to `path`, with what is known about them.

    Returns:
        What stands in the file; with several processes, which share the work, only the first gets it.
    """
    batches = ranges(len(samples), batch_size)
    valid = _feed(lambda: map(samples, distributed.shard(batches)), lambda: map(samples, batches), metrics)
    if distributed.rank() > 0:
        return {}
    result = {
        "format": FORMAT,
        "metrics": _compute(metrics),
        "samples": {"count": len(samples), "valid": valid, **samples.about()},
        "about_metrics": {k: m.about() for k, m in metrics.items() if isinstance(m, Explained)},
        "versions": describe.versions(),
        **(about or {}),
    }
    write_json(path, result)
    return result


class Finished(Protocol):
    """Samples that were made elsewhere."""

    def __len__(self) -> int: ...

    def __call__(self, index: range) -> tuple[Sequence[Any], Batch]:
        """The samples with these indices, and what they were made for as far as it is known."""
        ...

    def about(self) -> dict[str, Any]:
        """Which set it is."""
        ...


def _feed(part: Callable[[], Drawn], whole: Callable[[], Drawn], metrics: Mapping[str, Metric[Any]]) -> int:
    """Give the samples to every metric, and count the valid ones on process 0.

    With several processes each draws its part. Metrics that can be joined take it in there; the others are given all samples
    by process 0 alone, once all are drawn.

    Args:
        part: draws what this process shall draw.
        whole: draws all, in order.
    """
    joined = [m for m in metrics.values() if isinstance(m, Joined)]
    alone = [m for m in metrics.values() if m not in joined]
    if distributed.world() == 1:
        return _take(whole(), [*joined, *alone])
    valid = sum(distributed.gather([_take(part(), joined)]))
    distributed.barrier()
    for metric in joined:
        metric.join()
    if distributed.rank() == 0 and alone:
        _take(whole(), alone)
    return valid


def _take(drawn: Drawn, metrics: Sequence[Metric[Any]]) -> int:
    """Give samples to metrics as they come. How many are valid."""
    valid = 0
    for samples, template in drawn:
        valid += sum(sample is not None for sample in samples)
        for metric in metrics:
            metric.update(samples, template)
    return valid


def _compute(metrics: Mapping[str, Metric[Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        values = metric.compute()
        if twice := sorted(set(found) & set(values)):
            raise MultigenError(f"metric {name!r} computes {twice}, which another metric computes too")
        found.update(values)
    return found


def _grids(
    folder: Path, modality: Modality[Any], samples: list[Any], held_out: Dataset | None, device: torch.device | str
) -> dict[str, str]:
    """Caption -> picture of samples, and of real data, relative to the run's folder."""
    make_folder(folder / "evaluation")
    grids = {f"The first {len(samples)} samples, none left out": "evaluation/samples.png"}
    modality.draw(samples, folder / "evaluation/samples.png")
    if held_out is not None:
        real = real_samples(modality, held_out, spaced(len(held_out), len(samples)), device)
        modality.draw(real, folder / "evaluation/real.png")
        grids["Real data, held out"] = "evaluation/real.png"
    return grids


def _pictures(folder: Path, metrics: Mapping[str, Metric[Any]]) -> dict[str, str]:
    """Caption -> picture that a metric drew, relative to the run's folder."""
    drawn = [m.pictures(folder / "evaluation") for m in metrics.values() if isinstance(m, Explained)]
    return {caption: path.relative_to(folder).as_posix() for some in drawn for caption, path in some.items()}
