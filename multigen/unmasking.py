"""Generating one masked component event by event, with a network that is told no time.

A masked site keeps its class once it shows one, and a network without time sees only what shows: its prediction changes when a
site is revealed and at no other moment. So the steps in which sites are revealed are drawn first, and the network is called in
those steps alone. The distribution over results is that of `multigen.sampling.Sampler` with `Jump` on the same grid; from the
same keys it is the same result. 100 sites on 500 points need 90 calls instead of 499. Most of them reveal one site, and a
network that heeds `multigen.denoiser.ASKED` answers for that site alone (sums of other lengths may round differently).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from multigen.denoiser import ASKED, Denoiser, is_timeless, prepared
from multigen.interpolation import Linear
from multigen.process import Masked, Process
from multigen.random import Noise
from multigen.sampling import Grid, Watch, Wrap, biased
from multigen.state import Batch, MultigenError, State, at_least, where

Order = Literal["grid", "random", "confidence"]
_ORDERS = ("grid", "random", "confidence")
_NEVER = 2**31
"""The step of a site that is not made."""
_BLOCK = 64
"""Steps whose coins are thrown at once."""


@dataclass(frozen=True)
class Unmasking:
    """A sampler of one masked component.

    ``template.cond["NAME.bias"]`` (B, *sites, K) is added to the logits (-inf forbids a class), and sites of equal number >= 0
    in ``template.cond["NAME.tie"]`` Long (B, *sites) are made as one: their mean log-probabilities decide their common class.

    Args:
        grid: times, with order "grid".
        order: "grid" reveals each site in a random step of the grid, as ancestral sampling does; "random" one after another in
            a random order; "confidence" the site whose likeliest class is the most probable first.
        per_call: sites revealed at once, with orders "random" and "confidence".
        temperature: divides the logits; 0 takes the likeliest class.
        guide: wraps the denoiser (see `multigen.guidance`).
        result: "state" returns what was revealed; "prediction" the likeliest class of every free site in the last step, even
            where another shows (the published protein sampler).

    Besides the component, the result holds ``NAME.confidence`` (B, *sites): the probability that the network gave each site's
    class when it was revealed, at temperature 1; 1 where a site was given. With ``result="prediction"`` that need not be
    the class that is returned.
    """

    grid: Grid = field(default_factory=lambda: Grid(499))
    order: Order = "grid"
    per_call: int = 1
    temperature: float = 1.0
    guide: Wrap | None = None
    result: Literal["state", "prediction"] = "state"

    def __post_init__(self) -> None:
        at_least(1, per_call=self.per_call)
        if self.order not in _ORDERS:
            raise MultigenError(f"Unmasking: order is {self.order!r}; choices are {', '.join(_ORDERS)}")
        if self.temperature < 0:
            raise MultigenError(f"Unmasking: temperature must not be negative, got {self.temperature}")
        if self.result not in ("state", "prediction"):
            raise MultigenError(f"Unmasking: result is {self.result!r}; choices are state, prediction")
        if self.order == "grid" and (self.grid.start > 0 or self.grid.times()[-1] < 1):
            raise MultigenError("Unmasking: the grid must lead from t = 0 to t = 1")

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], template: Batch, watch: Watch | None = None
    ) -> State:
        """One state per row of the template. Called like `multigen.sampling.Sampler`.

        `watch` is told of network calls; with result "state", predictions mean something where a site was revealed alone.
        """
        name, process = _masked(processes)
        network = self.guide(denoiser) if self.guide is not None else denoiser
        if self.order == "grid" and not is_timeless(network):
            raise MultigenError("Unmasking: order=grid needs a network that is told no time; use Sampler, or another order")
        if not is_timeless(network) and not isinstance(process.path, Linear):
            raise MultigenError(
                "Unmasking: a network with time is told the share that shows, which is the time on the linear path"
            )
        template = template.replace(cond=prepared(network, template.cond, template.mask))
        path = _Path(process, template, name)
        events = self._events(process, path)

        def ask(open_: Tensor, asked: Tensor) -> Tensor:
            t = path.share(open_)  # (B,)
            cond = template.cond if self.result == "prediction" else {**template.cond, f"{name}{ASKED}": asked}
            output = network({name: path.noisy}, {name: t}, cond, template.mask).pred[name]  # (B, *sites, K)
            return process.logits(biased(output, name, template.cond))  # (B, *sites, K)

        predicted = path.noisy  # (B, *sites)
        for number in range(_NEVER):
            open_ = process.undecided(path.noisy, path.free)  # (B, *sites)
            if not open_.any():
                break
            asked = events.next(open_)  # (B, *sites)
            pred = ask(open_, asked)  # (B, *sites, K)
            if self.result == "prediction":
                # a row that is done waits for the others: what it predicts meanwhile must not depend on them
                predicted = where(open_.flatten(1).any(1), path.likeliest(pred), predicted)  # (B, *sites)
            path.reveal(pred, *events.chosen(asked, pred), self.temperature)
            if watch is not None:
                watch(number + 1, {name: path.noisy}, {name: pred})
        if self.result == "state":
            predicted = path.noisy  # (B, *sites)
        elif (early := events.early()).any():  # the plain loop asks once more in its last step, when all is revealed
            nothing = torch.zeros_like(path.free)  # (B, *sites)
            predicted = where(early, path.likeliest(ask(nothing, nothing)), predicted)  # (B, *sites)
        return {name: predicted, f"{name}.confidence": path.confidence}

    def _events(self, process: Masked, path: _Path) -> _Scheduled | _Ranked:
        if self.order == "grid":
            return _Scheduled(process, path, self.grid)
        return _Ranked(path, self.per_call, by_confidence=self.order == "confidence")


def _masked(processes: Mapping[str, Process]) -> tuple[str, Masked]:
    found = list(processes.items())
    if len(found) != 1 or not isinstance(found[0][1], Masked) or found[0][1].project is not None:
        kinds = {name: type(process).__name__ for name, process in found}
        raise MultigenError(f"Unmasking makes one Masked component, these are {kinds}; use Sampler")
    return found[0][0], found[0][1]


class _Path:
    """The state on its way. Tied sites are led by their first free one."""

    def __init__(self, process: Masked, template: Batch, name: str) -> None:
        self.free = template.free[name]  # Bool (B, *sites)
        self.stream, self.name = Noise(template.key).fold("sample"), name
        self.noisy = process.prior(template.clean[name], self.free, self.stream.fold("prior").fold(name))  # (B, *sites)
        self.confidence = torch.ones(self.free.shape, device=self.free.device)  # (B, *sites)
        tie = template.cond.get(f"{name}.tie")
        self.leader = None if tie is None else _leaders(tie, self.free, self.noisy)  # (B, S)
        if self.leader is not None:  # a site that is tied to a given one is given
            given = ~self.free.flatten(1).gather(1, self.leader) & self.free.flatten(1)  # (B, S)
            led = torch.where(given, self.noisy.flatten(1).gather(1, self.leader), self.noisy.flatten(1))  # (B, S)
            self.noisy = led.view_as(self.noisy)

    def led(self, x: Tensor) -> Tensor:
        """`x` (B, *sites) with each site's leader's value."""
        return x if self.leader is None else x.flatten(1).gather(1, self.leader).view_as(x)

    def share(self, open_: Tensor) -> Tensor:
        """(B,): share of the free sites that show a class; what a network that is told the time is told."""
        free = self.free.flatten(1).sum(1).clamp(min=1)  # (B,)
        return 1 - open_.flatten(1).sum(1) / free

    def likeliest(self, logits: Tensor) -> Tensor:
        """The likeliest class of every site that is made, tied ones together; the others as they are: (B, *sites)."""
        made = self.free if self.leader is None else self.free & self.led(self.free)  # (B, *sites)
        return torch.where(made, self._shared(logits.double().log_softmax(-1)).argmax(-1), self.noisy)

    def _shared(self, log_p: Tensor) -> Tensor:
        """Of tied sites, the mean of theirs: (B, *sites, K)."""
        return log_p if self.leader is None else _group_mean(log_p, self.leader, self.free)

    def reveal(self, logits: Tensor, sites: Tensor, noise: Noise, temperature: float) -> None:
        """Give the `sites` Bool (B, *sites) classes drawn from logits (B, *sites, K)."""
        log_p = logits.double().log_softmax(-1)  # (B, *sites, K)
        shared = self._shared(log_p)  # (B, *sites, K)
        if temperature == 0:
            drawn = shared.argmax(-1)  # (B, *sites)
        else:
            drawn = noise.fold(self.name).fold("class").categorical((shared / temperature).softmax(-1))  # (B, *sites)
        drawn = self.led(drawn)  # (B, *sites)
        chance = log_p.gather(-1, drawn[..., None])[..., 0].exp().float()  # (B, *sites)
        self.noisy = torch.where(sites, drawn, self.noisy)  # (B, *sites)
        self.confidence = torch.where(sites, chance, self.confidence)  # (B, *sites)


def _leaders(tie: Tensor, free: Tensor, noisy: Tensor) -> Tensor:
    """Long (B, S): the site that leads each; a given one if the group has one, else the first.

    Raises:
        MultigenError: given sites that are tied show different classes.
    """
    tie, free, noisy = tie.flatten(1), free.flatten(1), noisy.flatten(1)  # (B, S) each
    place = torch.arange(tie.shape[1], device=tie.device).expand_as(tie)  # (B, S)
    same = (tie[:, :, None] == tie[:, None, :]) & (tie[:, None, :] >= 0)  # (B, S, S)
    clash = same & ~free[:, :, None] & ~free[:, None, :] & (noisy[:, :, None] != noisy[:, None, :])  # (B, S, S)
    if clash.any():
        row, one, other = clash.nonzero()[0].tolist()
        raise MultigenError(f"sites {one} and {other} of row {row} are tied, and are given as different classes")
    rank = place + free.long() * tie.shape[1]  # (B, S); given ones come first
    first = torch.where(same, rank[:, None, :], 2 * tie.shape[1]).argmin(-1)  # (B, S)
    return torch.where(tie >= 0, first, place)


def _group_mean(log_p: Tensor, leader: Tensor, free: Tensor) -> Tensor:
    """Log-probabilities (B, *sites, K) averaged over the free sites that share a leader."""
    flat, weight = log_p.flatten(1, -2), free.flatten(1).to(log_p.dtype)  # (B, S, K), (B, S)
    where = leader[..., None].expand_as(flat)  # (B, S, K)
    # a forbidden class is forbidden for the group: -inf times weight 0 would be nan
    total = torch.zeros_like(flat).scatter_add(1, where, flat.masked_fill(weight[..., None] == 0, 0))  # (B, S, K)
    count = torch.zeros_like(weight).scatter_add(1, leader, weight).clamp(min=1)  # (B, S)
    return (total / count[..., None]).gather(1, where).view_as(log_p)


class _Scheduled:
    """Each site at a step of the grid, drawn as `Jump` would draw it, step by step, from the same streams."""

    def __init__(self, process: Masked, path: _Path, grid: Grid) -> None:
        times = torch.tensor(grid.times(), dtype=torch.float64, device=path.free.device)  # (S + 1,)
        alpha = process.path(times).alpha  # (S + 1,)
        chance = (alpha[1:] - alpha[:-1]) / (1 - alpha[:-1]).clamp(min=1e-9)  # (S,)
        chance[-1] = 1.0
        rows, sites = len(path.free), path.free.shape[1:]
        self.keys = torch.stack([path.stream.fold(i).key for i in range(len(chance))])  # (S, B)
        step = torch.full(path.free.shape, len(chance) - 1, device=path.free.device)  # (B, *sites)
        for start in reversed(range(0, len(chance), _BLOCK)):  # the first step whose coin says so: earlier ones overwrite
            block = slice(start, start + _BLOCK)
            coins = (
                Noise(self.keys[block].flatten()).fold(path.name).fold("jump").uniform(sites, torch.float64)
            )  # (S * B, *sites)
            jump = coins.unflatten(0, (-1, rows)) < chance[block].view(-1, *[1] * path.free.ndim)  # (S, B, *sites)
            step = torch.where(jump.any(0), start + jump.byte().argmax(0), step)  # (B, *sites)
        step = path.led(step)  # (B, *sites)
        self.step = torch.where(process.undecided(path.noisy, path.free), step, _NEVER)  # (B, *sites)

    def next(self, open_: Tensor) -> Tensor:
        """The sites of each row's next step."""
        step = torch.where(open_, self.step, _NEVER)  # (B, *sites)
        self.now = step.flatten(1).min(1).values  # (B,)
        return open_ & (step == self.now.view(-1, *[1] * (step.ndim - 1)))  # (B, *sites)

    def chosen(self, asked: Tensor, logits: Tensor) -> tuple[Tensor, Noise]:
        """All that was asked about, and that step's random numbers."""
        rows = torch.arange(len(self.now), device=self.now.device)
        return asked, Noise(self.keys[self.now.clamp(max=len(self.keys) - 1), rows])

    def early(self) -> Tensor:
        """Bool (B,): rows in which all that is made is revealed before the grid's last step."""
        last = torch.where(self.step < _NEVER, self.step, -1).flatten(1).max(1).values  # (B,)
        return (last >= 0) & (last < len(self.keys) - 1)


class _Ranked:
    """The open sites of highest rank, so many at once: ranks are random, or the prediction's confidence."""

    def __init__(self, path: _Path, per_call: int, by_confidence: bool) -> None:
        self.path, self.per_call, self.by_confidence = path, per_call, by_confidence
        self.rank = path.stream.fold("order").fold(path.name).uniform(path.free.shape[1:])  # (B, *sites)
        self.calls = 0

    def next(self, open_: Tensor) -> Tensor:
        """The sites that may come next: all, where the prediction decides."""
        return open_ if self.by_confidence else self._highest(self.rank, open_)

    def chosen(self, asked: Tensor, logits: Tensor) -> tuple[Tensor, Noise]:
        """The sites that come next, and this call's random numbers."""
        sites = self._highest(logits.float().softmax(-1).amax(-1), asked) if self.by_confidence else asked  # (B, *sites)
        self.calls += 1
        return sites, self.path.stream.fold(self.calls - 1)

    def _highest(self, rank: Tensor, open_: Tensor) -> Tensor:
        """Bool (B, *sites): of the open sites, those of highest rank (B, *sites)."""
        rank = torch.where(open_, self.path.led(rank), -1.0).flatten(1)  # (B, S)
        leading = torch.ones_like(rank, dtype=torch.bool)  # (B, S); of tied sites one counts
        if self.path.leader is not None:
            leading = self.path.leader == torch.arange(rank.shape[1], device=rank.device)
        best = torch.where(leading, rank, -1.0).topk(min(self.per_call, rank.shape[1]), 1).indices  # (B, n)
        chosen = torch.zeros_like(leading).scatter(1, best, True).view_as(open_)  # (B, *sites)
        return open_ & self.path.led(chosen)  # (B, *sites)

    def early(self) -> Tensor:
        """Bool (B,): none, there is no grid to wait for."""
        return torch.zeros(len(self.path.free), dtype=torch.bool, device=self.path.free.device)
