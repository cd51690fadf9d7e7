"""How long things take, side by side.

A minute later a shared machine is another machine. What is compared therefore takes turns, A B C, C B A, A B C, ..., and a
ratio is the median of the ratios within rounds, so that whatever slows a round down slows both of its sides.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from multigen.denoiser import Denoiser, Output, is_timeless, prepared
from multigen.evaluate import evaluating
from multigen.process import Process
from multigen.sampling import Jump, Sampler
from multigen.state import Batch, State
from multigen.trainer import Trainer
from multigen.unmasking import Unmasking

Turn = Callable[[], None]
"""What is timed: a fixed amount of work."""

_NO_END = 1 << 40


class Times(NamedTuple):
    """Seconds of each turn, in the order of the rounds."""

    wall: list[float]
    cpu: list[float]
    """Processor time of all threads of this process: it leaves out what other programs did to a busy machine meanwhile. It
    says nothing about an accelerator."""


def take_turns(turns: Mapping[str, Turn], rounds: int, device: torch.device, warmup: int = 1) -> dict[str, Times]:
    """Time each of `turns` once a round, every other round in reverse order.

    Args:
        warmup: turns of each before the first round, not timed.
    """
    for turn in turns.values():
        for _ in range(warmup):
            turn()
    times = {name: Times([], []) for name in turns}
    order = list(turns)
    with _little_garbage():
        for _ in range(rounds):
            for name in order:
                _time(turns[name], times[name], device)
            order.reverse()
    return times


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Python's collector runs as ever, but does not look through all that was imported in the middle of one's turn."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _time(turn: Turn, times: Times, device: torch.device) -> None:
    _finish(device)
    wall, cpu = time.perf_counter(), time.process_time()
    turn()
    _finish(device)
    times.wall.append(time.perf_counter() - wall)
    times.cpu.append(time.process_time() - cpu)


def _finish(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.5, 'high': 2.5}
    """
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios within rounds."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


# ------------------------------------------------------------------------------------------------------- what can take turns


def training(trainer: Trainer, steps: int) -> Turn:
    """So many optimiser steps as `Trainer.fit` makes them, batches and all; logs, observers and checkpoints apart."""
    stream = trainer.loader.steps(0, _NO_END)
    trainer.diffusion.train()

    def turn() -> None:
        for _ in range(steps):
            trainer.train_step(next(stream))

    return turn


def loading(trainer: Trainer, steps: int) -> Turn:
    """Making the batches of so many steps; meant for a trainer without workers, which would work ahead between turns."""
    stream = trainer.loader.steps(0, _NO_END)

    def turn() -> None:
        for _ in range(steps):
            next(stream)

    return turn


class Sampling(NamedTuple):
    loop: Turn
    """A sampler's whole work."""
    network: Turn
    """Only the network evaluations that it makes, on the inputs that it gives them."""
    evaluations: int


def sampling(sampler: Any, denoiser: Any, processes: Mapping[str, Process], template: Batch) -> Sampling:
    """What a sampler adds to the network that it calls.

    Args:
        sampler: ``(denoiser, processes, template) -> State``, guidance included.
        denoiser: on the device of the template.
    """
    recorder = _Recorder(denoiser)
    with evaluating(denoiser):
        sampler(recorder, processes, template)

    def loop() -> None:
        with evaluating(denoiser):
            sampler(denoiser, processes, template)

    def network() -> None:
        with evaluating(denoiser):
            for given, named in recorder.calls:
                denoiser(*given, **named)

    return Sampling(loop, network, len(recorder.calls))


def asking_always(sampler: Unmasking, denoiser: Denoiser, processes: Mapping[str, Process], template: Batch) -> Turn:
    """The plain way to the samples that `sampler` makes: the whole network at every step of the grid."""
    plain = Sampler(sampler.grid, discrete=Jump(sampler.temperature), guide=sampler.guide)

    def turn() -> None:
        with evaluating(denoiser):
            plain(_Unprepared(denoiser), processes, template)

    return turn


class _Unprepared:
    """A denoiser that does all of its work at every call."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    def __call__(self, *given: Any, **named: Any) -> Output:
        return self._denoiser(*given, **named)

    def null(self, cond: State) -> State:
        return self._denoiser.null(cond)


class _Recorder:
    """A denoiser that remembers what it was asked."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.timeless = is_timeless(denoiser)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def prepare(self, cond: State, mask: State) -> State:
        return prepared(self._denoiser, cond, mask)

    def __call__(self, *given: Any, **named: Any) -> Output:
        self.calls.append((given, named))
        return self._denoiser(*given, **named)

    def null(self, cond: State) -> State:
        return self._denoiser.null(cond)
