"""Validation losses and evaluations are functions of the weights and the seed, whatever the batches and interruptions."""

import json
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from torch import nn

from multigen import describe
from multigen.denoiser import Output
from multigen.diffusion import Diffusion
from multigen.evaluate import evaluate, evaluating, ranges, real_samples, sample_batches, validation_loss
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian
from multigen.random import Noise, keys
from multigen.state import Batch, MultigenError


class Data:
    fingerprint = "numbers"

    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"x": torch.tensor([index / 10, 1.0])}


class Numbers:
    """A modality of pairs of numbers."""

    encoders = MappingProxyType({})

    def collate(self, examples, keys):
        return self._batch(torch.stack([e["x"] for e in examples]), torch.tensor(keys))

    def encode(self, batch):
        return batch

    def template(self, index, seed):
        return self._batch(torch.zeros(len(index), 2), keys(seed, index, "sample"))

    def decode(self, state, template):
        return [x if x[0] > -2 else None for x in state["x"]]

    def save(self, samples, folder):
        raise AssertionError("not asked for")

    def draw(self, samples, path):
        path.write_text(" ".join("-" if s is None else f"{s[0]:.3f}" for s in samples))
        return path

    def _batch(self, x, key):
        real = torch.ones(len(x), dtype=torch.bool)
        return Batch({"x": x}, {"x": real}, {"x": real}, key, {"label": torch.zeros(len(x), dtype=torch.long)})


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.modes = []

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        self.modes.append(self.training)
        return Output({"x": self.scale * noisy["x"] + cond["label"][:, None]}, {})

    def null(self, cond):
        return {"label": torch.full_like(cond["label"], 1000)}


class Sampler:
    """One step from noise; counts its calls, and can be told to stop working."""

    def __init__(self, gain=1.0, fail_at=None):
        self.gain = gain
        self._calls, self._fail_at = 0, fail_at

    def __call__(self, denoiser, processes, template):
        self._calls += 1
        if self._calls == self._fail_at:
            raise KeyboardInterrupt
        noise = {"x": Noise(template.key).normal([2])}
        return {"x": self.gain * denoiser(noise, {}, template.cond, template.mask).pred["x"]}


class Mean:
    """A metric that also explains itself."""

    def __init__(self):
        self.values = []

    def update(self, samples, template):
        assert len(samples) == len(template)
        self.values += [s for s in samples if s is not None]

    def compute(self):
        return {"mean": float(torch.stack(self.values).mean()), "mean_real": 1.0}

    def about(self):
        return {"meaning": {"mean": "mean of all numbers"}}

    def pictures(self, folder):
        (folder / "mean.png").write_bytes(b"")
        return {"The mean": folder / "mean.png"}


@pytest.fixture
def diffusion():
    return Diffusion(Network(), {"x": Gaussian("velocity")}, Objective({"denoise": Denoising()}, {"denoise": 0.5}), drop=1.0)


def test_validation_loss_does_not_depend_on_batches_and_is_repeatable(diffusion):
    losses = [validation_loss(diffusion, Data(), Numbers(), batch_size=b, repeats=3) for b in (1, 7, 64)]
    assert losses[0].draws == 30
    for other in losses[1:]:
        assert other.total == pytest.approx(losses[0].total, rel=1e-6)
        assert other.parts == pytest.approx(losses[0].parts, rel=1e-6)
    assert losses[0] == validation_loss(diffusion, Data(), Numbers(), batch_size=1, repeats=3)
    assert losses[0].parts.keys() == {"denoise/x"}
    assert losses[0].total == pytest.approx(0.5 * losses[0].parts["denoise/x"])


def test_validation_loss_drops_no_condition_and_leaves_no_trace(diffusion):
    diffusion.train()
    state = torch.get_rng_state()
    loss = validation_loss(diffusion, Data(), Numbers())
    assert loss.total < 100  # a dropped label would add 1000
    assert diffusion.training and not any(diffusion.denoiser.modes)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in diffusion.parameters())


def test_validation_loss_repeats_limit_and_seed(diffusion):
    few = validation_loss(diffusion, Data(10), Numbers(), limit=4)
    assert few == validation_loss(diffusion, Data(4), Numbers())
    assert few != validation_loss(diffusion, Data(4), Numbers(), seed=1)
    assert few != validation_loss(diffusion, Data(4), Numbers(), repeats=2)


@pytest.mark.parametrize("bad", [{"limit": 0}, {"repeats": 0}])
def test_validation_loss_of_nothing(diffusion, bad):
    with pytest.raises(MultigenError, match="examples and repeats"):
        validation_loss(diffusion, Data(), Numbers(), **bad)


def _samples(batch_size, n=10, **options):
    batches = options.pop("batches", ranges(n, batch_size))
    return [s for batch, _ in sample_batches(Sampler(), Network(), {}, Numbers(), batches, **options) for s in batch]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_sample_i_is_the_same_whatever_the_batch_size(batch_size):
    reference = _samples(10)
    assert len(reference) == 10
    for ours, theirs in zip(_samples(batch_size), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_any_part_of_the_samples_can_be_drawn_alone():
    part = _samples(2, batches=ranges(10, 2)[1:3])
    assert torch.equal(torch.stack(part), torch.stack(_samples(10))[2:6])


def test_interrupted_drawing_goes_on_where_it_was(tmp_path):
    def draw(sampler, **changes):
        settings = {"folder": tmp_path, "seed": 0, **changes}
        return [s for batch, _ in sample_batches(sampler, Network(), {}, Numbers(), ranges(12, 4), **settings) for s in batch]

    with pytest.raises(KeyboardInterrupt):
        draw(Sampler(fail_at=3))
    assert len(list(tmp_path.iterdir())) == 2
    again, fresh = Sampler(), Sampler()
    samples = draw(again)
    assert again._calls == 1
    assert torch.equal(torch.stack(samples), torch.stack(draw(fresh, folder=None)))
    assert fresh._calls == 3
    # what was made by other settings, or is damaged, is drawn again
    for other, seed in ((Sampler(gain=2.0), 0), (Sampler(), 1)):
        draw(other, seed=seed)
        assert other._calls == 3
    sorted(tmp_path.iterdir())[0].write_bytes(b"half a file")
    mended = Sampler()
    draw(mended, seed=1)
    assert mended._calls == 1


def _evaluate(folder, **changes):
    settings = {"n": 10, "batch_size": 4, "held_out": Data(), "about": {"checkpoint": {"step": 7}}, **changes}
    metrics = settings.pop("metrics", {"mean": Mean()})
    sampler = settings.pop("sampler", Sampler())
    return evaluate(sampler, Network(), {"x": Gaussian("velocity")}, Numbers(), metrics, folder, **settings)


def test_evaluation_names_all_that_made_its_numbers(tmp_path):
    result = _evaluate(tmp_path)
    assert result == json.loads((tmp_path / "evaluation.json").read_text())
    assert result["metrics"].keys() == {"mean", "mean_real"}
    assert result["samples"]["count"] == 10 and result["samples"]["seed"] == 0
    assert result["samples"]["sampler"]["gain"] == 1.0
    assert result["checkpoint"] == {"step": 7}
    assert result["held_out"]["count"] == 10 and result["held_out"]["fingerprint"] == "numbers"
    assert result["about_metrics"]["mean"]["meaning"] == {"mean": "mean of all numbers"}
    assert result["versions"].keys() >= {"multigen", "torch", "python", "device"}
    assert list(result["pictures"]) == ["Samples", "Real, held out", "The mean"]
    assert all((tmp_path / path).is_file() for path in result["pictures"].values())


def test_evaluation_counts_what_decoded(tmp_path):
    result = _evaluate(tmp_path, sampler=Sampler(gain=20.0))
    drawn = (tmp_path / "evaluation/samples.png").read_text().split()
    assert 0 < drawn.count("-") == 10 - result["samples"]["valid"]


def test_evaluation_again_draws_nothing_and_says_the_same(tmp_path):
    first = _evaluate(tmp_path)
    second = Sampler()
    assert _evaluate(tmp_path, sampler=second) == first
    assert second._calls == 0


def test_two_metrics_may_not_compute_the_same_measure(tmp_path):
    with pytest.raises(MultigenError, match="'b' computes"):
        _evaluate(tmp_path, metrics={"a": Mean(), "b": Mean()})
    with pytest.raises(MultigenError, match="at least 1 sample"):
        _evaluate(tmp_path, n=0)


def test_real_samples():
    assert [float(s[0]) for s in real_samples(Numbers(), Data(), [3, 5])] == pytest.approx([0.3, 0.5])


def test_evaluating_restores_the_mode_after_an_error():
    module = nn.Dropout()
    with pytest.raises(ZeroDivisionError), evaluating(module):
        assert not module.training and not torch.is_grad_enabled()
        _ = 1 / 0
    assert module.training and torch.is_grad_enabled()
    with evaluating(SimpleNamespace()):  # a plain function or object denoises too
        assert not torch.is_grad_enabled()


def test_digest_sees_weights_and_settings_and_nothing_else():
    def network(p=0.1, value=1.0):
        module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(p))
        nn.init.constant_(module[0].weight, value)
        nn.init.zeros_(module[0].bias)
        return module

    same = describe.digest(network())
    assert describe.digest(network().eval()) == same
    assert describe.digest(network(p=0.2)) != same
    assert describe.digest(network(value=2.0)) != same
    assert describe.digest(Gaussian("velocity")) != describe.digest(Gaussian("clean"))
    assert describe.digest(torch.float64) != describe.digest(torch.float32)
    assert describe.digest(torch.tensor([True]), torch.tensor(1.0, dtype=torch.bfloat16)) == describe.digest(
        torch.tensor([True]), torch.tensor(1.0, dtype=torch.bfloat16)
    )
