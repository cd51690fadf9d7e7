"""What looks on while a `multigen.trainer.Trainer` trains. They draw no number that training draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multigen import distributed
from multigen.buckets import batches, sorted_by
from multigen.cache.encode import spaced
from multigen.evaluate import real_samples, sample_batches, validation_loss
from multigen.files import make_folder
from multigen.modality import Dataset
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
        self.sampler, self.every, self.held_out = sampler, every, held_out
        self.n, self.batch_size, self.seed, self.average = n, batch_size, seed, average
        at_least(1, n=n, batch_size=batch_size)

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        plan = batches(trainer.modality, self.n, self.batch_size, self.seed)
        mine = distributed.shard(plan)
        with trainer.averaged(self.average) as diffusion:
            parts = (self.sampler, diffusion.denoiser, diffusion.processes, trainer.modality, mine, self.seed, trainer.device)
            samples = distributed.gather([sample for drawn, _ in sample_batches(*parts) for sample in drawn])
        if trainer.main:
            self._draw(trainer, sorted_by(plan, samples), step)
        return {}

    def _draw(self, trainer: Trainer, samples: list[Any], step: int) -> None:
        folder = make_folder(trainer.run.samples)
        trainer.modality.draw(samples, folder / f"step_{step:08d}.png")
        if self.held_out is not None and not (folder / "real.png").is_file():
            real = real_samples(trainer.modality, self.held_out, spaced(len(self.held_out), self.n), trainer.device)
            trainer.modality.draw(real, folder / "real.png")
