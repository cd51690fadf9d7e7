"""The training step: what is dropped, what is conditioned, and on what a loss may depend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multigen.alignment import Alignment
from multigen.denoiser import Output, check_taps
from multigen.diffusion import Diffusion
from multigen.nn import MLPProjector
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian, Masked
from multigen.random import Noise, keys
from multigen.state import Batch, Features, MultigenError
from multigen.times import Fixed, Independent, LogitNormal, Shared

CLASSES, WIDTH = 4, 8


class Network(nn.Module):
    """Reads points, sites, a label and the previous prediction; remembers what it was called with."""

    self_conditioned = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = nn.Linear(2 + 2 + 1 + 1, WIDTH)
        self.point, self.site = nn.Linear(WIDTH, 2), nn.Linear(WIDTH + 1, CLASSES)
        self.calls: list[dict] = []

    def null(self, cond):
        return {k: torch.full_like(v, -1) for k, v in cond.items()}

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        check_taps(taps, ["hidden"])
        self.calls.append({"noisy": noisy, "t": t, "cond": cond, "prev": prev, "taps": taps, "grad": torch.is_grad_enabled()})
        before = torch.zeros_like(noisy["point"]) if prev is None else prev["point"]
        label = cond.get("label", torch.zeros(len(t["point"])))
        x = torch.cat([noisy["point"], before, label.float()[:, None], t["point"][:, None]], -1)  # (B, 6)
        hidden = torch.tanh(self.read(x))  # (B, WIDTH)
        sites = torch.cat([hidden[:, None].expand(-1, noisy["site"].shape[1], -1), noisy["site"][..., None].float()], -1)
        pred = {"point": self.point(hidden), "site": self.site(sites)}
        return Output(pred, {"hidden": Features(hidden, torch.ones(len(x), dtype=torch.bool))} if "hidden" in taps else {})


def batch(n: int = 8, indices=None) -> Batch:
    noise = Noise(keys(0, range(n) if indices is None else indices))
    ones = torch.ones(len(noise.key), dtype=torch.bool)
    clean = {"point": noise.fold("data").normal([2]), "site": noise.fold("sites").integers(CLASSES, [5])}
    mask = {"point": ones, "site": torch.arange(5).expand(len(ones), 5) < 2 + noise.fold("length").integers(4)[:, None]}
    target = {"z": Features(noise.fold("z").normal([3]), ones)}
    return Batch(clean, mask, mask, noise.key, {"label": noise.fold("label").integers(10)}, target)


def diffusion(**settings) -> Diffusion:
    torch.manual_seed(1)
    terms = {"denoise": Denoising(), "align": Alignment("hidden", "z", MLPProjector(WIDTH, 3, 8), gate="linear")}
    processes = {"point": Gaussian(), "site": Masked(CLASSES)}
    return Diffusion(Network(), processes, Objective(terms), **settings)


def test_one_step_scores_the_corrupted_batch():
    step = diffusion(times=Shared(LogitNormal()))
    data = batch()
    losses = step(data, 0)
    (call,) = step.denoiser.calls
    assert set(call["taps"]) == {"hidden"} and call["prev"] is None and call["grad"]
    noise = Noise(data.key)
    t = Shared(LogitNormal())(["point"], noise)["point"]
    assert torch.equal(call["t"]["point"], t) and torch.equal(call["t"]["site"], t)
    corrupted = step.processes["point"].corrupt(
        data.clean["point"], t, data.free["point"], noise.fold("corrupt").fold("point")
    )
    assert torch.equal(call["noisy"]["point"], corrupted.noisy)
    assert set(losses.parts) == {"denoise", "denoise/point", "denoise/site", "align"}
    assert torch.allclose(losses.total, losses.parts["denoise"] + losses.parts["align"])
    losses.total.backward()
    assert all(p.grad is not None for p in step.parameters())


@pytest.mark.parametrize("name", ["time", "drop", "target", "flip", "corrupt"])
def test_a_component_may_have_any_name(name):
    """Its noise comes from a stream that no name can share with the times, the coins or the targets."""
    data = Batch.dense({name: torch.zeros(2000, 1)}, keys(0, range(2000)))

    class Echo(nn.Module):
        def forward(self, noisy, t, cond, mask, prev=None, taps=()):
            self.seen = noisy[name].flatten() / (1 - t[name]), t[name]
            return Output(noisy, {})

    step = Diffusion(Echo(), {name: Gaussian()}, Objective({"denoise": Denoising()}))
    step(data, 0)
    noise, t = step.denoiser.seen
    for x in (t, torch.sin(6 * t), Noise(data.key).fold(name).normal()):
        assert abs(torch.corrcoef(torch.stack([noise, x]))[0, 1]) < 0.1
    assert abs(torch.corrcoef(torch.stack([noise.abs(), t]))[0, 1]) < 0.1


def test_losses_are_functions_of_batch_and_step():
    step, data = diffusion(), batch()
    once = step(data, 3).total
    torch.manual_seed(123)
    assert torch.equal(step(data, 3).total, once)


def test_a_batch_may_be_split_and_permuted():
    step, data = diffusion(drop=0.5), batch(8)
    whole = step(data, 0)
    halves = [step(data.map(lambda x, i=i: x[4 * i : 4 * i + 4]), 0) for i in (0, 1)]
    order = torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])
    mixed = step(data.map(lambda x: x[order]), 0)
    for name, part in whole.parts.items():
        assert torch.allclose((halves[0].parts[name] + halves[1].parts[name]) / 2, part, atol=1e-6)
        assert torch.allclose(mixed.parts[name], part, atol=1e-6)
    calls = step.denoiser.calls
    assert torch.equal(calls[3]["noisy"]["point"], calls[0]["noisy"]["point"][order])
    assert torch.equal(calls[3]["noisy"]["site"], calls[0]["noisy"]["site"][order])
    assert torch.equal(calls[3]["cond"]["label"], calls[0]["cond"]["label"][order])


def test_padding_changes_no_loss():
    step, data = diffusion(), batch()
    whole = step(data, 0)
    data.clean["site"] = nn.functional.pad(data.clean["site"], (0, 4), value=77)
    for masks in (data.mask, data.free):
        masks["site"] = nn.functional.pad(masks["site"], (0, 4)) if masks["site"].shape[1] == 5 else masks["site"]
    assert all(torch.allclose(v, whole.parts[k], atol=1e-6) for k, v in step(data, 0).parts.items())


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 1.0])
def test_conditions_are_dropped_with_the_given_probability_and_only_in_training(drop):
    """I6: the published code never passed the probability on."""
    step, data = diffusion(drop=drop), batch(4000)
    step(data, 0)
    dropped = step.denoiser.calls[-1]["cond"]["label"] == -1
    assert dropped.double().mean() == pytest.approx(drop, abs=4 * (drop * (1 - drop) / 4000) ** 0.5)
    kept = step.denoiser.calls[-1]["cond"]["label"][~dropped]
    assert torch.equal(kept, data.cond["label"][~dropped])
    step.eval()(data, 0)
    assert torch.equal(step.denoiser.calls[-1]["cond"]["label"], data.cond["label"])


def test_every_condition_of_an_example_is_dropped_at_once():
    step, data = diffusion(drop=0.5), batch(200)
    data.cond["picture"] = torch.ones(200, 3, 2)
    step(data, 0)
    seen = step.denoiser.calls[-1]["cond"]
    gone = seen["label"] == -1
    assert torch.equal(gone, (seen["picture"] == -1).all((1, 2))) and 0 < gone.sum() < 200


def test_self_conditioning_is_given_in_some_steps_without_gradient():
    step, data = diffusion(self_conditioning=0.5), batch(2)
    counts = []
    for i in range(200):
        step.denoiser.calls.clear()
        step(data, i)
        counts.append(len(step.denoiser.calls))
        if len(step.denoiser.calls) == 2:
            first, second = step.denoiser.calls
            assert not first["grad"] and second["grad"] and first["prev"] is None
            assert not second["prev"]["point"].requires_grad and not first["taps"]
    assert 70 < counts.count(2) < 130 and set(counts) == {1, 2}


@pytest.mark.parametrize("probability, calls", [(0.0, 1), (1.0, 2), (0.3, 2)])
def test_self_conditioning_in_evaluation_does_not_depend_on_the_step(probability, calls):
    step = diffusion(self_conditioning=probability).eval()
    for i in range(5):
        step.denoiser.calls.clear()
        step(batch(2), i)
        assert len(step.denoiser.calls) == calls


def test_components_may_have_times_of_their_own():
    step, data = diffusion(times=Independent({"site": Fixed(1.0)})), batch(64)
    step(data, 0)
    call = step.denoiser.calls[-1]
    assert torch.equal(call["noisy"]["site"], data.clean["site"])
    assert call["t"]["point"].std() > 0.2 and (call["t"]["site"] == 1).all()


def test_frozen_sites_reach_the_network_clean():
    step, data = diffusion(), batch()
    some = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    data = data.replace(free={**data.free, "site": data.mask["site"] & some})
    step(data, 0)
    seen = step.denoiser.calls[-1]["noisy"]["site"]
    assert torch.equal(seen[~data.free["site"]], data.clean["site"][~data.free["site"]])


def bad(**changes) -> Batch:
    data = batch()
    return data.replace(**{k: {**getattr(data, k), **v} for k, v in changes.items()})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: diffusion(drop=1.5), "drop is a probability, got 1.5"),
        (lambda: diffusion(self_conditioning=-1), "self_conditioning is a probability"),
        (lambda: Diffusion(nn.Linear(1, 1), {}, Objective({}), drop=0.1), "Linear has no `null`"),
        (lambda: diffusion()(batch().replace(clean={"point": batch().clean["point"]}), 0), r"lacks component \['site'\]"),
        (
            lambda: diffusion()(bad(mask={"site": torch.ones(8, 4, dtype=torch.bool)}), 0),
            r"mask of component 'site' .* \(8, 5\), got bool \(8, 4\)",
        ),
        (lambda: diffusion()(bad(free={"site": torch.ones(8, 5)}), 0), "free of component 'site' must be Bool"),
        (lambda: diffusion()(batch().replace(free={"site": batch().free["site"]}), 0), "free of component 'point' is absent"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()


def test_noise_that_was_paired_with_the_data_is_mixed_in():
    step, data = diffusion(times=Shared(Fixed(0.25))), batch()
    paired = data.replace(prior={"point": torch.full((8, 2), 3.0), "site": torch.full((8, 5), 1)})
    step(paired, 0)
    noisy = step.denoiser.calls[0]["noisy"]
    torch.testing.assert_close(noisy["point"], 0.25 * data.clean["point"] + 0.75 * 3.0)
    kept = (noisy["site"] == data.clean["site"]) | (noisy["site"] == 1)
    assert kept[data.mask["site"]].all() and (noisy["site"] == 1).any()
