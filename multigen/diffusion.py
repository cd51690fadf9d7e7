"""The training step as one module: what a data-parallel wrapper wraps and a checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multigen.denoiser import Denoiser
from multigen.objective import Context, Losses, Objective
from multigen.process import Process
from multigen.random import Noise, hash64
from multigen.state import Batch, MultigenError, State, where
from multigen.times import Shared, Times


class Diffusion(nn.Module):
    """Corrupt a batch, denoise it, score it.

    Args:
        denoiser: the network; a module that follows `Denoiser`. The part that is averaged, exported and sampled from.
        processes: component -> its process.
        objective: the loss terms; owns the projectors.
        times: draws the time of every component.
        drop: probability that an example is trained without its conditions (needed by classifier-free guidance).
        self_conditioning: probability that a step first predicts without gradient and is given that prediction (Chen et al.
            2022).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        processes: Mapping[str, Process],
        objective: Objective,
        times: Times | None = None,
        drop: float = 0.0,
        self_conditioning: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("drop", drop), ("self_conditioning", self_conditioning)):
            if not 0 <= value <= 1:
                raise MultigenError(f"{name} is a probability, got {value}")
        if drop > 0 and not isinstance(denoiser, Denoiser):
            raise MultigenError(f"drop={drop}: {type(denoiser).__name__} has no `null` to make conditions unconditional")
        if self_conditioning > 0 and not getattr(denoiser, "self_conditioned", False):
            what = f"{type(denoiser).__name__} does not read its previous prediction"
            raise MultigenError(f"self_conditioning={self_conditioning}: {what}")
        self.denoiser = denoiser
        self.processes = dict(processes)
        self.objective = objective
        self.times: Times = times if times is not None else Shared()
        self.drop, self.self_conditioning = drop, self_conditioning

    def forward(self, batch: Batch, step: int) -> Losses:
        noise = Noise(batch.key)
        self._check(batch)
        t = self.times(self.processes, noise)  # (B,) each
        draw = noise.fold("corrupt")  # a name of its own: a component may be called "time", whose stream is taken
        paired = {k: {"prior": x} for k, x in batch.prior.items()}
        corrupted = {
            k: p.corrupt(batch.clean[k], t[k], batch.free[k], draw.fold(k), **paired.get(k, {}))
            for k, p in self.processes.items()
        }
        noisy = {k: c.noisy for k, c in corrupted.items()}  # (B, *sites, *features) each
        cond = self._drop(batch.cond, noise)
        prev = self._previous(noisy, t, cond, batch, step)
        output = self.denoiser(noisy, t, cond, batch.mask, prev=prev, taps=self.objective.taps)
        return self.objective(Context(batch, self.processes, t, corrupted, output, noise), step)

    def _drop(self, cond: State, noise: Noise) -> State:
        """Conditions with whole examples made unconditional; never when evaluating."""
        if not cond or self.drop == 0 or not self.training:
            return cond
        dropped = noise.fold("drop").uniform() < self.drop  # (B,)
        null = self.denoiser.null(cond)  # type: ignore[operator]
        return {k: where(dropped, null[k], v) for k, v in cond.items()}

    def _previous(self, noisy: State, t: State, cond: State, batch: Batch, step: int) -> State | None:
        """Some training steps get a first prediction; in evaluation all do, as in a sampler.

        The coin is a function of the step, so that all processes agree on it: a first pass in some of them would make the
        others wait, and for ever where weights lie in parts that every pass gathers. No seed enters it: all runs, and so all
        arms and seeds of a comparison, make their first passes in the same steps.
        """
        coin = hash64("self-conditioning", step) % 10**6 / 10**6 if self.training else 0.0
        if coin >= self.self_conditioning:
            return None
        with torch.no_grad():
            return self.denoiser(noisy, t, cond, batch.mask).pred

    def _check(self, batch: Batch) -> None:
        if absent := sorted(set(self.processes) - set(batch.clean)):
            raise MultigenError(f"the batch lacks component {absent}; it has {sorted(batch.clean)}")
        for name in self.processes:
            for kind, masks in (("mask", batch.mask), ("free", batch.free)):
                _check_mask(f"{kind} of component {name!r}", masks.get(name), batch.clean[name])


def _check_mask(what: str, mask: Tensor | None, clean: Tensor) -> None:
    expected = f"must be Bool over the first dimensions of {tuple(clean.shape)}"
    if mask is None:
        raise MultigenError(f"{what} is absent; it {expected}")
    if mask.dtype != torch.bool or mask.ndim == 0 or clean.shape[: mask.ndim] != mask.shape:
        raise MultigenError(f"{what} {expected}, got {str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)}")
