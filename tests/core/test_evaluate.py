"""Validation losses and evaluations are functions of the weights and the seed, whatever the batches and interruptions."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy_numbers import Data, Network, Numbers, Sampler

from multigen import describe, distributed
from multigen.buckets import ranges
from multigen.diffusion import Diffusion
from multigen.evaluate import evaluate, evaluating, real_samples, sample_batches, validation_loss
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian
from multigen.state import MultigenError


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


class Together(Mean):
    """The same, fed by several processes with a part each."""

    def __init__(self):
        super().__init__()
        self.taken = 0

    def update(self, samples, template):
        super().update(samples, template)
        self.taken = len(self.values)

    def compute(self):
        return {f"together_{name}": value for name, value in super().compute().items()}

    def join(self):
        self.values = distributed.gather(self.values)


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
    assert diffusion.training and not any(diffusion.denoiser._modes)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in diffusion.parameters())


def test_validation_loss_repeats_limit_and_seed(diffusion):
    few = validation_loss(diffusion, Data(), Numbers(), limit=4)
    assert few.draws == 4
    assert few == validation_loss(diffusion, Data(), Numbers(), limit=4)
    assert few != validation_loss(diffusion, Data(), Numbers(), limit=4, seed=1)
    twice = validation_loss(diffusion, Data(), Numbers(), limit=4, repeats=2)
    assert twice.draws == 8 and twice.total != few.total
    assert validation_loss(diffusion, Data(), Numbers(), limit=100) == validation_loss(diffusion, Data(), Numbers())


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
    assert result["checkpoint"] == {"step": 7} and result["parameters"] == 1
    assert result["held_out"]["count"] == 10 and result["held_out"]["fingerprint"] == "numbers"
    assert result["about_metrics"]["mean"]["meaning"] == {"mean": "mean of all numbers"}
    assert result["versions"].keys() >= {"multigen", "torch", "python", "device"}
    assert list(result["grids"]) == ["The first 10 samples, none left out", "Real data, held out"]
    assert list(result["pictures"]) == ["The mean"]
    assert all((tmp_path / path).is_file() for path in [*result["grids"].values(), *result["pictures"].values()])


def _of_two(rank, folder):
    """One of two processes that evaluate together."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    made = Diffusion(Network(), {"x": Gaussian("velocity")}, Objective({"denoise": Denoising()}))
    loss = validation_loss(made, Data(), Numbers(), batch_size=3)
    sampler, together = Sampler(), Together()
    result = _evaluate(folder, sampler=sampler, metrics={"mean": Mean(), "together": together})
    (folder / f"rank{rank}.json").write_text(json.dumps([loss.total, result, sampler._calls, together.taken]))
    dist.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path):
    torch.multiprocessing.spawn(_of_two, (tmp_path,), nprocs=2)
    found = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    (loss, result, drawn, taken), (other, nothing, more, rest) = found
    made = Diffusion(Network(), {"x": Gaussian("velocity")}, Objective({"denoise": Denoising()}))
    assert loss == validation_loss(made, Data(), Numbers(), batch_size=3).total
    alone = _evaluate(tmp_path / "alone", metrics={"mean": Mean(), "together": Together()})
    assert result["metrics"] == alone["metrics"] and result["samples"]["valid"] == alone["samples"]["valid"]
    assert taken + rest == alone["samples"]["valid"] and taken and rest  # each process fed what can be joined
    assert other != other and nothing == {}  # nan: the first process alone has the numbers
    assert drawn + more == 3 and drawn and more  # each batch was drawn once


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


def test_evaluating_restores_every_module_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(ZeroDivisionError), evaluating(module):
        assert not module.training and not module[0].training and not torch.is_grad_enabled()
        _ = 1 / 0
    assert module.training and module[0].training and not module[1].training and torch.is_grad_enabled()
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
