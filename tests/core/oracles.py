"""Data whose exact denoisers can be written down, so that processes and samplers are checked against closed forms."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection

import torch
from scipy import stats
from torch import Tensor

from multigen.denoiser import Output
from multigen.process import Gaussian, Masked, Uniform
from multigen.random import keys
from multigen.state import Batch, State, expand

MEAN, DEVIATION = 1.5, 0.4


def blank(n: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, cond: State | None = None) -> Batch:
    """A template of one component "x" that is free everywhere; integer components have their sites in `shape`."""
    x = torch.zeros(n, *shape, dtype=dtype)  # (B, *shape)
    free = torch.ones(x.shape if dtype == torch.long else (n,), dtype=torch.bool)
    return Batch({"x": x}, {"x": free}, {"x": free}, keys(seed, range(n), "sample"), cond or {})


class Counted(ABC):
    """A denoiser that counts its calls and remembers the last."""

    calls = 0

    def null(self, cond: State) -> State:
        return {k: torch.full_like(v, -1) for k, v in cond.items()}

    def __call__(
        self, noisy: State, t: State, cond: State, mask: State, prev: State | None = None, taps: Collection[str] = ()
    ) -> Output:
        self.calls += 1
        self.seen = noisy, t, cond, prev
        return Output({"x": self.predict(noisy["x"], t["x"], cond)}, {})

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: State) -> Tensor: ...


class GaussianOracle(Counted):
    """The exact denoiser of data N(mean, deviation^2); with a condition "label" the mean is that of the class, 0 without."""

    def __init__(self, process: Gaussian, mean: float | Tensor = MEAN, deviation: float = DEVIATION) -> None:
        self.process, self.mean, self.deviation = process, torch.as_tensor(mean), deviation

    def moments(self, x: Tensor, t: Tensor, cond: State) -> tuple[Tensor, Tensor]:
        """Posterior means of the clean data and of the noise."""
        mean = self.mean.to(x)
        if "label" in cond:
            mean = expand(torch.where(cond["label"] < 0, 0.0, mean[cond["label"]]), x)
        alpha, sigma, _, _ = (expand(c, x) for c in self.process.path(t.to(x.dtype)))
        residual = (x - alpha * mean) / (alpha**2 * self.deviation**2 + sigma**2)
        return mean + alpha * self.deviation**2 * residual, sigma * residual

    def predict(self, x: Tensor, t: Tensor, cond: State) -> Tensor:
        _, _, d_alpha, d_sigma = (expand(c, x) for c in self.process.path(t.to(x.dtype)))
        clean, noise = self.moments(x, t, cond)
        return {"clean": clean, "noise": noise, "velocity": d_alpha * clean + d_sigma * noise}[self.process.predict]


class TableOracle(Counted):
    """The exact posterior of every site of a categorical joint distribution.

    Args:
        joint: (K,) * S probabilities.
        process: Masked or Uniform, with `K` classes.
        careless: predict nonsense where a site is decided, as a network does that was never scored there.
    """

    def __init__(self, joint: Tensor, process: Masked | Uniform, careless: bool = False) -> None:
        self.process, self.careless, k, s = process, careless, joint.shape[0], joint.ndim
        self.classes, self.weights = k, joint.double().flatten()  # (K^S,)
        self.words = torch.tensor(list(itertools.product(range(k), repeat=s)))  # (K^S, S)

    def predict(self, x: Tensor, t: Tensor, cond: State) -> Tensor:
        alpha = self.process.path(t.double()).alpha[:, None, None]  # (B, 1, 1)
        same = (x[:, None] == self.words).double()  # (B, K^S, S)
        if isinstance(self.process, Masked):
            masked = (x == self.classes)[:, None]  # (B, 1, S)
            likelihood = torch.where(masked, 1.0, same)
        else:
            likelihood = alpha * same + (1 - alpha) / self.classes
        weight = self.weights * likelihood.prod(-1)  # (B, K^S)
        one_hot = torch.nn.functional.one_hot(self.words, self.classes).double()  # (K^S, S, K)
        marginal = torch.einsum("bw,wsk->bsk", weight, one_hot)  # (B, S, K)
        logits = (marginal / marginal.sum(-1, keepdim=True)).clamp(min=1e-30).log()
        if self.careless:
            logits = torch.where(self.process.undecided(x, torch.ones_like(x, dtype=torch.bool))[..., None], logits, 0)
        return logits


def frequencies(x: Tensor, classes: int) -> Tensor:
    """How often each word of classes (B, S) occurs: (K,) * S, sums to 1."""
    code = torch.zeros(len(x), dtype=torch.long)  # (B,)
    for site in x.T:
        code = code * classes + site
    shape = (classes,) * x.shape[1]
    return code.bincount(minlength=classes ** x.shape[1]).double().reshape(shape) / len(x)


def fits(x: Tensor, probs: Tensor) -> bool:
    """Whether class indices x occur as `probs` (K,) says, by a chi-squared test at one in a thousand."""
    counts = x.flatten().bincount(minlength=len(probs)).double()  # (K,)
    expected = x.numel() * probs.double() / probs.double().sum()  # (K,)
    return bool(stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3)


def correlated(classes: int = 3, sites: int = 3) -> Tensor:
    """A joint distribution of (K,) * S in which neighbours like to agree, and class 0 is rare."""
    words = torch.tensor(list(itertools.product(range(classes), repeat=sites)))  # (K^S, S)
    agree = (words[:, 1:] == words[:, :-1]).sum(1)  # (K^S,)
    score = 1.2 * agree - 0.7 * (words == 0).sum(1) + 0.3 * words[:, 0]  # (K^S,)
    return score.double().softmax(0).reshape((classes,) * sites)
