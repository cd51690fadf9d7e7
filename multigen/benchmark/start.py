"""What a run is before its first step: the proof that arms start alike, and what a step and the teachers cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from multigen import describe
from multigen.cache import Job
from multigen.cache.encode import cost, features, spaced
from multigen.state import Batch, MultigenError
from multigen.trainer import Trainer
from multigen.trainer.speed import counting, peak_flops, training_flops

STEPS = 8
"""So many steps' batches are looked at."""


def start(trainer: Trainer, teachers: Sequence[Job], kept: bool = True) -> dict[str, Any]:
    """JSON values about a trainer that has not begun.

    Args:
        trainer: with its initial weights.
        teachers: the encoders of its targets, and the examples that they see; none without targets.
        kept: they are asked once for each example, not in every step.

    Returns:
        ``initial``: a digest of every tensor of the denoiser; ``batches``: digests of keys and clean data of the first
        batches; ``parameters``; ``flops_per_step``: forward and backward, frozen encoders apart, None where they cannot be
        counted; ``examples_per_step``, ``train_examples``; ``teacher``: see `teaching`; ``peak_flops_per_second``;
        ``versions``.
    """
    steps = list(trainer.loader.steps(0, STEPS))
    denoiser, diffusion = trainer.diffusion.denoiser, trainer.diffusion
    return {
        "initial": {name: _digest(x) for name, x in denoiser.state_dict().items()},
        "batches": _batches([batch for step in steps for batch in step]),
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in (("denoiser", denoiser), ("all", diffusion))},
        "flops_per_step": _flops(trainer, steps),
        "examples_per_step": trainer.loader.split.batch_size,
        "train_examples": len(trainer.loader.dataset),
        "teacher": teaching(teachers) | {"kept": kept} if teachers else None,
        "peak_flops_per_second": peak_flops(trainer.device, trainer.precision),
        "versions": versions(trainer),
    }


def versions(trainer: Trainer) -> dict[str, str]:
    """Of program, libraries and device, and the precision, which may have been measured."""
    return {**describe.versions(trainer.device), "precision": trainer.precision}


def _digest(*tensors: Tensor) -> str:
    return describe.hash_tensors({str(i): x for i, x in enumerate(tensors)})[:12]


def _batches(batches: Sequence[Batch]) -> dict[str, str]:
    """Name -> digest over all batches, as the loader gives them: before encoders have run."""
    clean = {name: _digest(*(batch.clean[name] for batch in batches)) for name in batches[0].clean}
    return {"key": _digest(*(batch.key for batch in batches)), **clean}


def _flops(trainer: Trainer, steps: Sequence[Sequence[Batch]]) -> float | None:
    """Of one optimiser step, a mean over some; None where they cannot be counted."""
    counted: list[float] = []
    for i, step in enumerate(steps):
        for batch in step:
            flops = training_flops(trainer.diffusion, trainer.encode(batch), i)
            if not flops:  # a network of which nothing is counted is not one that costs nothing
                return None
            counted.append(flops * len(batch))
    return sum(counted) / len(steps)


def teaching(jobs: Sequence[Job]) -> dict[str, Any]:
    """What frozen encoders cost for one example: ``flops_per_example``, ``seconds_per_example``."""
    indices = spaced(len(jobs[0].dataset), jobs[0].batch_size)
    try:
        with counting() as counter:
            next(features(jobs, indices))
        flops: Mapping[str, Any] = {"flops_per_example": counter.get_total_flops() / len(indices)}
    except MultigenError:
        raise
    except Exception:  # an encoder need not be made of what can be counted
        flops = {"flops_per_example": None}
    return {**flops, "seconds_per_example": cost(jobs).seconds, "targets": [job.name for job in jobs]}
