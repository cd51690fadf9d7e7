"""The protocol that every process follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from multigen.random import Noise

Project = Callable[[Tensor, Tensor], Tensor]
"""(x, mask) -> x: restricts a component to the subspace it lives in (zero centre of mass, symmetric matrices)."""

Couple = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noise, clean, free) -> noise: pairs noise with data, for instance by optimal transport."""


class Projected(Protocol):
    """Whatever lives in a subspace."""

    @property
    def project(self) -> Project | None: ...


def projected(process: Projected, x: Tensor, mask: Tensor) -> Tensor:
    """`x` restricted to the subspace that the process lives in, if it lives in one."""
    return x if process.project is None else process.project(x, mask)


class Corrupted(NamedTuple):
    """A component at time t and what it came from."""

    noisy: Tensor
    """(B, *sites, *features)."""
    clean: Tensor
    """(B, *sites, *features)."""
    noise: Tensor
    """(B, *sites, *features): the prior's draw that `clean` was mixed with."""
    free: Tensor
    """Bool (B, *sites): sites that were corrupted, hence are scored."""


class Process(Protocol):
    """The forward process of one component. Frozen: it holds settings, never tensors that change."""

    @property
    def project(self) -> Project | None: ...

    def prior(self, like: Tensor, free: Tensor, noise: Noise) -> Tensor:
        """A state at t = 0, shaped like `like`; sites that are not free keep the value of `like`."""
        ...

    def corrupt(self, clean: Tensor, t: Tensor, free: Tensor, noise: Noise, prior: Tensor | None = None) -> Corrupted:
        """`clean` (B, *sites, *features) at times t (B,), mixed with `prior` or a draw of its own."""
        ...

    def loss(self, pred: Tensor, corrupted: Corrupted, t: Tensor) -> Tensor:
        """(B,): mean over the scored sites of each example."""
        ...
