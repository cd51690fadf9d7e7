"""Using a network of others as a denoiser: one adapter, and the only hooks in the library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multigen.denoiser import Output, check_taps
from multigen.files import nearest
from multigen.state import Features, MultigenError, State

Call = Callable[[nn.Module, State, State, State, State], State]
"""(network, noisy, t, cond, mask) -> prediction of every component."""

Layout = Callable[[Any], Tensor]
"""A submodule's output -> tokens (B, T, D)."""


def tokens(skip: int = 0) -> Layout:
    """Read a submodule's output as tokens.

    (B, D, H, W) maps become (B, H W, D) in row-major order; (B, T, D) tokens stay, without the first `skip` (class and
    register tokens); of a tuple the first member is read.
    """

    def layout(x: Any) -> Tensor:
        x = x[0] if isinstance(x, tuple) else x
        x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, T, D)
        if x.ndim != 3:
            raise MultigenError(f"a tap of shape {tuple(x.shape)} is neither a map (B, D, H, W) nor tokens (B, T, D)")
        return x[:, skip:]  # (B, T - skip, D)

    return layout


class Tapped(nn.Module):
    """Any network as a `Denoiser` whose taps are outputs of its named submodules.

    Args:
        network: a network of diffusers, timm, or one's own.
        call: how to call it, ``(network, noisy, t, cond, mask) -> predictions``. Time directions and scales are turned here,
            once: t = 0 is noise and t = 1 is data.
        taps: tap name -> name of a submodule as in ``network.named_modules()``; or a list of such names.
        layouts: tap name -> how to read the submodule's output as (B, T, D); `tokens()` by default.
        unconditional: condition name -> the value that stands for "not given" (for label dropout and guidance).
    """

    def __init__(
        self,
        network: nn.Module,
        call: Call,
        taps: Mapping[str, str] | Collection[str] = (),
        layouts: Mapping[str, Layout] | None = None,
        unconditional: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.call = network, call
        self.paths = dict(taps) if isinstance(taps, Mapping) else {name: name for name in taps}
        modules = dict(network.named_modules())
        for name, path in self.paths.items():
            if path not in modules:
                raise MultigenError(f"tap {name!r}: the network has no submodule {path!r}; {nearest(path, _top(modules))}")
        self.layouts = {name: (layouts or {}).get(name, tokens()) for name in self.paths}
        self.unconditional = dict(unconditional or {})

    @property
    def tap_names(self) -> list[str]:
        return list(self.paths)

    def null(self, cond: State) -> State:
        if unknown := sorted(set(cond) - set(self.unconditional)):
            raise MultigenError(f"Tapped: say in `unconditional` which value stands for no {', '.join(unknown)}")
        return {k: torch.full_like(v, self.unconditional[k]) for k, v in cond.items()}

    def forward(
        self,
        noisy: State,
        t: State,
        cond: State,
        mask: State,
        prev: State | None = None,
        taps: Collection[str] = (),
    ) -> Output:
        check_taps(taps, self.paths)
        seen: dict[str, Any] = {}
        with self._watching(taps, seen):
            pred = self.call(self.network, noisy, t, cond, mask)
        if silent := sorted(set(taps) - set(seen)):
            raise MultigenError(f"taps {silent} were not reached: the network never called {[self.paths[k] for k in silent]}")
        return Output(pred, {name: _features(self.layouts[name](seen[name])) for name in taps})

    @contextmanager
    def _watching(self, taps: Collection[str], seen: dict[str, Any]) -> Iterator[None]:
        """Hooks that live for one call only."""
        handles = [
            self.network.get_submodule(self.paths[name]).register_forward_hook(
                lambda module, args, output, name=name: seen.__setitem__(name, output)
            )
            for name in taps
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _features(value: Tensor) -> Features:
    return Features(value, value.new_ones(value.shape[:2], dtype=torch.bool))  # (B, T, D), (B, T)


def _top(modules: Mapping[str, nn.Module]) -> list[str]:
    """The names of the two upper levels: enough to choose from, few enough to read."""
    return [name for name in modules if name and name.count(".") < 2]
