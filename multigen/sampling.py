"""Generating states: grids of times, steppers of one component, and the loop over both.

All randomness comes from `Batch.key` of the template, so sample i is a function of (seed, i): neither the batch it is drawn in
nor the number of processes changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from multigen.denoiser import Denoiser, prepared
from multigen.process import Discrete, Gaussian, Process, projected
from multigen.random import Noise
from multigen.state import Batch, MultigenError, State, expand, where

Wrap = Callable[[Any], Denoiser]
"""denoiser -> denoiser: guidance."""

Watch = Callable[[int, State, State], None]
"""(number of steps made, noisy state, prediction), after every step."""


@dataclass(frozen=True)
class Grid:
    """Times from noise to data.

    Args:
        steps: number of steps, hence of network evaluations of a one-stage stepper.
        spacing: "uniform"; "log" (1 - t falls geometrically from 1 to `last`: denser near the data, SemlaFlow's evaluation
            grid); "cosine" (denser at both ends).
        last: with "uniform", the length of the last step: the steps before it are uniform (SiT's SDE: 0.04). With "log", the
            smallest 1 - t, where the grid ends (0.01).
        start: where it begins; above 0 the template's clean state is corrupted to that time and made anew from there.
    """

    steps: int = 50
    spacing: Literal["uniform", "log", "cosine"] = "uniform"
    last: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MultigenError(f"Grid: at least 1 step is needed, got {self.steps}")
        if self.spacing not in ("uniform", "log", "cosine"):
            raise MultigenError(f"Grid: spacing is {self.spacing!r}; choices are uniform, log, cosine")
        if not 0 <= self.start < 1:
            raise MultigenError(f"Grid: start must be at least 0 and below 1, got {self.start}")
        if self.last is not None and (self.spacing == "cosine" or not 0 < self.last < 1 - self.start):
            raise MultigenError(f"Grid: last={self.last} needs spacing uniform or log, and 0 < last < 1 - start")

    def times(self) -> list[float]:
        """steps + 1 increasing times from `start` to 1; "log" ends at 1 - last."""
        if self.spacing == "log":
            return [float(x) for x in 1 - np.geomspace(1 - self.start, self.last or 0.01, self.steps + 1)]
        if self.spacing == "cosine":
            x = (1 - np.cos(np.pi * np.linspace(0, 1, self.steps + 1))) / 2
            return [float(self.start + (1 - self.start) * u) for u in x]
        if self.last is None:
            return [float(x) for x in np.linspace(self.start, 1, self.steps + 1)]
        return [*(float(x) for x in np.linspace(self.start, 1 - self.last, self.steps)), 1.0]


@dataclass(frozen=True)
class Staged:
    """A grid that begins late or ends early, so that components are made one after another.

    Args:
        grid: the times of the component's own stage.
        before: steps that it waits at the grid's first time.
        after: steps that it rests at the grid's last time.
    """

    grid: Grid = Grid()
    before: int = 0
    after: int = 0

    def times(self) -> list[float]:
        times = self.grid.times()
        return [times[0]] * self.before + times + [times[-1]] * self.after


@dataclass(frozen=True)
class Hold:
    """The same time throughout: 1 for a component that is given (its template is not free), 0 for one that is hidden."""

    time: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.time <= 1:
            raise MultigenError(f"Hold: times lie between 0 and 1, got {self.time}")


class Stepper(Protocol):
    """Moves one component from t to s >= t."""

    def __call__(self, process: Any, noisy: Tensor, pred: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise) -> Tensor:
        """noisy, result (B, *sites, *features); t, s (B,); free Bool (B, *sites). Sites that are not free do not move."""
        ...


@runtime_checkable
class TwoStage(Protocol):
    """A stepper that looks again from where its first stage landed."""

    def correct(
        self, process: Any, noisy: Tensor, pred: Tensor, landed: Tensor, again: Tensor, t: Tensor, s: Tensor, free: Tensor
    ) -> Tensor: ...


def _move(process: Gaussian, noisy: Tensor, change: Tensor, free: Tensor) -> Tensor:
    moved = noisy + change  # (B, *sites, *features)
    return where(free, projected(process, moved, free), noisy)


@dataclass(frozen=True)
class Euler:
    """One step of the probability-flow ODE along the velocity."""

    def __call__(
        self, process: Gaussian, noisy: Tensor, pred: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise
    ) -> Tensor:
        return _move(process, noisy, expand(s - t, noisy) * process.velocity(pred, noisy, t), free)


@dataclass(frozen=True)
class Heun:
    """Euler, corrected by the mean of the velocities at both ends (Karras et al. 2022, algorithm 1); but Euler in the last."""

    def __call__(
        self, process: Gaussian, noisy: Tensor, pred: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise
    ) -> Tensor:
        return Euler()(process, noisy, pred, t, s, free, noise)

    def correct(
        self, process: Gaussian, noisy: Tensor, pred: Tensor, landed: Tensor, again: Tensor, t: Tensor, s: Tensor, free: Tensor
    ) -> Tensor:
        mean = (process.velocity(pred, noisy, t) + process.velocity(again, landed, s)) / 2  # (B, *sites, *features)
        return _move(process, noisy, expand(s - t, noisy) * mean, free)


@dataclass(frozen=True)
class EulerMaruyama:
    """One step of the reverse SDE dx = (v + w/2 score) dt + sqrt(w) dW with w = 2 (1 - t) * scale.

    SiT's and REED's sampler (arXiv 2401.08740, eq. 7 and section 3.4) with time mirrored. A step that ends at t = 1 is the
    same drift without noise. `scale` 0 is the ODE.
    """

    scale: float = 1.0

    def __call__(
        self, process: Gaussian, noisy: Tensor, pred: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise
    ) -> Tensor:
        dt = expand(s - t, noisy)  # (B, 1, ...)
        w = expand(2 * self.scale * (1 - t), noisy)  # (B, 1, ...)
        drift = process.velocity(pred, noisy, t) + w / 2 * process.score(pred, noisy, t)  # (B, *sites, *features)
        fresh = noise.normal(noisy.shape[1:], noisy.dtype)  # (B, *sites, *features)
        spread = torch.where(expand(s, noisy) < 1, torch.sqrt(w * dt), 0)  # (B, 1, ...)
        return _move(process, noisy, drift * dt + spread * fresh, free)


@dataclass(frozen=True)
class Jump:
    """One step of a categorical component: open sites take a class drawn from the prediction.

    The chance is (alpha_s - alpha_t) / (1 - alpha_t), which is exact for both paths whatever the step; a step that ends at
    t = 1 settles every open site, so a component on the path `Never` is read out there.

    Args:
        temperature: divides the logits; 0 takes the likeliest class.
        noise: before jumping, step back by ``noise`` times the step and corrupt again along the exact forward path (a
            corrector: it leaves the marginals alone and lets early mistakes be mended). Never in a step that ends at t = 1.
    """

    temperature: float = 1.0
    noise: float = 0.0

    def __call__(
        self, process: Discrete, noisy: Tensor, pred: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise
    ) -> Tensor:
        # a site that is decided stands for its own class: a network that is scored on masked sites is not to be asked there
        open_ = process.undecided(noisy, free)  # (B, *sites)
        proposal = torch.where(open_, self._propose(process.logits(pred), noise.fold("class")), noisy)  # (B, *sites)
        if self.noise > 0:
            noisy, t = self._step_back(process, noisy, t, s, free, noise.fold("back"))
        alpha_t, alpha_s = process.path(t).alpha, process.path(s).alpha  # (B,)
        chance = (alpha_s - alpha_t) / (1 - alpha_t).clamp(min=1e-9)  # (B,)
        chance = torch.where((s >= 1) & (t < 1), 1.0, chance)  # (B,); what rests at t = 1 is settled
        u = noise.fold("jump").uniform(noisy.shape[1:], torch.float64)  # (B, *sites)
        proposal, u = projected(process, proposal, free), projected(process, u, free)  # (B, *sites)
        jump = (u < expand(chance, u)) & process.undecided(noisy, free)  # (B, *sites)
        return torch.where(jump, proposal, noisy)  # (B, *sites)

    def _propose(self, logits: Tensor, noise: Noise) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)  # (B, *sites)
        return noise.categorical((logits.double() / self.temperature).softmax(-1))  # (B, *sites)

    def _step_back(
        self, process: Discrete, noisy: Tensor, t: Tensor, s: Tensor, free: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        back = torch.where(s >= 1, t, (t - self.noise * (s - t)).clamp(min=0))  # (B,)
        keep = process.path(back).alpha / process.path(t).alpha.clamp(min=1e-9)  # (B,)
        keep = torch.where(t > 0, keep, 1.0)  # (B,)
        u = noise.fold("keep").uniform(noisy.shape[1:], torch.float64)  # (B, *sites)
        u = projected(process, u, free)  # (B, *sites)
        fresh = process.prior(noisy, free, noise.fold("prior"))  # (B, *sites)
        return torch.where((u < expand(keep, u)) | ~free, noisy, fresh), back


@dataclass(frozen=True)
class Sampler:
    """The loop: network, then every component's stepper, along a grid of times.

    Args:
        grid: times of all components that `grids` does not name.
        grids: component -> times, where one component differs; all with equally many steps. For a network that was trained
            with independent times, `Hold` gives or hides a component and `Staged` makes one before another.
        continuous: stepper of Gaussian components.
        discrete: stepper of categorical components.
        steppers: component -> stepper, where one component differs.
        guide: wraps the denoiser (see `multigen.guidance`).
        self_conditioning: feed each prediction to the next call.
        result: "state" returns where the path ended; "prediction" the last prediction of the clean data (the argmax of
            discrete sites that are open), as the published molecule sampler does and a grid that ends before t = 1 needs.
        dtype: of continuous states; the network receives float32.
    """

    grid: Grid = Grid()
    grids: Mapping[str, Grid | Staged | Hold] = field(default_factory=dict)
    continuous: Stepper = Euler()
    discrete: Stepper = Jump()
    steppers: Mapping[str, Stepper] = field(default_factory=dict)
    guide: Wrap | None = None
    self_conditioning: bool = False
    result: Literal["state", "prediction"] = "state"
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.result not in ("state", "prediction"):
            raise MultigenError(f"Sampler: result is {self.result!r}; choices are state, prediction")
        ends = [grid.times()[-1] for grid in (self.grid, *self.grids.values()) if not isinstance(grid, Hold)]
        if self.result == "state" and min(ends) < 1:
            raise MultigenError(
                f"Sampler: a grid that ends at t = {min(ends):.3g} leaves noise behind; ask for result=prediction"
            )

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], template: Batch, watch: Watch | None = None
    ) -> State:
        """One state per row of the template.

        Args:
            denoiser: in evaluation mode, on the template's device.
            processes: component -> process, as trained.
            template: shapes, masks, conditions, keys; `clean` is read where a site is not free. ``cond["NAME.bias"]`` is added
                to the logits of a categorical component.
            watch: called after every step.
        """
        network = self.guide(denoiser) if self.guide is not None else denoiser
        steppers = {k: self._stepper(k, p) for k, p in processes.items()}
        template = template.replace(cond=prepared(network, template.cond, template.mask))
        two_stage = [k for k, stepper in steppers.items() if isinstance(stepper, TwoStage)]
        noise = Noise(template.key).fold("sample")
        times = self._times(processes)
        self._check_held(template)
        noisy = {k: self._start(p, template, k, times[k][0], noise) for k, p in processes.items()}
        pred: State | None = None
        for i in range(len(next(iter(times.values()))) - 1):
            t = {k: _rows(times[k][i], template) for k in processes}  # (B,) each
            s = {k: _rows(times[k][i + 1], template) for k in processes}  # (B,) each
            pred = self._predict(network, noisy, t, template, pred)
            draw = noise.fold(i)
            before = noisy
            noisy = {
                k: steppers[k](p, noisy[k], pred[k], t[k], s[k], template.free[k], draw.fold(k)) for k, p in processes.items()
            }
            if any(times[k][i] < times[k][i + 1] < 1 for k in two_stage):
                again = self._predict(network, noisy, s, template, pred)
                noisy = self._correct(processes, steppers, before, pred, noisy, again, t, s, template)
            if watch is not None:
                watch(i + 1, noisy, pred)
        if self.result == "prediction" and pred is not None:
            return {k: _clean(p, before[k], pred[k], t[k], template.free[k]) for k, p in processes.items()}
        return noisy

    def _stepper(self, name: str, process: Process) -> Stepper:
        default = self.discrete if isinstance(process, Discrete) else self.continuous
        return self.steppers.get(name, default)

    def _times(self, processes: Mapping[str, Process]) -> dict[str, list[float]]:
        for thing, given in (("steppers", self.steppers), ("grids", self.grids)):
            if unknown := sorted(set(given) - set(processes)):
                raise MultigenError(f"{thing} for unknown components {unknown}; components are {sorted(processes)}")
        grids = {k: self.grids.get(k, self.grid) for k in processes}
        times = {k: grid.times() for k, grid in grids.items() if not isinstance(grid, Hold)}
        if len({len(x) for x in times.values()}) > 1:
            raise MultigenError(f"grids differ in their number of steps: { {k: len(x) - 1 for k, x in times.items()} }")
        length = len(next(iter(times.values()), self.grid.times()))
        return {k: [grid.time] * length if isinstance(grid, Hold) else times[k] for k, grid in grids.items()}

    def _check_held(self, template: Batch) -> None:
        for name, grid in self.grids.items():
            if isinstance(grid, Hold) and grid.time == 1 and template.free[name].any():
                raise MultigenError(f"component {name!r} is held at t = 1 as given, but the template leaves it to be made")

    def _start(self, process: Process, template: Batch, name: str, time: float, noise: Noise) -> Tensor:
        like, free, draw = template.clean[name], template.free[name], noise.fold("prior").fold(name)
        like = like.to(self.dtype) if like.is_floating_point() else like  # (B, *sites, *features)
        return process.prior(like, free, draw) if time == 0 else process.corrupt(like, _rows(time, template), free, draw).noisy

    def _predict(self, network: Denoiser, noisy: State, t: State, template: Batch, prev: State | None) -> State:
        prev = prev if self.self_conditioning else None
        pred = network(_single(noisy), _single(t), template.cond, template.mask, prev=prev).pred
        return {k: biased(x, k, template.cond) for k, x in pred.items()}

    def _correct(
        self,
        processes: Mapping[str, Process],
        steppers: Mapping[str, Stepper],
        before: State,
        pred: State,
        landed: State,
        again: State,
        t: State,
        s: State,
        template: Batch,
    ) -> State:
        done = dict(landed)
        for k, process in processes.items():
            stepper = steppers[k]
            if isinstance(stepper, TwoStage):
                mended = stepper.correct(process, before[k], pred[k], landed[k], again[k], t[k], s[k], template.free[k])
                done[k] = where(s[k] < 1, mended, landed[k])
        return done


def biased(pred: Tensor, name: str, cond: State) -> Tensor:
    """Logits (B, *sites, K or K + 1), plus ``cond["NAME.bias"]`` (B, *sites, K) if there is one: -inf forbids a class."""
    bias = cond.get(f"{name}.bias")
    if bias is None:
        return pred
    return pred + F.pad(bias.to(pred.dtype), (0, pred.shape[-1] - bias.shape[-1]))  # (B, *sites, K or K + 1)


def _rows(time: float, template: Batch) -> Tensor:
    return torch.full((len(template),), time, dtype=torch.float64, device=template.key.device)  # (B,)


def _single(state: State) -> State:
    """Floating-point tensors in the network's precision."""
    return {k: x.float() if x.is_floating_point() else x for k, x in state.items()}


def _clean(process: Process, noisy: Tensor, pred: Tensor, t: Tensor, free: Tensor) -> Tensor:
    """The clean component that the prediction stands for; sites that are not free keep their value."""
    if isinstance(process, Discrete):
        clean = torch.where(process.undecided(noisy, free), process.logits(pred).argmax(-1), noisy)  # (B, *sites)
    else:
        assert isinstance(process, Gaussian)
        clean = process.split(pred, noisy, t).clean  # (B, *sites, *features)
    return where(free, projected(process, clean, free), noisy)
