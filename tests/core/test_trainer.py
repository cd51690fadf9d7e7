"""The training loop: its arithmetic, what it logs, what it refuses."""

from __future__ import annotations

import os
import resource
import signal
import sys
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_toys import Net, PointModality, Points, broken, diffusion, trainer

from multigen import checkpoint, distributed
from multigen.alignment import Alignment
from multigen.curriculum import Ramp
from multigen.files import read_json, write_json
from multigen.objective import Denoising, Losses, Objective
from multigen.random import hash64, keys
from multigen.state import MultigenError
from multigen.trainer import Diverged, Interrupted, Trainer, speed
from multigen.trainer.meter import Meter
from multigen.trainer.progress import Progress
from multigen.trainer.speed import counting, peak_flops, training_flops


def weights(done: Trainer) -> torch.Tensor:
    """All weights, averages included, as one vector."""
    modules = [done.diffusion, *(average.module for average in done.averages)]
    return torch.cat([x.detach().flatten().double() for module in modules for x in module.state_dict().values()])


def fitted(folder: Path, **settings: Any) -> Trainer:
    made = trainer(folder, **settings)
    made.fit()
    return made


def test_a_step_is_forward_backward_clip_update_average(tmp_path: Path) -> None:
    """Against the same written out by hand."""
    done = fitted(tmp_path, steps=3, clip=0.5, ema=(0.9,), schedule=lambda step: 1 / (1 + step))
    model, data = diffusion().train(), Points()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    average = [p.detach().clone() for p in model.denoiser.parameters()]
    order = torch.cat([batch.clean["point"] for step in done.loader.steps(0, 3) for batch in step])
    index = [int((data.points == p).all(-1).nonzero()) for p in order]
    for step in range(3):
        here = slice(8 * step, 8 * step + 8)
        batch = PointModality().collate([data[i] for i in index[here]], keys(0, range(24), "train")[here].tolist())
        torch.manual_seed(hash64(0, "step", step, 0))
        model(batch, step).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (step + 1) / (step + 10))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, model.denoiser.parameters(), strict=True)]
    for ours, theirs in zip(done.diffusion.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(done.averages[0].module.parameters(), average, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_weight_of_zero_trains_the_denoiser_as_no_term_does(tmp_path: Path) -> None:
    """To the bit: what a probe learns enters neither the loss, nor the norm of the gradient, nor how it is clipped."""
    probed, bare = diffusion(), diffusion()
    terms = {**probed.objective.terms, "loud": Alignment("hidden", "features", torch.nn.Linear(8, 3), similarity="l2")}
    probed.objective = Objective(terms, {"align": 0.0, "loud": Ramp(start=100)})
    bare.objective = Objective({"denoise": Denoising()})
    first, second = (fitted(tmp_path / str(i), model=m, clip=0.01, log_every=1) for i, m in enumerate((probed, bare)))
    ours, theirs = (made.diffusion.denoiser.state_dict() for made in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("loss", "loss/denoise/point", "gradient_norm"):
        assert [e[name] for e in first.run.history()] == [e[name] for e in second.run.history()]
    learned = [e["loss/loud"] for e in first.run.history()]
    assert learned[-1] < learned[0]


def test_a_probe_whose_gradient_is_not_finite_makes_a_step_bad(tmp_path: Path) -> None:
    model = diffusion()
    model.objective = Objective(model.objective.terms, {"align": 0.0})
    made = trainer(tmp_path, model=model)
    before = [p.detach().clone() for p in made.parameters]
    made.diffusion.objective.trained["align"].projector.weight.register_hook(lambda g: g * torch.inf)
    made.train_step(next(made.loader.steps(0, 1)))
    assert made.meter.bad == 1 and all(torch.equal(a, b) for a, b in zip(made.parameters, before, strict=True))


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    plain = partial(diffusion, dropout=0.0, statistics=False)
    one = fitted(tmp_path / "1", model=plain())
    four = fitted(tmp_path / "4", model=plain(), accumulate=4)
    assert torch.allclose(weights(one), weights(four), atol=1e-5)
    ours, theirs = one.run.history(), four.run.history()
    assert [e["loss"] for e in ours] == pytest.approx([e["loss"] for e in theirs], rel=1e-4)


def test_the_logged_loss_is_the_mean_since_the_last_line(tmp_path: Path) -> None:
    fine = fitted(tmp_path / "1", log_every=1).run.history()
    coarse = fitted(tmp_path / "5", log_every=5).run.history()
    assert [e["step"] for e in coarse] == [5, 10, 12]
    for key in ("loss", "loss/denoise/point", "loss/align", "gradient_norm"):
        values = [e[key] for e in fine]
        means = [sum(values[a:b]) / (b - a) for a, b in ((0, 5), (5, 10), (10, 12))]
        assert [e[key] for e in coarse] == pytest.approx(means, rel=1e-5)
    assert all(e["examples_per_second"] > 0 and 0 < e["peak_share"] < 1 for e in coarse)


def test_batches_by_tokens_are_resumed_to_the_bit(tmp_path: Path) -> None:
    settings = {"batch_size": None, "batch_tokens": 12, "accumulate": 2}
    whole = trainer(tmp_path / "whole", model=diffusion(statistics=False), **settings)
    whole.fit()
    for steps in (3, 7, 12):
        parts = trainer(tmp_path / "parts", model=diffusion(statistics=False), **settings, steps=steps)
        parts.fit()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, parts.parameters, strict=True))
    assert "padding_share" in whole.run.history()[0]
    for other, words in (({"batch_tokens": 10}, "batch_tokens 12"), ({"accumulate": 1}, "processes x accumulate 2")):
        with pytest.raises(MultigenError, match=f"was trained with {words}, and now it is {next(iter(other.values()))}"):
            trainer(tmp_path / "parts", model=diffusion(statistics=False), **{**settings, **other}, steps=15).fit()
    with pytest.raises(MultigenError, match=r"give one of .*batch_pairs; got batch_size=8, batch_tokens=12"):
        trainer(tmp_path / "both", batch_tokens=12)


def test_checkpoints_that_do_not_tell_how_many_batches_a_step_took_are_gone_on_with(tmp_path: Path) -> None:
    settings = {"batch_size": None, "batch_tokens": 12, "accumulate": 2, "checkpoint_every": 3}
    fitted(tmp_path, model=diffusion(statistics=False), steps=3, **settings)
    path = tmp_path / "checkpoints/step_00000003/state.json"
    state = read_json(path)
    del state["order"]["processes x accumulate"]
    write_json(path, state)
    assert fitted(tmp_path, model=diffusion(statistics=False), steps=6, **settings).step == 6


def test_batch_size_must_be_divisible(tmp_path: Path) -> None:
    with pytest.raises(MultigenError, match="multiple of 3"):
        trainer(tmp_path, accumulate=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "quantum"}, "'quantum'.*'auto'"),
        ({"precision": "fp8"}, "'fp8'.*'bf16'"),
        ({"precision": "fp16"}, "fp16.*CPU"),
        ({"steps": 0}, r"^steps is at least 1, got 0"),
        ({"workers": -1}, r"^workers is at least 0, got -1"),
        ({"observers": [SimpleNamespace(every=0)]}, r"SimpleNamespace\.every is at least 1, got 0"),
        ({"ema": (1.5,)}, r"1\.5"),
        ({"keep_every": 7}, r"^keep_every is a multiple of checkpoint_every, which is 5, got 7"),
        ({"keep_every": 0}, r"^keep_every is a multiple of checkpoint_every, which is 5, got 0"),
        ({"clip": -1.0}, r"^clip is above 0, got -1\.0; null switches it off"),
        ({"clip": 0.0}, r"^clip is above 0, got 0\.0"),
        ({"log_to": ("tensorbord",)}, "did you mean 'tensorboard'"),
        ({"log_to": ("wandb",)}, "pip install wandb"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    if "wandb" in str(settings) and find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(MultigenError, match=words):
        fitted(tmp_path, **settings)


def test_bfloat16_trains_nearly_as_float32_does(tmp_path: Path) -> None:
    plain = partial(diffusion, dropout=0.0, statistics=False)
    single = fitted(tmp_path / "no", model=plain())
    half = fitted(tmp_path / "bf16", model=plain(), precision="bf16")
    assert all(p.dtype == torch.float32 for p in half.diffusion.parameters())
    assert not torch.equal(weights(single), weights(half))
    assert torch.allclose(weights(single), weights(half), atol=0.05)


@pytest.mark.parametrize(
    ("has", "times", "expected"), [(True, 2.0, "bf16"), (True, 0.6, "no"), (True, 1.1, "no"), (False, 2.0, "no")]
)
def test_auto_is_bfloat16_where_the_processor_is_fast_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool, times: float, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(distributed, "product_flops", lambda device, dtype: times if dtype == torch.bfloat16 else 1.0)
    distributed._fast_in_bfloat16.cache_clear()
    made = fitted(tmp_path, precision="auto", device="cpu")
    distributed._fast_in_bfloat16.cache_clear()
    assert made.precision == expected
    assert read_json(made.run.folder / "versions.json")["precision"] == expected


def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tmp_path, steps=2, precision="no")
    fitted(tmp_path, steps=3, precision="no")
    fitted(tmp_path, steps=3, precision="bf16")  # nothing is left to train
    assert "precision" not in caplog.text
    fitted(tmp_path, steps=4, precision="no")
    assert f"{tmp_path} was trained with precision bf16 and goes on with no" in caplog.text
    for damaged in ("", "[]"):
        (tmp_path / "versions.json").write_text(damaged)
        assert fitted(tmp_path, steps=5, precision="no").step == 5


# ------------------------------------------------------------------------------------------------- losses that are not finite


def test_a_bad_step_changes_no_weights_and_is_counted(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    states: list[Any] = []

    class Watch:
        every = 1

        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            seen.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
            states.append(trainer.optimizer.state_dict()["state"][0]["step"].item())
            return {}

    done = fitted(tmp_path, model=diffusion(more={"odd": broken([5, 6])}), observers=[Watch()])
    same = [torch.equal(a, b) for a, b in pairwise(seen)]
    assert [step + 1 for step, equal in enumerate(same) if equal] == [5, 6]
    assert states == [1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10]
    assert weights(done).isfinite().all() and done.meter.bad == 2
    assert all(e["loss"] is not None for e in done.run.history())


def test_too_many_bad_losses_stop_the_run_and_name_step_term_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Diverged) as raised:
        fitted(tmp_path, model=diffusion(more={"odd": broken([2, 6, 8, 9])}), max_bad_losses=3)
    assert "3 steps, last in step 9 (term odd)" in str(raised.value) and "step_00000005" in str(raised.value)
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 5
    assert all(x.isfinite().all() for name in found.names if "." not in name for x in found.tensors(name).values())


def test_the_count_of_bad_losses_survives_an_interruption(tmp_path: Path) -> None:
    def more() -> dict[str, Any]:
        return {"odd": broken([2, 6, 8])}

    fitted(tmp_path, model=diffusion(more=more()), max_bad_losses=3, steps=7)
    with pytest.raises(Diverged, match="3 steps, last in step 9"):
        fitted(tmp_path, model=diffusion(more=more()), max_bad_losses=3)


def test_weights_that_overflowed_are_not_saved(tmp_path: Path) -> None:
    class Poison:
        every = 7

        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            with torch.no_grad():
                trainer.diffusion.denoiser.first.weight[0, 0] = float("inf")
            return {}

    with pytest.raises(Diverged, match=r"^denoiser\.first\.weight is not finite after step 7; there is no checkpoint yet"):
        fitted(tmp_path, observers=[Poison()], checkpoint_every=7, max_bad_losses=100)
    assert not checkpoint.paths(tmp_path / "checkpoints")


def test_a_run_that_logged_other_parts_goes_on() -> None:
    """As one whose checkpoint was written before sums of parts were logged."""
    meter = Meter(torch.device("cpu"), 1, torch.clone)
    meter.load(
        {"bad": 2, "last": 5, "names": ["loss", "loss/a"], "sums": [8.0, 8.0, 8.0], "counts": [1.0, 1.0, 1.0]}, main=True
    )
    one = torch.ones(())  # ()
    meter.add(Losses(one, {"whole": one, "a": one}, 0 * one))
    meter.close(one, 7)
    assert meter.read() == {"loss": 1, "loss/whole": 1, "loss/a": 1, "gradient_norm": 1} and meter.bad == 2
    with pytest.raises(MultigenError, match="parts may not change"):
        meter.add(Losses(one, {"a": one}, 0 * one))


def test_a_term_whose_parts_change_is_named(tmp_path: Path) -> None:
    class Changing:
        taps: frozenset[str] = frozenset()

        def __call__(self, ctx: Any) -> dict[str, torch.Tensor]:
            self.count = getattr(self, "count", 0) + 1
            return {f"part{self.count}": ctx.output.pred["point"].square().sum(-1)}

    with pytest.raises(MultigenError, match=r"parts may not change.*'loss/odd/part1'\] and are .*'loss/odd/part2'\]$"):
        fitted(tmp_path, model=diffusion(more={"odd": Changing()}))


# -------------------------------------------------------------------------------------------------------------------- going on


def test_observers_do_not_change_what_is_learned(tmp_path: Path) -> None:
    class Noisy:
        every = 2

        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            torch.manual_seed(step)
            trainer.diffusion.eval()
            with trainer.averaged() as averaged, torch.no_grad():
                assert averaged.denoiser is trainer.averages[0].module
                assert averaged.denoiser is not trained
            return {"valid/loss": torch.rand(()).item()}

    alone = fitted(tmp_path / "alone")
    made = trainer(tmp_path / "watched", observers=[Noisy()])
    trained = made.diffusion.denoiser
    made.fit()
    assert made.diffusion.denoiser is trained
    assert torch.equal(weights(alone), weights(made))
    assert [e["step"] for e in made.run.history() if "valid/loss" in e] == [2, 4, 6, 8, 10, 12]


def interrupt_at(step: int, number: int = signal.SIGTERM) -> Any:
    class Interrupt:
        every = 1

        def __call__(self, trainer: Trainer, now: int) -> dict[str, float]:
            if now == step:
                os.kill(os.getpid(), number)
            return {}

    return Interrupt()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"{number.name} after step 7 of 12.*resume={tmp_path}") as raised:
        fitted(tmp_path, observers=[interrupt_at(7, number)])
    assert raised.value.code == 128 + number and signal.getsignal(number) == before
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 7


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    class Twice:
        every = 3

        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return {}

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, observers=[Twice()])
    assert not checkpoint.paths(tmp_path / "checkpoints")


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", config={"trainer": {"steps": 12}})
    parts = tmp_path / "parts"
    fitted(parts, steps=6, config={"trainer": {"steps": 6}})
    again = fitted(parts, steps=6, config={"trainer": {"steps": 6}})
    assert again.step == 6
    longer = fitted(parts, config={"trainer": {"steps": 12}})
    assert torch.equal(weights(whole), weights(longer))


def test_checkpoints_are_kept_and_weights_averaged_as_it_is_set(tmp_path: Path) -> None:
    made = fitted(tmp_path, checkpoint_every=2, keep=1, keep_every=6, steps=10, ema=(0.9,), ema_warmup=False)
    assert [int(p.name[-2:]) for p in checkpoint.paths(tmp_path / "checkpoints")] == [6, 10]
    assert [average.warmup for average in made.averages] == [False] and made.averages[0].name == "ema_0.9"


def test_a_damaged_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    whole = fitted(tmp_path)
    path = checkpoint.paths(tmp_path / "checkpoints")[-1] / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    again = fitted(tmp_path)
    assert torch.equal(weights(whole), weights(again))
    assert checkpoint.read(path.parent).step == 12


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": {"optimizer": {"lr": 2.0}}}, r"another configuration: optimizer\.lr was 1\.0 and is 2\.0"),
        ({"batch_size": 4}, "batch_size 8, and now it is 4"),
        ({"seed": 3}, "seed 0, and now it is 3"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    config = {"optimizer": {"lr": 1.0}}
    fitted(tmp_path, steps=2, config=config)
    with pytest.raises(MultigenError, match=words):
        fitted(tmp_path, **{"config": config, **settings})


def test_another_network_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path, steps=2)
    with pytest.raises(MultigenError, match=r"model\.safetensors belongs to another network.*norm"):
        fitted(tmp_path, model=diffusion(statistics=False))


def test_a_full_disk_stops_training_with_one_line_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Full:
        every = 7

        def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
            return {}

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(MultigenError, match=r"write .*/step_00000010/model\.safetensors: File too large$") as raised:
            fitted(tmp_path, observers=[Full()], log_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(raised.value)
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 5


# ---------------------------------------------------------------------------------------------------------------- side lines


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = fitted(tmp_path, log_to=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [4, 8, 12]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e["loss"] for e in done.run.history()])


def test_wandb_gets_the_numbers_under_the_name_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in: the package is no dependency."""
    (tmp_path / "wandb.py").write_text(
        "calls = []\n"
        "def init(**settings): calls.append(settings); return Run()\n"
        "class Run:\n"
        "    def log(self, values, step): calls.append((step, values['loss']))\n"
        "    def finish(self): calls.append('finished')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    done = fitted(tmp_path / "a run", log_to=("wandb",))
    began, *logged, ended = sys.modules["wandb"].calls
    assert began["name"] == began["id"] == "a run" and began["resume"] == "allow" and ended == "finished"
    assert logged == [(e["step"], e["loss"]) for e in done.run.history()]


def test_fused_attention_is_counted() -> None:
    x = torch.randn(1, 2, 8, 4, requires_grad=True)  # (B, H, T, D)
    with counting() as counter:
        torch.nn.functional.scaled_dot_product_attention(x, x, x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * (2 * 8 * 8 * 4), "two products forward, four backward"


def test_flops_are_those_of_the_matrix_products_and_counting_leaves_no_trace(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    batch = next(made.loader.steps(0, 1))[0]
    before = weights(made)
    counted = training_flops(made.diffusion, batch, 0)
    # forward, gradient of weights and gradient of inputs of 3x8, 8x2 and 8x3; the first layer's input needs no gradient
    assert counted == 2 * (3 * (8 * 2 + 8 * 3) + 2 * 3 * 8)
    probing = training_flops(made.diffusion, batch, 11)  # the gradient of the projector's input is not needed
    assert probing == counted - 2 * 8 * 3
    assert torch.equal(before, weights(made)) and all(p.grad is None for p in made.parameters)
    assert peak_flops(torch.device("cpu")) > 1e9


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA RTX A1000", 7),  # in no table: measured
    ],
)
def test_the_best_of_a_gpu_is_found_by_the_words_of_its_name(monkeypatch: pytest.MonkeyPatch, name: str, tera: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(speed, "product_flops", lambda *given: 7e12)
    assert peak_flops(torch.device("cuda"), "bf16") == tera * 1e12


def test_compiled_training_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's front end only: what it generates is its own business."""
    monkeypatch.setattr(torch.nn.Module, "compile", _compile_eagerly)
    plain = fitted(tmp_path / "plain")
    compiled = fitted(tmp_path / "compiled", compile=True)
    assert compiled.diffusion.denoiser._compiled_call_impl is not None
    assert torch.allclose(weights(plain), weights(compiled), atol=1e-6)
    assert set(plain.diffusion.state_dict()) == set(compiled.diffusion.state_dict())


def _compile_eagerly(module: torch.nn.Module) -> None:
    module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10) as progress:
        for step in range(1, 11):
            progress.advance()
            progress.show(step, {"loss": 0.5, "loss/denoise": 0.25, "examples_per_second": 1234.0, "peak_share": 0.314})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"step {s}/10  loss 0.5  denoise 0.25  1.23e+03 examples/s  31% of peak" for s in (1, 10)]


def test_net_is_a_denoiser() -> None:
    from multigen.denoiser import Denoiser

    assert isinstance(Net(), Denoiser)


# -------------------------------------------------------------------------------------------------------- without waiting


class Reads(TorchDispatchMode):
    """Counts the times that a number is brought from the device to Python."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def fused(folder: Path, skips: bool) -> Trainer:
    """A trainer that treats the CPU as an accelerator which one should not wait for, or not."""
    optimizer = partial(torch.optim.AdamW, lr=1e-2, fused=True)
    made = trainer(folder, model=diffusion(more={"odd": broken([2, 6])}), optimizer=optimizer)
    assert not made.skips
    made.skips = skips
    return made


def test_a_step_on_an_accelerator_reads_nothing_back(tmp_path: Path) -> None:
    made = fused(tmp_path, skips=True)
    for micro_batches in made.loader.steps(0, 12):
        with Reads() as reads:
            made.train_step(micro_batches)
        assert reads.count == 0
    assert made.meter.bad == 2 and made.diffusion.objective.probing(11) == ["align"]


def test_bad_steps_are_skipped_on_the_device_as_they_are_by_reading(tmp_path: Path) -> None:
    ways = [fused(tmp_path / str(skips), skips) for skips in (False, True)]
    for made in ways:
        made.fit()
        assert made.meter.bad == 2
    assert torch.equal(weights(ways[0]), weights(ways[1]))
    counts = [made.optimizer.state_dict()["state"][0]["step"].item() for made in ways]
    assert counts == [10, 10]


def test_nothing_is_learned_after_the_last_bad_loss_that_is_allowed(tmp_path: Path) -> None:
    """An accelerator is asked every few steps only, and has to hold still until then."""
    made = fused(tmp_path, skips=True)
    made.meter = Meter(made.device, 1, torch.clone)
    stream = made.loader.steps(0, 6)
    for _ in range(2):
        made.train_step(next(stream))
    before = torch.cat([p.detach().flatten() for p in made.parameters])
    for micro_batches in stream:
        made.train_step(micro_batches)
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in made.parameters]))
