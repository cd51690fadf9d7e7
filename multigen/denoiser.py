"""What the core asks of a network, and what it gets back."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol, runtime_checkable

from multigen.files import nearest
from multigen.state import Features, MultigenError, State

ASKED = ".asked"
"""``cond["NAME.asked"]`` Bool (B, *sites): where a sampler will read the prediction of component NAME. A network may ignore
it; one that heeds it may return anything finite elsewhere."""


class Output(NamedTuple):
    """What a denoiser returns."""

    pred: State
    """One prediction per component: (B, *sites, *features), or (B, *sites, K) logits of a discrete one."""
    taps: dict[str, Features]
    """The named hidden features that were asked for."""


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts the clean state (or velocity, or noise) from a noisy one.

    Args:
        noisy: component -> (B, *sites, *features).
        t: component -> (B,), 0 = noise, 1 = data.
        cond: what is given, by name.
        mask: component -> Bool (B, *sites), True = real.
        prev: the previous prediction, for self-conditioning; a network that reads it has ``self_conditioned = True``.
        taps: names of the hidden features to return. Unknown names raise `MultigenError` naming those it has.
    """

    def __call__(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output: ...

    def null(self, cond: State) -> State:
        """The conditions of an unconditional example, shaped like `cond` (for label dropout and guidance)."""
        ...


def check_taps(asked: Collection[str], available: Collection[str]) -> None:
    """Raise `MultigenError` for taps that a network does not have."""
    if unknown := sorted(set(asked) - set(available)):
        raise MultigenError(f"the network has no tap {', '.join(map(repr, unknown))}; {nearest(unknown[0], available)}")


@runtime_checkable
class Preparing(Protocol):
    """A denoiser that can do once what depends on its conditions alone. Samplers ask for it before their loop."""

    def prepare(self, cond: State, mask: State) -> State:
        """`cond` with what was computed from it added; a call that is given it returns what it would return without."""
        ...


def prepared(denoiser: Denoiser, cond: State, mask: State) -> State:
    """`cond`, prepared if the denoiser can."""
    return denoiser.prepare(cond, mask) if isinstance(denoiser, Preparing) else cond


def is_timeless(denoiser: object) -> bool:
    """Whether a network says that it does not read the time (attribute ``timeless``)."""
    return bool(getattr(denoiser, "timeless", False))
