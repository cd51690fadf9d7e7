"""Revealing masked sites event by event: the same distribution, the same results, far fewer calls."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from multigen.denoiser import Output
from multigen.guidance import Guidance
from multigen.interpolation import Trigonometric
from multigen.process import Masked, Uniform
from multigen.random import keys
from multigen.sampling import Grid, Jump, Sampler
from multigen.state import Batch, MultigenError, State
from multigen.unmasking import Unmasking


class Neighbourly:
    """Logits of each site from the classes that its neighbours show, and from a condition; counts what it is asked."""

    timeless = True

    def __init__(self, classes: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.left, self.right = (torch.randn(classes + 1, classes, generator=generator) for _ in range(2))
        self.calls = self.prepared = 0

    def __call__(self, noisy: State, t: State, cond: State, mask: State, prev: Any = None, taps: Any = ()) -> Output:
        self.calls += 1
        x = noisy["x"]  # (B, L)
        logits = self.left[x.roll(1, 1)] + self.right[x.roll(-1, 1)]  # (B, L, K)
        shift = cond["shift"] if "ready" not in cond else cond["ready"] / 2  # (B,)
        return Output({"x": logits + shift[:, None, None] * torch.arange(logits.shape[-1])}, {})

    def null(self, cond: State) -> State:
        return {k: torch.zeros_like(v) for k, v in cond.items()}

    def prepare(self, cond: State, mask: State) -> State:
        self.prepared += 1
        return {**cond, "ready": 2 * cond["shift"]}


def template(rows: int, length: int, classes: int, **cond: Tensor) -> Batch:
    free = torch.ones(rows, length, dtype=torch.bool)  # (B, L)
    clean = torch.zeros(rows, length, dtype=torch.long)  # (B, L)
    return Batch({"x": clean}, {"x": free}, {"x": free}, keys(0, range(rows)), {"shift": torch.zeros(rows), **cond})


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("path", [None, Trigonometric()], ids=["linear", "trigonometric"])
def test_equals_the_sampler_that_asks_at_every_step(temperature, path):
    process = {"x": Masked(5) if path is None else Masked(5, path)}
    network, grid = Neighbourly(5), Grid(60)
    batch = template(16, 12, 5)
    batch = batch.replace(free={"x": batch.free["x"] & (torch.arange(12) != 3)})
    plain = Sampler(grid, discrete=Jump(temperature))(network, process, batch)["x"]
    plain_calls, network.calls = network.calls, 0
    events = Unmasking(grid, temperature=temperature)(network, process, batch)
    assert torch.equal(plain, events["x"])
    assert network.calls <= 11 < plain_calls == 60
    assert (events["x"][:, 3] == 0).all() and (events["x.confidence"][:, 3] == 1).all()
    assert ((events["x.confidence"] > 0) & (events["x.confidence"] <= 1)).all()


def ancestral(network: Neighbourly, classes: int, length: int, steps: int) -> dict[tuple[int, ...], float]:
    """The distribution of ancestral sampling on a uniform grid, by enumeration of all paths."""
    states = {(classes,) * length: 1.0}
    for i in range(steps):
        chance = 1 / (steps - i)
        moved: dict[tuple[int, ...], float] = {}
        for state, weight in states.items():
            noisy = torch.tensor([state])
            p = network({"x": noisy}, {}, {"shift": torch.zeros(1)}, {}).pred["x"].softmax(-1)[0]  # (L, K)
            options = [
                [(c, float(chance * p[j, c])) for c in range(classes)] + [(classes, 1 - chance)]
                if s == classes
                else [(s, 1.0)]
                for j, s in enumerate(state)
            ]
            for choice in itertools.product(*options):
                new, q = tuple(c for c, _ in choice), weight
                for _, each in choice:
                    q *= each
                if q:
                    moved[new] = moved.get(new, 0.0) + q
        states = moved
    return states


def test_distribution_is_that_of_ancestral_sampling():
    classes, length, n = 2, 3, 20_000
    network = Neighbourly(classes, seed=3)
    exact = ancestral(network, classes, length, 4)
    drawn = Unmasking(Grid(4))(network, {"x": Masked(classes)}, template(n, length, classes))["x"]
    counts = Counter(map(tuple, drawn.tolist()))
    assert sum(exact.values()) == pytest.approx(1)
    for state, p in exact.items():
        assert counts[state] / n == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)


@pytest.mark.parametrize("order, per_call, calls", [("random", 1, 9), ("random", 4, 3), ("confidence", 2, 5)])
def test_orders_reveal_so_many_a_call(order, per_call, calls):
    network = Neighbourly(4)
    seen: list[int] = []
    sampler = Unmasking(order=order, per_call=per_call)
    state = sampler(network, {"x": Masked(4)}, template(6, 9, 4), lambda i, x, pred: seen.append(int((x["x"] == 4).sum())))
    assert network.calls == calls and seen[-1] == 0 and (state["x"] < 4).all()
    assert seen[0] == 6 * (9 - per_call)


def test_confidence_takes_the_surest_first():
    class Sure(Neighbourly):
        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            sure = torch.arange(1.0, 6.0)[None, :, None] * torch.tensor([1.0, 0, 0])  # (1, L, K)
            return Output({"x": sure.expand(len(noisy["x"]), -1, -1)}, {})

    states: list[Tensor] = []
    sampler = Unmasking(order="confidence", temperature=0)
    sampler(Sure(3), {"x": Masked(3)}, template(2, 5, 3), lambda i, x, pred: states.append(x["x"].clone()))
    assert [(s[0] == 3).tolist().count(True) for s in states] == [4, 3, 2, 1, 0]
    assert all((s[:, 5 - i :] == 0).all() for i, s in enumerate(states, 1))


def test_result_does_not_depend_on_the_batch():
    network, process = Neighbourly(4), {"x": Masked(4)}
    kinds = itertools.product(("grid", "random", "confidence"), ("state", "prediction"))
    for order, result in kinds:
        sampler = Unmasking(Grid(20), order=order, result=result)
        batch = template(5, 7, 4)
        free = batch.free["x"] & (torch.arange(7) >= torch.arange(5)[:, None])  # (B, L): some have less to make
        batch = batch.replace(free={"x": free})
        together = sampler(network, process, batch)["x"]
        alone = [sampler(network, process, batch.map(lambda x, i=i: x[i : i + 1]))["x"] for i in range(5)]
        assert torch.equal(together, torch.cat(alone))


def test_bias_forbids_and_prefers():
    bias = torch.zeros(8, 6, 4)  # (B, L, K)
    bias[..., 0] = -torch.inf
    bias[:, 2, 3] = 50.0
    batch = template(8, 6, 4, **{"x.bias": bias})
    for sampler in (Unmasking(Grid(30)), Sampler(Grid(30)), Unmasking(order="confidence")):
        drawn = sampler(Neighbourly(4), {"x": Masked(4)}, batch)["x"]
        assert (drawn > 0).all() and (drawn[:, 2] == 3).all()


def test_tied_sites_are_made_as_one():
    tie = torch.tensor([[0, 1, 2, 0, 1, 2, -1, -1]]).expand(32, -1)  # (B, L)
    batch = template(32, 8, 4, **{"x.tie": tie})
    batch.clean["x"][:, 4] = 2
    batch = batch.replace(free={"x": batch.free["x"] & (torch.arange(8) != 4)})  # site 4 is given, hence site 1 too
    for order in ("grid", "random", "confidence"):
        drawn = Unmasking(Grid(10), order=order, per_call=2)(Neighbourly(4), {"x": Masked(4)}, batch)["x"]
        assert torch.equal(drawn[:, :3], drawn[:, 3:6]) and (drawn[:, 1] == 2).all() and (drawn < 4).all()
        assert not torch.equal(drawn[:, 6], drawn[:, 7])
    clash = batch.replace(free={"x": torch.zeros_like(batch.free["x"])})
    with pytest.raises(MultigenError, match="sites 1 and 4 of row 0 are tied, and are given as different classes"):
        Unmasking()(Neighbourly(4), {"x": Masked(4)}, clash)


def test_tied_sites_share_their_mean_log_probability():
    class Split(Neighbourly):
        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            p = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.6, 0.35]])  # (L, K)
            return Output({"x": p.log().expand(len(noisy["x"]), -1, -1)}, {})

    batch = template(4000, 2, 3, **{"x.tie": torch.zeros(4000, 2, dtype=torch.long)})
    drawn = Unmasking(Grid(5))(Split(3), {"x": Masked(3)}, batch)["x"]
    p = (torch.tensor([0.7 * 0.05, 0.2 * 0.6, 0.1 * 0.35])).sqrt()
    torch.testing.assert_close(drawn[:, 0].bincount() / 4000, p / p.sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize("steps", [3, 30])
def test_prediction_is_the_likeliest_class_of_the_plain_loops_last_call(steps):
    """With few steps, some rows reveal a site in the last one; with many, most have nothing left to do in it."""
    last: dict[str, Tensor] = {}
    network, process, batch = Neighbourly(4), {"x": Masked(4)}, template(40, 9, 4)
    batch = batch.replace(free={"x": batch.free["x"] & (torch.arange(9) != 2)})
    Sampler(Grid(steps))(network, process, batch, lambda i, x, pred: last.update(pred))
    expected = torch.where(batch.free["x"], last["x"].argmax(-1), batch.clean["x"])  # (B, L)
    made = Unmasking(Grid(steps), result="prediction")(network, process, batch)["x"]
    assert torch.equal(made, expected)
    assert not torch.equal(made, Unmasking(Grid(steps))(network, process, batch)["x"])


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
def test_prediction_ties_what_is_tied(order):
    tie = torch.tensor([[0, 1, 2, 0, 1, 2, -1, -1]]).expand(32, -1)  # (B, L)
    batch = template(32, 8, 4, **{"x.tie": tie})
    batch.clean["x"][:, 4] = 2
    batch = batch.replace(free={"x": batch.free["x"] & (torch.arange(8) != 4)})  # site 4 is given, hence site 1 too
    made = Unmasking(Grid(10), order=order, result="prediction")(Neighbourly(4), {"x": Masked(4)}, batch)["x"]
    assert torch.equal(made[:, :3], made[:, 3:6]) and (made[:, 1] == 2).all()


def test_conditions_are_prepared_once_and_guidance_agrees_with_the_plain_loop():
    cond = {"shift": torch.linspace(-1, 1, 12)}
    for guide, prepared in ((None, 1), (Guidance(2.0), 2), (Guidance(2.0, weak=Neighbourly(4, seed=9)), 1)):
        network = Neighbourly(4)
        events = Unmasking(Grid(25), guide=guide)(network, {"x": Masked(4)}, template(12, 6, 4, **cond))["x"]
        assert network.prepared == prepared
        plain = Sampler(Grid(25), guide=guide)(network, {"x": Masked(4)}, template(12, 6, 4, **cond))["x"]
        assert torch.equal(events, plain)


class Curt(Neighbourly):
    """Answers where it is asked, with nothing elsewhere; remembers how many sites that were."""

    def __call__(self, noisy: State, t: State, cond: State, mask: State, prev: Any = None, taps: Any = ()) -> Output:
        logits = super().__call__(noisy, t, cond, mask).pred["x"]  # (B, L, K)
        asked = cond.get("x.asked", mask["x"])  # (B, L)
        self.asked = [*getattr(self, "asked", []), int(asked.sum())]
        return Output({"x": torch.where(asked[..., None], logits, 0)}, {})


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
@pytest.mark.parametrize("result", ["state", "prediction"])
def test_a_network_may_answer_where_it_is_asked_alone(order, result):
    tie = torch.tensor([[0, 1, 2, 0, 1, 2, -1, -1]]).expand(5, -1)  # (B, L)
    batch = template(5, 8, 4, **{"x.tie": tie, "shift": torch.linspace(-1, 1, 5)})
    for guide in (None, Guidance(2.0), Guidance(2.0, weak=Curt(4, seed=9))):
        sampler = Unmasking(Grid(20), order=order, result=result, guide=guide, per_call=2)
        curt = Curt(4)
        made, whole = (sampler(network, {"x": Masked(4)}, batch) for network in (curt, Neighbourly(4)))
        assert all(torch.equal(made[name], whole[name]) for name in ("x", "x.confidence"))
        if (order, result, guide) == ("grid", "state", None):
            assert sum(curt.asked) == 5 * 8  # each site once


def test_a_network_with_time_is_told_the_share_that_shows():
    class Timed(Neighbourly):
        timeless = False
        told: list[float]

        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            self.told = [*getattr(self, "told", []), float(t["x"][0])]
            return super().__call__(noisy, t, cond, mask)

    network = Timed(4)
    with pytest.raises(MultigenError, match="order=grid needs a network that is told no time"):
        Unmasking()(network, {"x": Masked(4)}, template(2, 4, 4))
    Unmasking(order="random")(network, {"x": Masked(4)}, template(2, 4, 4))
    assert network.told == [0, 0.25, 0.5, 0.75]
    with pytest.raises(MultigenError, match="which is the time on the linear path"):
        Unmasking(order="random")(network, {"x": Masked(4, Trigonometric())}, template(2, 4, 4))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Unmasking(order="left"), "order is 'left'; choices are grid, random, confidence"),
        (lambda: Unmasking(per_call=0), "per_call is at least 1"),
        (lambda: Unmasking(temperature=-1), "must not be negative"),
        (lambda: Unmasking(result="best"), "choices are state, prediction"),
        (lambda: Unmasking(Grid(10, start=0.5)), "must lead from t = 0 to t = 1"),
        (lambda: Unmasking()(Neighbourly(4), {"x": Uniform(4)}, template(1, 2, 4)), "makes one Masked component"),
    ],
    ids=["order", "per_call", "temperature", "result", "grid", "process"],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()
