"""Training: one step that reads as its description, and around it what makes a long run safe."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multigen import checkpoint, distributed
from multigen.curriculum import Weight, weight_at
from multigen.diffusion import Diffusion
from multigen.ema import Ema
from multigen.loader import Loader, split_of
from multigen.modality import Dataset, Modality
from multigen.packing import BATCHES, Packed
from multigen.random import hash64
from multigen.run import Run
from multigen.state import Batch, MultigenError, at_least
from multigen.trainer import sharding
from multigen.trainer.learned import Learned
from multigen.trainer.loggers import Logger, open_loggers
from multigen.trainer.meter import Meter
from multigen.trainer.progress import Progress
from multigen.trainer.signals import Interrupted, Signals
from multigen.trainer.speed import Stopwatch, peak_flops, training_flops

_logger = logging.getLogger(__name__)

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""``functools.partial(torch.optim.AdamW, lr=1e-4)``, for instance."""


class Observer(Protocol):
    """Looks at a model in training: draws samples, measures a validation loss."""

    every: int
    """Called after every so many steps, and after the last one."""

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Called in every process; the numbers that process 0 returns are logged.

        Random numbers may be drawn and modules put into evaluation mode; weights must not change.
        """
        ...


class Diverged(MultigenError):
    """Losses were not finite too often."""


class Trainer:
    """Trains a `Diffusion` in a run's folder, going on from the last checkpoint that is there.

    Everything random is a function of (seed, step): interrupted anywhere and started again, a run on a CPU ends with the same
    weights to the bit. Several processes, started by ``torchrun`` (on accelerators also by ``accelerate launch``), share each
    batch.

    Args:
        diffusion: what is trained; moved to the device and wrapped in place.
        dataset: training examples.
        modality: makes batches of them.
        run: where checkpoints and numbers go.
        optimizer: parameters -> optimiser. ``fused=True`` lets an accelerator skip a bad step without being waited for.
        steps: optimiser updates of the whole run.
        batch_size: examples of one update, over all micro-batches and processes.
        batch_tokens: in its place, sites of one micro-batch of one process, padding included; examples of similar size
            (``sizes`` of the data set) are put together, see `multigen.packing.Packed`. With `accumulate` or several processes
            a step's loss is the mean of its micro-batches' means, which hold different numbers of examples.
        batch_pairs: in its place, pairs of sites, for a network whose work grows with the square of the size.
        accumulate: micro-batches of one update.
        schedule: factor of the learning rate, constant or a function of the global step.
        ema: decays of the averages of the denoiser's weights, see `multigen.ema.Ema`; the first is sampled from by default.
        ema_warmup: they begin with a lower decay, for short runs; False is a constant decay, as published for SiT and REED.
        clip: largest norm of the gradient; None does not clip. Terms that only probe, see `multigen.objective.Objective`, are
            clipped by a norm of their own, so that they change nothing about the rest.
        precision: "no" (float32), "bf16" or "fp16" autocast; "auto" is "bf16" where the device is fast at it, else "no".
        compile: compile the denoiser with `torch.compile`.
        shard: several processes share the weights, what the optimiser remembers and the averages instead of each keeping all
            (FSDP2), see `multigen.trainer.sharding`. Checkpoints are the same. Not with "fp16" or `compile`; the share of the
            devices' best is not counted.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        workers: processes that prepare batches; 0 prepares them in between.
        seed: of data order, noise and dropout. Initial weights are the caller's.
        checkpoint_every: steps between checkpoints.
        keep: number of checkpoints that are kept.
        keep_every: those of every so many steps are kept besides; a multiple of `checkpoint_every`.
        log_every: steps between readings of losses.
        log_to: further logs: "tensorboard" (if installed), "wandb".
        max_bad_losses: the run stops when so many steps had losses that are not finite. Such steps change no weights.
        observers: look on while training.
        progress: show progress on standard error.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        dataset: Dataset,
        modality: Modality[Any],
        run: Run,
        *,
        optimizer: MakeOptimizer,
        steps: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        batch_pairs: int | None = None,
        accumulate: int = 1,
        schedule: Weight = 1.0,
        ema: Sequence[float] = (0.999,),
        ema_warmup: bool = True,
        clip: float | None = 1.0,
        precision: str = "no",
        compile: bool = False,
        shard: bool = False,
        device: str = "auto",
        workers: int = 0,
        seed: int = 0,
        checkpoint_every: int = 500,
        keep: int = 3,
        keep_every: int | None = None,
        log_every: int = 20,
        log_to: Sequence[str] = ("tensorboard",),
        max_bad_losses: int = 10,
        observers: Sequence[Observer] = (),
        progress: bool = True,
    ) -> None:
        at_least(1, steps=steps, checkpoint_every=checkpoint_every, keep=keep)
        at_least(1, log_every=log_every, max_bad_losses=max_bad_losses)
        if clip is not None and not clip > 0:
            raise MultigenError(f"clip is above 0, got {clip}; null switches it off")
        if keep_every is not None and (keep_every < 1 or keep_every % checkpoint_every):
            raise MultigenError(f"keep_every is a multiple of checkpoint_every, which is {checkpoint_every}, got {keep_every}")
        for observer in observers:
            at_least(1, **{f"observers.{type(observer).__name__}.every": observer.every})
        self.steps, self.accumulate, self.schedule = steps, accumulate, schedule
        self.clip, self.seed, self.max_bad_losses = clip, seed, max_bad_losses
        self.checkpoint_every, self.log_every, self.log_to = checkpoint_every, log_every, log_to
        self.keep, self.keep_every = keep, keep_every
        self.observers, self.modality, self.run, self._show = observers, modality, run, progress
        self.step = 0
        """Optimiser updates made."""
        self._saved: int | None = None  # the step of the last checkpoint
        self._watch, self._lap = Stopwatch(), 0  # time since the last reading of losses, and that reading's step
        self._timed = 0.0  # seconds since then that the last checkpoint knows of

        self.accelerator = distributed.accelerator(precision, device)
        self.device: torch.device = self.accelerator.device
        self.precision: str = self.accelerator.mixed_precision
        self.main = self.accelerator.is_main_process
        self.sharded = shard and distributed.world() > 1
        if shard:
            sharding.check(self.precision, compile)
        split = split_of(
            dataset,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            batch_pairs=batch_pairs,
            accumulate=accumulate,
            seed=seed,
        )
        self.loader = Loader(dataset, modality, split, seed, workers, pin=self.device.type == "cuda")
        self._take(diffusion, optimizer, [partial(Ema, decay=decay, warmup=ema_warmup) for decay in ema])
        for encoder in modality.encoders.values():
            encoder.to(self.device)
        if compile:
            self.diffusion.denoiser.compile()

    def _take(self, diffusion: Diffusion, optimizer: MakeOptimizer, averages: Iterable[Callable[[nn.Module], Ema]]) -> None:
        """Bring what is trained to the device, and put around it what training it needs."""
        self.diffusion = cast(Diffusion, distributed.release(diffusion))
        prepare = partial(self.accelerator.prepare_model, evaluation_mode=True) if self.sharded else self.accelerator.prepare
        self.model: nn.Module = prepare(self.diffusion)
        self.averages = [make(self.diffusion.denoiser) for make in averages]
        if self.sharded:
            self._share()
        self.parameters = [p for p in self.diffusion.parameters() if p.requires_grad]
        self.optimizer = optimizer(self.parameters)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaled: Any = self.accelerator.prepare(self.optimizer)  # slower to call: used with fp16 only
        # a fused optimiser skips a bad step on the device; reading on a CPU whether to skip costs nothing
        self.skips = self.device.type != "cpu" and getattr(self.optimizer, "_step_supports_amp_scaling", False)
        scaler = self.accelerator.scaler
        self.learned = Learned(self.diffusion, self.averages, self.optimizer, scaler)
        self.meter = Meter(self.device, self.max_bad_losses, distributed.total, scaled=scaler is not None)

    def _share(self) -> None:
        """Cut what is trained, and its averages, into the processes' parts."""
        for module in (self.diffusion, *(average.module for average in self.averages)):
            sharding.share(module, self.device)
        for average in self.averages:
            average.follow(self.diffusion.denoiser)

    # -------------------------------------------------------------------------------------------------------- one step

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """One optimiser update."""
        self._seed_dropout()
        for i, batch in enumerate(micro_batches):
            with self._exchanging(last=i == len(micro_batches) - 1):
                losses = self.model(self.encode(batch), self.step)
                self.accelerator.backward((losses.total + losses.probe) / len(micro_batches))
            self.meter.add(losses)
        self._update(self.meter.close(self._clip(), self.step))
        self.step += 1
        for average in self.averages:
            average.update(self.step)

    def _seed_dropout(self) -> None:
        """Whatever draws from torch's own generators draws a function of (seed, step, process)."""
        seed = hash64(self.seed, "step", self.step, distributed.rank())
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also queues calls for every absent device, for ever
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Batch:
        """Bring a batch to the device and fill in its latents and targets."""
        return self.modality.encode(batch.to(self.device, non_blocking=True))

    def _exchanging(self, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients in the last micro-batch only."""
        if self.sharded:
            sharding.synchronise(self.diffusion, last)
        return contextlib.nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model)

    def _clip(self) -> Tensor:
        """Clip the gradient.

        Returns:
            () its norm, to which terms that only probe at this step add nothing; not finite if theirs is not.
        """
        objective, most = self.diffusion.objective, self.clip or float("inf")
        probes = {p for name in objective.probing(self.step) for p in objective.trained[name].parameters() if p.requires_grad}
        rest = [p for p in self.parameters if p not in probes]
        norm = sharding.whole(self.accelerator.clip_grad_norm_(rest, most))  # (); of fp16 it unscales all gradients
        if not probes:
            return norm
        theirs = sharding.whole(nn.utils.clip_grad_norm_([p for p in self.parameters if p in probes], most))  # ()
        return norm + 0 * theirs  # ()

    def _update(self, good: Tensor) -> None:
        """Let the optimiser step if the step is good, without waiting for the device where that can be avoided."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * weight_at(self.schedule, self.step)
        if self.accelerator.scaler is not None:
            self.scaled.step()  # the scaler looks for itself
        elif self.skips:
            self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined] # ()
            self.optimizer.step()
        elif good:
            self.optimizer.step()
        self.optimizer.zero_grad()

    # --------------------------------------------------------------------------------------------------------- the run

    def fit(self) -> None:
        """Train up to the last step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
            Diverged: losses were not finite too often.
            MultigenError: the folder is in use, holds another configuration, cannot be written, ...
        """
        before = self.run.versions().get("precision", self.precision)
        with ExitStack() as stack:
            if self.main:
                stack.enter_context(self.run.open(self.device, precision=self.precision))
            distributed.barrier()
            self._resume()
            if self.main and before != self.precision and 0 < self.step < self.steps:
                _logger.warning(
                    "%s was trained with precision %s and goes on with %s", self.run.folder, before, self.precision
                )
            signals = stack.enter_context(Signals())
            self._loggers = self._open_loggers(stack)
            self._progress = stack.enter_context(Progress(self.steps, self.step, self.main and self._show))
            self._watch = Stopwatch(self._timed)
            self._flops: float | None = float("nan") if self.sharded else None  # weights in parts cannot be copied to count
            stream = stack.enter_context(contextlib.closing(self.loader.steps(self.step, self.steps)))
            self.diffusion.train()
            for micro_batches in stream:
                self._before(micro_batches)
                self.train_step(micro_batches)
                self._after()
                if number := self._asked_to_stop(signals):
                    raise self._interrupted(number)

    def _open_loggers(self, stack: ExitStack) -> list[Logger]:
        loggers = open_loggers(self.log_to, self.run, self.step) if self.main else []
        for logger in loggers:
            stack.callback(logger.close)
        return loggers

    def _before(self, micro_batches: Sequence[Batch]) -> None:
        """Once, count what a step costs."""
        if self._flops is None and self.main:
            with self._watch.pause():
                counted = training_flops(self.diffusion, self.encode(micro_batches[0]), self.step) or float("nan")
                self._flops = counted / peak_flops(self.device, self.precision)

    def _after(self) -> None:
        """Log, observe, save: in this order, so that a checkpoint's step has left all of its traces."""
        self._progress.advance()
        if self._due(self.log_every):
            self._log({**self.meter.read(), **self._weights(), **self._speed()}, show=True)
        if self.device.type == "cpu" or self._due(self.log_every) or self._due(self.checkpoint_every):
            self._stop_if_diverged()
        with self._watch.pause():
            self._observe([observer for observer in self.observers if self._due(observer.every)])
            if self._due(self.checkpoint_every):
                self.save()

    def _observe(self, observers: Sequence[Observer]) -> None:
        modules = [self.diffusion, *(average.module for average in self.averages)]
        with sharding.gathered(modules) if self.sharded and observers else contextlib.nullcontext():
            for observer in observers:
                self._log(observer(self, self.step))
                self.diffusion.train()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _log(self, values: dict[str, float], show: bool = False) -> None:
        if not self.main or not values:
            return
        self.run.log(self.step, values)
        for logger in self._loggers:
            logger.log(self.step, values)
        if show:
            self._progress.show(self.step, values)

    def _weights(self) -> dict[str, float]:
        """The weight of each term in the last step."""
        weights = self.diffusion.objective.weights
        return {f"weight/{name}": weight_at(weight, self.step - 1) for name, weight in weights.items()}

    def _speed(self) -> dict[str, float]:
        """Seconds a step and examples a second since the last reading, and the share of the devices' best."""
        if not self.main:
            return {}
        seconds = self._watch.lap() / max(self.step - self._lap, 1)
        rate = self.loader.split.batch_size / seconds
        self._lap = self.step
        share = rate * cast(float, self._flops) / distributed.world()
        padding = {"padding_share": split.padding} if isinstance(split := self.loader.split, Packed) else {}
        rates = {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        return {"step_seconds": seconds, "examples_per_second": rate, "peak_share": share, **padding, **rates}

    def _stop_if_diverged(self) -> None:
        if self.meter.bad < self.max_bad_losses:
            return
        count, step, terms = self.meter.faults()
        named = f"last in step {step + 1} (term {', '.join(terms)})"
        raise Diverged(f"the loss was not finite in {count} steps, {named}; {self._last_good()}")

    def _last_good(self) -> str:
        good = checkpoint.paths(self.run.checkpoints)
        return f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"

    def _asked_to_stop(self, signals: Signals) -> int | None:
        """The number of a signal that any process got; all processes agree on the step."""
        if self.step == self.steps or not (distributed.world() == 1 or self.device.type == "cpu" or self._due(self.log_every)):
            return None
        return distributed.highest(signals.received or 0) or None

    def _interrupted(self, number: int) -> Interrupted:
        if self._saved != self.step:
            self.save()
        name = signal.Signals(number).name
        again = f"multigen train resume={self.run.folder}"
        return Interrupted(number, f"stopped by {name} after step {self.step} of {self.steps}; go on with: {again}")

    @contextmanager
    def averaged(self, index: int = 0) -> Iterator[Diffusion]:
        """`diffusion` with the averaged denoiser in place of the one in training, for observers."""
        trained = self.diffusion.denoiser
        try:
            if self.averages:
                self.diffusion.denoiser = self.averages[index].module
            yield self.diffusion
        finally:
            self.diffusion.denoiser = trained

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint. Every process has to call it."""
        meter, lap = self.meter.state(), [self._lap, self._watch.elapsed]
        self._saved = self.step
        if not (self.main or self.sharded):
            return
        overflowed = [self.learned.overflowed()]  # although no loss did: that must not replace a good checkpoint
        for name in filter(None, distributed.gather(overflowed) if self.sharded else overflowed):
            raise Diverged(f"{name} is not finite after step {self.step}; {self._last_good()}")
        files, state = self.learned.pack()
        if not self.main:
            return
        own = {"config": self.run.digest, "order": self._order(), "meter": meter, "lap": lap}
        checkpoint.save(self.run.checkpoints, self.step, files, {**own, **state}, self.keep, self.keep_every)

    def _order(self) -> dict[str, Any]:
        """What else, beside the step, decides which examples come next."""
        dataset = self.loader.dataset
        return {"seed": self.seed, **self.loader.split.order, "examples": len(dataset), "data": dataset.fingerprint}

    def _resume(self) -> None:
        """Go on from the last checkpoint, or from the beginning if there is none."""
        found = checkpoint.latest(self.run.checkpoints)
        if found is not None:
            self._load(found)
        if self.main:
            self.run.rewind(self.step)

    def _load(self, found: checkpoint.Checkpoint) -> None:
        if "optimizer" not in found.names:
            raise MultigenError(
                f"{found.path} holds weights without an optimiser: begin a new run with start={self.run.folder}"
            )
        if None not in (self.run.digest, found.state["config"]) and self.run.digest != found.state["config"]:
            raise MultigenError(f"{found.path} belongs to another configuration than {self.run.folder / 'config.yaml'}")
        for name, value in self._order().items():
            absent = value if name == BATCHES else None  # checkpoints of earlier versions do not tell it
            if (before := found.state["order"].get(name, absent)) != value:
                raise MultigenError(f"{found.path} was trained with {name} {before}, and now it is {value}")
        self.learned.load(found)
        self.meter.load(found.state["meter"], self.main)
        self._lap, self._timed = found.state.get("lap", (found.step, 0.0))  # older checkpoints do not know it
        self.step = self._saved = found.step
