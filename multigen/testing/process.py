"""What the core expects of a process."""

from __future__ import annotations

import torch
from torch import Tensor

from multigen.interpolation import Never
from multigen.process import Gaussian, Process
from multigen.random import Noise, keys
from multigen.sampling import Grid, Sampler
from multigen.state import Batch, expand, where
from multigen.testing.comparing import close, same
from multigen.testing.oracle import Oracle, exact


def check_process(process: Process, clean: Tensor, mask: Tensor | None = None, steps: int = 50) -> None:
    """The path ends where it should, frozen sites stay, the loss scores what is free, and sampling undoes corruption.

    Args:
        process: a forward process.
        clean: examples (B, *sites, *features), in the subspace that the process lives in; at least two, and not the same.
        mask: Bool (B, *sites), True = real; by default all is.
        steps: of the sampler.
    """
    mask = torch.ones(len(clean), dtype=torch.bool) if mask is None else mask  # (B, *sites)
    assert len(clean) > 1 and not same(clean, clean.roll(1, 0)), "check_process needs at least two different examples"
    if process.project is not None:
        assert close(process.project(clean, mask), clean, mask), "the example does not lie in the process's subspace"
    noise = Noise(keys(0, range(len(clean)), "testing"))
    free = mask & expand(noise.fold("frozen").uniform() < 0.6, mask)  # (B, *sites): some examples are frozen
    free[0] = mask[0]
    if process.project is None:  # some sites of the others too
        free[1:] &= noise.fold("sites").uniform(mask.shape[1:])[1:] < 0.7
    _check_prior(process, clean, free, noise)
    _check_path(process, clean, free, noise)
    _check_loss(process, clean, free, noise)
    if isinstance(process, Gaussian):
        _check_velocity(process, clean.double(), free, noise)
    if not (isinstance(process, Gaussian) and isinstance(process.path, Never)):
        _check_sampling(process, clean, mask, free, steps)


def _other(process: Process, clean: Tensor) -> Tensor:
    """Other data of the same shape."""
    if clean.is_floating_point():
        return clean.roll(1, 0)
    return (clean + 1) % process.classes  # type: ignore[attr-defined]


def _check_prior(process: Process, clean: Tensor, free: Tensor, noise: Noise) -> None:
    prior, other = process.prior(clean, free, noise), process.prior(_other(process, clean), free, noise)
    assert prior.shape == clean.shape and prior.dtype == clean.dtype, (
        f"prior: {prior.dtype} {tuple(prior.shape)} for clean {clean.dtype} {tuple(clean.shape)}"
    )
    assert same(prior, clean, ~free), "prior: sites that are not free change"
    assert same(prior, other, free), "prior: free sites depend on the clean data"
    assert same(process.prior(clean, free, noise), prior), "prior: the same noise gives another state"
    if process.project is not None:
        assert close(process.project(prior, free), prior, free), "prior: lies outside the subspace"


def _check_path(process: Process, clean: Tensor, free: Tensor, noise: Noise) -> None:
    coupled, jitter = getattr(process, "couple", None) is not None, getattr(process, "jitter", 0) > 0
    for time in (0.0, 0.3, 0.7, 1.0):
        t = torch.full([len(clean)], time)  # (B,)
        corrupted = process.corrupt(clean, t, free, noise)
        assert same(corrupted.noisy, clean, ~free), f"corrupt: sites that are not free change at t = {time}"
        assert corrupted.noisy.shape == clean.shape, f"corrupt: shape {tuple(corrupted.noisy.shape)} at t = {time}"
        if not coupled:
            alone = process.corrupt(clean[:1], t[:1], free[:1], noise.rows(torch.tensor([0])))
            assert close(alone.noisy, corrupted.noisy[:1]), f"corrupt: an example depends on its batch at t = {time}"
        if time == 0 and not coupled:
            other = process.corrupt(_other(process, clean), t, free, noise)
            assert same(other.noisy, corrupted.noisy, free), "corrupt: the state at t = 0 depends on the clean data"
        if time == 1 and not jitter and not isinstance(getattr(process, "path", None), Never):
            assert close(corrupted.noisy, clean, free), "corrupt: the state at t = 1 is not the clean data"


def _check_loss(process: Process, clean: Tensor, free: Tensor, noise: Noise) -> None:
    blurred = getattr(process, "smoothing", 0) > 0 or getattr(process, "jitter", 0) > 0
    best, worse = [], []
    for percent in (5, 20, 50, 80):
        t = torch.full([len(clean)], percent / 100)  # (B,)
        corrupted = process.corrupt(clean, t, free, noise.fold(percent))
        right = process.loss(exact(process, corrupted.noisy, clean, t), corrupted, t)  # (B,)
        mistaken = exact(process, corrupted.noisy, _other(process, clean), t)  # (B, *sites, *features)
        wrong = process.loss(mistaken, corrupted, t)  # (B,)
        assert right.shape == t.shape, f"loss: shape {tuple(right.shape)}, one number per example is needed: {tuple(t.shape)}"
        none = process.loss(mistaken, corrupted._replace(free=torch.zeros_like(free)), t)  # (B,)
        assert (none == 0).all(), f"loss: examples without a free site score {none.tolist()}"
        best.append(right)
        worse.append(wrong)
    assert torch.cat(best).sum() < torch.cat(worse).sum(), "loss: the right prediction scores no better than a wrong one"
    assert blurred or (torch.cat(best) < 1e-3).all(), f"loss: the right prediction scores {torch.cat(best).max():.3g}, not 0"


def _check_velocity(process: Gaussian, clean: Tensor, free: Tensor, noise: Noise) -> None:
    """The velocity of the exact prediction is the derivative of the corrupted state by t."""
    if process.jitter > 0 or isinstance(process.path, Never):
        return
    for time in (0.2, 0.5, 0.8):
        t = torch.full([len(clean)], time, dtype=torch.float64)  # (B,)
        before, at, after = (process.corrupt(clean, t + step, free, noise).noisy for step in (-1e-4, 0, 1e-4))
        velocity = process.velocity(exact(process, at, clean, t), at, t)  # (B, *sites, *features)
        problem = f"velocity: that of the exact prediction at t = {time} is not the derivative of the corrupted state"
        assert close(velocity, (after - before) / 2e-4, free, 1e-4), problem


def _check_sampling(process: Process, clean: Tensor, mask: Tensor, free: Tensor, steps: int) -> None:
    template = Batch({"x": clean}, {"x": mask}, {"x": free}, keys(0, range(len(clean)), "testing sample"))
    sample = Sampler(Grid(steps))(Oracle({"x": clean}, {"x": process}), {"x": process}, template)["x"].to(clean.dtype)
    assert same(sample, clean, ~free), "sampling: sites that are not free change"
    tolerance = 0.02 * max(1.0, float(where(free, clean, torch.zeros_like(clean)).abs().max()))
    assert close(sample, clean, free, tolerance), "sampling with exact predictions does not return the clean data"
