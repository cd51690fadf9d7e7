"""What looks on while a `multigen.trainer.Trainer` trains. They draw no number that training draws."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multigen import distributed
from multigen.buckets import batches, in_order, ranges
from multigen.cache.encode import spaced
from multigen.evaluate import measured, real_samples, sample_batches, validation_loss
from multigen.files import make_folder
from multigen.modality import Dataset, Drawn, Metric
from multigen.state import at_least

if TYPE_CHECKING:
    from multigen.trainer import Trainer


class Validation:
    """The loss on held-out data with fixed times and noise, logged as ``valid`` and ``valid/<part>``.

    Args:
        dataset: held-out examples, with the targets that the objective needs.
        every: steps between two looks.
        batch_size: examples at a time.
        repeats: noises per example, see `multigen.evaluate.validation_loss`.
        limit: use so many evenly spaced examples only.
        seed: of times and noise; runs that are compared share it.
        average: which of the trainer's moving averages denoises; None takes the weights in training.
    """

    def __init__(
        self,
        dataset: Dataset,
        every: int = 500,
        batch_size: int = 64,
        repeats: int = 1,
        limit: int | None = None,
        seed: int = 0,
        average: int | None = 0,
    ) -> None:
        self.dataset, self.every, self.average = dataset, every, average
        self.options: dict[str, Any] = {"batch_size": batch_size, "repeats": repeats, "limit": limit, "seed": seed}

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        options = {**self.options, "device": trainer.device, "step": step}
        if self.average is None:
            loss = validation_loss(trainer.diffusion, self.dataset, trainer.modality, **options)
        else:
            with trainer.averaged(self.average) as diffusion:
                loss = validation_loss(diffusion, self.dataset, trainer.modality, **options)
        return {"valid": loss.total, **{f"valid/{name}": value for name, value in loss.parts.items()}}


class SampleGrid:
    """Draws samples 0 to n - 1 of the averaged weights into ``samples/step_<step>.png``, and real data beside them once.

    The noise is the same at every step, so that the pictures show one set of samples taking shape.

    Args:
        sampler: see `multigen.sampling.Sampler`.
        every: steps between two drawings.
        n: how many samples.
        held_out: real data for ``samples/real.png``.
        batch_size: samples at a time.
        seed: of the samples.
        average: which of the trainer's moving averages is sampled from.
    """

    def __init__(
        self,
        sampler: Any,
        every: int = 1000,
        n: int = 64,
        held_out: Dataset | None = None,
        batch_size: int = 64,
        seed: int = 0,
        average: int = 0,
    ) -> None:
        self.every, self.held_out = every, held_out
        self.drawing = _Drawing(sampler, n, batch_size, seed, average)

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        drawn = self.drawing(trainer)
        if trainer.main:
            self._draw(trainer, [sample for samples, _ in drawn for sample in samples], step)
        return {}

    def _draw(self, trainer: Trainer, samples: list[Any], step: int) -> None:
        folder = make_folder(trainer.run.samples)
        trainer.modality.draw(samples, folder / f"step_{step:08d}.png")
        if self.held_out is not None and not (folder / "real.png").is_file():
            real = real_samples(trainer.modality, self.held_out, spaced(len(self.held_out), self.drawing.n), trainer.device)
            trainer.modality.draw(real, folder / "real.png")


class Measures:
    """Metrics of samples 0 to n - 1 of the averaged weights, logged as ``sample/<measure>``. The noise is always the same.

    Args:
        sampler: see `multigen.sampling.Sampler`.
        metrics: makes metrics that have seen no samples, by name.
        every: steps between two measurements.
        n: how many samples.
        batch_size: samples at a time.
        seed: of the samples.
        average: which of the trainer's moving averages is sampled from.
    """

    def __init__(
        self,
        sampler: Any,
        metrics: Callable[[], Mapping[str, Metric[Any]]],
        every: int = 1000,
        n: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        average: int = 0,
    ) -> None:
        self.metrics, self.every = metrics, every
        self.drawing = _Drawing(sampler, n, batch_size, seed, average)

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        drawn = self.drawing(trainer)
        return {f"sample/{name}": value for name, value in measured(drawn, self.metrics()).items()} if trainer.main else {}


@dataclass(frozen=True)
class _Drawing:
    """Samples 0 to n - 1 of the averaged weights with their templates, shared among processes; in the first, all of them."""

    sampler: Any
    n: int
    batch_size: int
    seed: int
    average: int

    def __post_init__(self) -> None:
        at_least(1, n=self.n, batch_size=self.batch_size)

    def __call__(self, trainer: Trainer) -> Drawn:
        plan = batches(trainer.modality, self.n, self.batch_size, self.seed)
        mine = distributed.shard(plan)
        with trainer.averaged(self.average) as diffusion:
            parts = (diffusion.denoiser, diffusion.processes, trainer.modality, mine, self.seed, trainer.device)
            drawn = distributed.gather(list(sample_batches(self.sampler, *parts)))
        whole = ranges(self.n, self.batch_size)
        return list(in_order(trainer.modality, plan, drawn, whole, self.seed)) if trainer.main else []


class Until:
    """Ends a run before its last step as a signal would: it is saved, and can be gone on with.

    Args:
        step: after which training stops.
    """

    def __init__(self, step: int) -> None:
        self.every = step

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        if step < trainer.steps:
            signal.raise_signal(signal.SIGTERM)
        return {}
