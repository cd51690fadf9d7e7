"""A denoiser that knows the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multigen.denoiser import Output, check_taps
from multigen.process import Corrupted, Discrete, Gaussian, Process
from multigen.state import MultigenError, State, expand


class Oracle(nn.Module):
    """A denoiser that knows the clean state and predicts it exactly, whatever each process wants predicted.

    Sampling with it must return the state, and no loss can be smaller than its own. It has no parameters.
    """

    def __init__(self, clean: State, processes: Mapping[str, Process]) -> None:
        super().__init__()
        self.clean, self.processes = dict(clean), dict(processes)

    def null(self, cond: State) -> State:
        return cond

    def forward(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        check_taps(taps, ())
        return Output({k: exact(p, noisy[k], self.clean[k], t[k]) for k, p in self.processes.items()}, {})


def exact(process: Process, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The prediction that stands for `clean`: logits (B, *sites, K), or the process's target (B, *sites, *features)."""
    if isinstance(process, Discrete):
        classes: int = process.classes  # type: ignore[attr-defined]
        return 60.0 * F.one_hot(clean.clamp(0, classes - 1), classes)  # (B, *sites, K)
    if not isinstance(process, Gaussian):
        raise MultigenError(f"the oracle knows Gaussian and discrete processes, not {type(process).__name__}")
    x, y = clean.double(), noisy.double()
    alpha, sigma, *_ = (expand(c, y) for c in process.path(t.double()))
    noise = (y - alpha * x) / sigma.clamp(min=1e-9)  # (B, *sites, *features)
    return process.target(Corrupted(y, x, noise, torch.ones_like(t, dtype=torch.bool)), t)
