"""Turns that are timed side by side, and what arms of an experiment reached."""

from __future__ import annotations

import itertools
import json
import math

import cache_toys
import pytest
import torch
import training_toys

from multigen.benchmark import arms, asking_always, compare, ratio, sampling, spread, take_turns, training, write_comparison
from multigen.benchmark.compare import first_step, reaching, summary
from multigen.benchmark.speed import loading
from multigen.benchmark.start import start, teaching
from multigen.build.variants import variants, without_alignment
from multigen.denoiser import Output
from multigen.files import read_json
from multigen.guidance import Guidance
from multigen.process import Masked
from multigen.run import Run
from multigen.sampling import Grid, Heun, Sampler
from multigen.state import Batch, MultigenError
from multigen.unmasking import Unmasking

CPU = torch.device("cpu")

# ---------------------------------------------------------------------------------------------------------------------- speed


class Reader(torch.nn.Module):
    """Logits of a sequence from a condition that it prepares; counts both kinds of work."""

    timeless = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.made_ready = 0

    def prepare(self, cond, mask):
        self.made_ready += 1
        return {**cond, "ready": cond["c"]}

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        cond = cond if "ready" in cond else self.prepare(cond, mask)
        self.asked += 1
        return Output({"x": torch.nn.functional.one_hot(noisy["x"] % 3, 3) + cond["ready"]}, {})


def test_events_are_compared_with_asking_at_every_step():
    network, processes = Reader(), {"x": Masked(3)}
    real = {"x": torch.ones(2, 5, dtype=torch.bool)}
    template = Batch({"x": torch.zeros(2, 5, dtype=torch.long)}, real, real, torch.arange(2), {"c": torch.zeros(2, 5, 3)})
    sampler = Unmasking(Grid(40))
    turns = sampling(sampler, network, processes, template)
    assert turns.evaluations <= 5 and network.made_ready == 1
    network.asked = network.made_ready = 0
    asking_always(sampler, network, processes, template)()
    assert network.asked == network.made_ready == 40


def test_turns_alternate_and_every_turn_is_timed():
    said: list[str] = []
    turns = {name: lambda name=name: said.append(name) for name in "abc"}
    times = take_turns(turns, rounds=3, device=CPU, warmup=2)
    assert "".join(said) == "aabbcc" + "abc" + "cba" + "abc"
    assert all(len(t.wall) == len(t.cpu) == 3 and min(t.wall) > 0 for t in times.values())


def test_times_tell_work_from_waiting():
    import time

    times = take_turns({"wait": lambda: time.sleep(0.02), "work": lambda: sum(range(200_000))}, rounds=3, device=CPU)
    assert min(times["wait"].wall) >= 0.02 and max(times["wait"].cpu) < 0.02
    assert min(times["work"].cpu) > 0


def test_a_ratio_is_that_within_rounds():
    """A round in which the machine is ten times slower changes nothing when both sides are hit."""
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert spread([5.0]) == {"median": 5.0, "low": 5.0, "high": 5.0}


def test_a_turn_of_training_is_what_fit_does(tmp_path):
    fitted = training_toys.trainer(tmp_path / "run", steps=6)
    fitted.fit()
    timed = training_toys.trainer(tmp_path / "none", steps=6)
    take_turns({"train": training(timed, 2), "load": loading(timed, 2)}, rounds=2, device=CPU, warmup=1)
    assert timed.step == 6
    ours, theirs = timed.diffusion.state_dict(), fitted.diffusion.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(Grid(5)), 5),
        (Sampler(Grid(5), continuous=Heun()), 9),
        (Sampler(Grid(5), guide=Guidance(scale=2.0)), 10),
    ],
)
def test_the_bare_network_is_asked_what_the_sampler_asks(sampler, expected):
    asked: list[torch.Tensor] = []
    diffusion = training_toys.diffusion()
    diffusion.denoiser.register_forward_pre_hook(lambda _, given: asked.append(given[0]["point"].clone()))
    template = Batch.dense(
        {"point": torch.zeros(4, 2)}, torch.arange(4), cond={"label": torch.zeros(4, dtype=torch.long)}
    )  # (4, 2), (4,), (4,)
    turns = sampling(sampler, diffusion.denoiser, diffusion.processes, template)
    asked.clear()
    turns.loop()
    looped, count = list(asked), len(asked)
    turns.network()
    assert turns.evaluations == count == expected == len(asked) - count
    assert all(torch.equal(a, b) for a, b in zip(looped, asked[count:], strict=True))
    assert diffusion.denoiser.training, "left as it was found"


def test_a_start_tells_what_differs_and_what_it_costs(tmp_path):
    first, same = (start(training_toys.trainer(tmp_path / name), []) for name in "ab")
    other = start(training_toys.trainer(tmp_path / "c", model=training_toys.diffusion(seed=1), seed=1), [])
    assert first["initial"] == same["initial"] and first["batches"] == same["batches"]
    assert first["batches"].keys() == {"key", "point"} and first["batches"]["key"] != other["batches"]["key"]
    assert first["initial"]["first.weight"] != other["initial"]["first.weight"]
    assert first["initial"]["scale"] == other["initial"]["scale"]
    products = 3 * 8 + 8 * 2 + 8 * 3  # multiplications of the two layers and the projector
    assert 2 * 2 * products * 8 <= first["flops_per_step"] <= 2 * 3 * products * 8, "forward, and up to twice that backward"
    assert (first["examples_per_step"], first["train_examples"], first["teacher"]) == (8, 48, None)


@pytest.mark.parametrize("counted", [None, 0, [5.0, 5.0, None]])
def test_flops_that_cannot_be_counted_are_none(tmp_path, monkeypatch, counted):
    found = iter(counted) if isinstance(counted, list) else itertools.repeat(counted)
    monkeypatch.setattr("multigen.benchmark.start.training_flops", lambda *_: next(found))
    assert start(training_toys.trainer(tmp_path), [])["flops_per_step"] is None


def test_teachers_are_timed_and_counted():
    made = cache_toys.job(layout="fixed", delay=0.01)
    found = teaching([made])
    assert found["targets"] == ["tokens"] and found["seconds_per_example"] >= 0.01 / 4 and found["flops_per_example"] > 0


CONFIG = {
    "targets": "cached",
    "encoders": {"z": {}, "given": {}},
    "cache": {"z": {}},
    "objective": {"terms": {"denoise": {}, "align": {"target": "z", "tap": "x"}}, "weights": {"denoise": 1.0, "align": 0.5}},
    "trainer": {"precision": "no", "compile": True, "workers": 4, "observers": {"samples": {}}, "steps": 10},
}


def test_vanilla_lacks_alignment_and_its_encoder_alone():
    vanilla = without_alignment(CONFIG)
    assert vanilla["objective"] == {"terms": {"denoise": {}}, "weights": {"denoise": 1.0}}
    assert (vanilla["encoders"], vanilla["cache"]) == ({"given": {}}, {})
    assert "align" in CONFIG["objective"]["terms"], "the given configuration is left alone"


def test_variants_change_one_thing_and_are_equal_where_it_changes_nothing():
    found = variants(CONFIG)
    assert found["step"]["trainer"] == {**CONFIG["trainer"], "compile": False, "workers": 0, "observers": {}, "log_to": []}
    assert found["cached"] == found["step"] == found["fp32"]
    assert found["online"] == {**found["step"], "targets": "online"}
    assert found["compiled"]["trainer"]["compile"] and found["bf16"]["trainer"]["precision"] == "bf16"
    bare = {**CONFIG, "encoders": {}, "objective": {"terms": {"denoise": {}}, "weights": {}}, "cache": {}}
    assert (
        len({json.dumps(variants({**bare, "targets": t})[n]) for t in ("cached", "online") for n in ("step", "online")}) == 1
    )
    assert variants(bare)["vanilla"] == variants(bare)["step"]


# ----------------------------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        (([0, 10, 20], [3.0, 2.0, 1.0]), 2.0, 10.0),
        (([0, 10, 20], [3.0, 2.0, 1.0]), 1.25, 17.5),
        (([0, 10, 20], [3.0, 2.0, 1.0]), 0.5, None),
        (([0, 10, 20], [3.0, 1.0, 2.0]), 1.5, 7.5),
        (([100, 200], [1.0, 0.5]), 1.5, 100.0),
    ],
)
def test_first_step_interpolates_or_says_that_it_was_not_reached(curve, target, expected):
    assert first_step(curve, target) == expected


def test_steps_to_a_baseline_that_rises():
    """Of an accuracy more is better: a curve that begins below the target is not there yet."""
    vanilla, quick = [([10, 20], [0.1, 0.5])], [([10, 20], [0.3, 0.7])]
    assert reaching({"vanilla": vanilla, "quick": quick}, "vanilla", rising=True)["arms"]["quick"]["steps"] == [15.0]


def test_steps_to_the_baseline():
    vanilla = [([10, 20], [2.0, 0.9]), ([10, 20], [2.0, 1.1])]
    quick = [([10, 20], [1.0, 0.5]), ([10, 20], [1.5, 0.5])]
    found = reaching({"vanilla": vanilla, "quick": quick, "slow": [([10, 20], [3.0, 2.0])]}, "vanilla")
    assert found["target"] == 1.0
    assert found["baseline_steps"] == pytest.approx((20 - 10 * 0.1 / 1.1 + 20) / 2), "who ends above it counts with the end"
    expected = {"steps": [10.0, 15.0], "reached": 2, "runs": 2, "at_most": True, "mean": 12.5, "std": math.sqrt(12.5)}
    ratio = pytest.approx(found["baseline_steps"] / 12.5)
    assert found["arms"]["quick"] == {**expected, "interval": [10.0, 15.0], "ratio": ratio}
    missing = {"mean": None, "std": None, "interval": None, "ratio": None}
    assert found["arms"]["slow"] == {"steps": [None], "reached": 0, "runs": 1, "at_most": False, **missing}
    partly = found["arms"]["vanilla"]
    assert partly["reached"] == 1 and partly["steps"][1] is None and {k: partly[k] for k in missing} == missing


def test_summary_needs_two_values_for_a_spread():
    assert summary([1.0, 3.0]) == {"values": [1.0, 3.0], "mean": 2.0, "std": math.sqrt(2)}
    assert summary([1.0, None]) == {"values": [1.0, None], "mean": 1.0, "std": None}
    assert summary([None]) == {"values": [None], "mean": None, "std": None}


def make_run(folder, name, seed, losses, distance=None, **trainer):
    """A run folder with a held-out loss every 10 steps, evaluated if `distance` is given."""
    terms = {"denoise": {}} | ({} if name == "vanilla" else {"align": {"target": "z"}})
    config = {"name": name, "seed": seed, "objective": {"terms": terms}, "trainer": {"steps": 10 * len(losses), **trainer}}
    run = Run(folder, config)
    with run.open():
        for i, loss in enumerate(losses, 1):
            run.log(10 * i, {"valid": 9.0, "valid/denoise": loss} | ({} if name == "vanilla" else {"valid/align": -loss}))
    if distance is not None:
        metrics = {"distance": distance, "distance_real": 0.1, "distance_std": 0.01}
        (folder / "evaluation.json").write_text(json.dumps({"metrics": metrics, "samples": {"count": 8}}))


@pytest.fixture
def folders(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"vanilla{seed}", "vanilla", seed, [3.0, 2.0, 1.0 + seed / 5], 0.5 + seed)
        make_run(tmp_path / f"guided{seed}", "guided", seed, [2.0, 1.2 - seed / 5, 0.5], 0.25)
    return tmp_path


@pytest.mark.parametrize(("share", "keys"), [(1.0, ["valid/denoise", "valid/denoise/x"]), (0.5, ["valid/denoise/x"])])
def test_sums_are_compared_where_they_are_of_the_same(tmp_path, share, keys):
    for arm, weight in (("a", 1.0), ("b", share)):
        run = Run(tmp_path / arm, {"name": arm, "objective": {"terms": {"denoise": {"weights": {"y": weight}}}}})
        with run.open():
            run.log(10, {"valid/denoise": 2.0, "valid/denoise/x": 1.0})
    assert list(compare(arms([tmp_path / "*"]))["curves"]) == keys


def test_runs_are_compared_by_what_all_of_them_measure(folders):
    found = compare(arms([folders / "*[01]"]))
    assert found["baseline"] == "vanilla" and list(found["arms"]) == ["vanilla", "guided"]
    assert found["arms"]["guided"]["seeds"] == [0, 1] and found["arms"]["vanilla"]["steps"] == [30, 30]
    assert set(found["measures"]) == {"valid/denoise", "distance"}, "neither totals nor what vanilla does not train on"
    assert found["measures"]["valid/denoise"]["vanilla"]["mean"] == pytest.approx(1.1)
    assert found["measures"]["distance"]["guided"] == {"values": [0.25, 0.25], "mean": 0.25, "std": 0.0}
    assert found["real"] == {"distance": pytest.approx(0.1)}
    steps = found["steps_to_baseline"]["valid/denoise"]["arms"]["guided"]
    assert steps["steps"] == pytest.approx([20 + 10 / 7, 19.0]) and steps["ratio"] > 1.4
    assert steps["ratio"] == pytest.approx(found["steps_to_baseline"]["valid/denoise"]["baseline_steps"] / steps["mean"])
    assert found["curves"]["valid/denoise"]["guided"]["mean"] == pytest.approx([2.0, 1.1, 0.5])
    assert found["notes"] == []


def test_runs_of_a_sweep_are_arms_by_what_was_swept(tmp_path):
    for rate in (1, 2):
        make_run(tmp_path / f"run{rate}", "guided", 0, [2.0, 1.0], clip=rate)
    found = arms([tmp_path / "run*"], by=["trainer.clip"])
    assert found == {"guided, clip=1": [tmp_path / "run1"], "guided, clip=2": [tmp_path / "run2"]}


def test_settings_of_one_name_are_called_by_more_of_their_keys(tmp_path):
    make_run(tmp_path / "run", "guided", 0, [2.0, 1.0], near={"peak": 1}, far={"peak": 2})
    found = arms([tmp_path / "run"], by=["trainer.near.peak", "trainer.far.peak", "seed"])
    assert list(found) == ["guided, near.peak=1, far.peak=2, seed=0"]


def test_a_comparison_is_written_as_json_table_and_figure(folders):
    text = write_comparison({"plain": [folders / "vanilla0"], "guided": [folders / "guided0"]}, folders / "out")
    assert {p.name for p in (folders / "out").iterdir()} == {f"comparison.{end}" for end in ("json", "md", "png")}
    assert read_json(folders / "out/comparison.json") == compare(
        {"plain": [folders / "vanilla0"], "guided": [folders / "guided0"]}
    )
    assert (folders / "out/comparison.png").read_bytes().startswith(b"\x89PNG")
    rows = {cells[1].strip(): cells[2:-1] for line in text.splitlines() if len(cells := line.split("|")) > 2}
    assert [cell.strip() for cell in rows[""]] == ["plain", "guided", "real data"]
    assert [cell.strip() for cell in rows["distance"]] == ["0.5000", "0.2500", "0.1000"]
    assert rows["steps to valid/denoise of 1.000"][1].strip() == "22.86 (1.31x)"
    assert "plain has one run only" in text


def test_what_is_unfair_or_incomplete_is_said(folders):
    make_run(folders / "short", "guided", 2, [4.0, 3.0], None, batch_size=16)
    run = Run(folders / "short")
    run.metrics.write_text(run.metrics.read_text().splitlines()[0])
    said = "\n".join(compare(arms([folders / "vanilla*", folders / "guided*", folders / "short"]))["notes"])
    assert "steps is not the same in all runs: vanilla 30; guided 10, 30" in said
    assert "seeds differ: vanilla 0, 1; guided 0, 1, 2" in said
    assert "runs of guided differ in trainer.batch_size" in said and "runs of vanilla differ" not in said
    assert "short is not finished: step 10 of 20" in said and "short is not evaluated" in said
    text = write_comparison({"vanilla": [folders / "vanilla0"], "short": [folders / "short"]}, folders / "out")
    assert "not reached" in text


@pytest.mark.parametrize(
    ("groups", "baseline", "said"),
    [
        ({"a": ["nowhere"]}, None, "nowhere is not a run folder"),
        ({"a": []}, None, "arm 'a' has no runs"),
        (["nothing*"], None, "no run folder matches nothing*"),
        ({"vanilla": ["{}/vanilla0"]}, "vanila", "did you mean 'vanilla'"),
    ],
)
def test_mistakes_are_named(folders, groups, baseline, said):
    given = {k: [v.format(folders) for v in vs] for k, vs in groups.items()} if isinstance(groups, dict) else groups
    with pytest.raises(MultigenError, match=said.replace("*", r"\*")):
        compare(arms(given), baseline)
