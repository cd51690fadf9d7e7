"""From run folders to numbers, and from numbers to words, figures and a page."""

from __future__ import annotations

import base64
import json
from math import log

import pytest

from multigen.benchmark.axes import AXES
from multigen.benchmark.bootstrap import apart, clearly, estimate, interval, student
from multigen.benchmark.collect import AGAIN, collect
from multigen.benchmark.earlier import set_aside
from multigen.benchmark.page import _window, lines, redraw, tables, write_results
from multigen.benchmark.published import published
from multigen.benchmark.results import derive
from multigen.benchmark.suite import suite
from multigen.benchmark.verdict import verdict
from multigen.cli.arm import note_versions
from multigen.files import read_json, write_json
from multigen.run import Run as RunFolder

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
STEPS = [10, 20, 30, 40]
CHANCE = [0.05, -0.04, 0.01]
SLOW, QUICK, EVEN = [4.0, 3.0, 2.0, 1.0], [2.0, 0.9, 0.7, 0.5], [4.0, 3.0, 2.01, 1.0]


def wrong(pairing):
    return {"experiment": "toy/reed", "settings": {"pairing": pairing}}


def plan(**given):
    domain = {
        "name": "toy",
        "arms": {"vanilla": "toy/vanilla", "reed": "toy/reed", "null": wrong("random"), "shuffled": wrong("shuffled")},
        "steps": 40,
        "quality": [
            {"of": "valid/x", "words": "held-out loss"},
            {"of": "sample/right", "words": "share that is right", "better": "higher"},
        ],
        "repeat": 20,
    }
    return suite({**domain, **given})


def make(folder, run, losses, teacher=False, processes=("x",), until=40, same=True, noisy=False):
    """A run's folder as a benchmark leaves it."""
    config = {"name": run.arm, "seed": run.seed, "processes": {name: {} for name in processes}, "trainer": {"steps": 40}}
    record = RunFolder(folder / "runs" / run.name, config)
    with record.open():
        for step, loss in zip(STEPS, losses, strict=True):
            if step <= until:
                loss = loss + 0.02 * run.seed + (CHANCE[run.seed] if noisy else 0)
                logged = {"loss": loss, "valid/x": loss, "sample/right": 1 - loss / 10, "step_seconds": 0.5, "note": "x"}
                record.log(step, {**logged, "valid/z": 1.0} if teacher else logged)
    record.samples.mkdir()
    (record.checkpoints / f"step_{until:08d}").mkdir()
    for name in ("step_00000020", "step_00000040", "real"):
        (record.samples / f"{name}.png").write_bytes(PNG)
    start = {
        "initial": {"w": "1", "b": "2"} if same else {"w": "3", "b": "2"},
        "batches": {"key": f"k{run.seed}", "x": f"x{run.seed}"},
        "parameters": {"denoiser": 10, "all": 12},
        "flops_per_step": 1e9 if not teacher else 1.25e9,
        "examples_per_step": 8,
        "train_examples": 32,
        "teacher": {"flops_per_example": 1e9, "seconds_per_example": 0.1, "kept": True, "targets": ["z"]} if teacher else None,
        "versions": {"torch": "2"},
        "data": {"name": "Toys", "licence": "CC0", "attribution": "By hand."},
    }
    write_json(record.folder / "start.json", start)


def benchmark(folder, curves, **given):
    """Run folders of a suite whose arms have these losses."""
    made = plan(**given)
    for run in made.runs:
        make(folder, run, curves[run.arm], teacher=run.arm != "vanilla", noisy=run.arm in curves.get("noisy", ()))
    return made


def found(folder, curves, **given):
    raw = collect(folder, benchmark(folder, curves, **given))
    return {**raw, **derive(raw)}


WINS = {"vanilla": SLOW, "reed": QUICK, "null": EVEN, "shuffled": EVEN}
LOSES = {"vanilla": QUICK, "reed": SLOW, "null": [2.0, 0.9, 0.7, 0.51], "shuffled": SLOW}
TIES = {"vanilla": EVEN, "reed": [4.0, 3.0, 2.0, 1.01], "null": EVEN, "shuffled": EVEN, "noisy": ["reed"]}
REGULARISES = {"vanilla": SLOW, "reed": QUICK, "null": [2.0, 0.9, 0.7, 0.52], "shuffled": EVEN, "noisy": ["reed"]}
PARTLY = {"vanilla": SLOW, "reed": QUICK, "null": [3.0, 2.0, 1.0, 0.75], "shuffled": EVEN}
NEAR = {"vanilla": SLOW, "reed": [4.0, 3.0, 2.0, 0.97], "null": [4.0, 3.0, 2.0, 0.97], "shuffled": SLOW, "noisy": ["null"]}
AT_ONCE = {"vanilla": SLOW, "reed": [0.9, 0.8, 0.7, 0.5], "null": SLOW, "shuffled": SLOW}
TURNS = {"vanilla": [4.0, 0.8, 0.9, 1.0], "reed": QUICK, "null": SLOW, "shuffled": SLOW}


def test_versions_are_told_where_they_changed(tmp_path):
    made = benchmark(tmp_path, WINS, seeds=1)
    record = RunFolder(tmp_path / "runs" / "reed-0")
    assert collect(tmp_path, made)["runs"]["reed-0"]["versions"] == [{"step": 0, "versions": {"torch": "2"}}]
    note_versions(record, {"torch": "2"})
    assert [part["step"] for part in collect(tmp_path, made)["runs"]["reed-0"]["versions"]] == [0]
    note_versions(record, {"torch": "3"})
    (record.checkpoints / "step_00000050").mkdir()
    note_versions(record, {"torch": "3"})
    assert collect(tmp_path, made)["runs"]["reed-0"]["versions"] == [
        {"step": 0, "versions": {"torch": "2"}},
        {"step": 40, "versions": {"torch": "3"}},
    ]
    write_results(tmp_path, collect(tmp_path, made))
    assert "reed-0 from step 40: torch 3." in (tmp_path / "report.html").read_text()
    (record.checkpoints / "step_00000050").rmdir()  # nothing of it was saved
    note_versions(record, {"torch": "2"})
    assert [part["step"] for part in collect(tmp_path, made)["runs"]["reed-0"]["versions"]] == [0]


def test_results_that_hold_more_than_is_asked_for_are_kept(tmp_path):
    write_results(tmp_path, collect(tmp_path, benchmark(tmp_path, WINS)))
    assert set_aside(tmp_path, plan()) == "" and set_aside(tmp_path, plan(steps=50)) == ""
    less = plan(arms={"vanilla": "toy/vanilla", "mine": "toy/mine"}, seeds=1)
    said = set_aside(tmp_path, less)
    assert all(word in said for word in ("arm reed, arm null, arm shuffled, seed 1, seed 2", f"{tmp_path}/earlier/1"))
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "report.html").exists()
    assert set(read_json(tmp_path / "earlier/1/results.json")["suite"]["arms"]) == {"vanilla", "reed", "null", "shuffled"}
    write_results(tmp_path, collect(tmp_path, less))
    assert set_aside(tmp_path, less) == "" and "40 steps" in set_aside(tmp_path, plan(steps=30))
    assert {p.name for p in (tmp_path / "earlier").iterdir()} == {"1", "2"}


def test_intervals():
    assert interval([1.0]) is None and interval([1.0, None]) is None and interval([2.0, 2.0]) == [2.0, 2.0]
    low, high = interval([1.0, 2.0, 3.0])
    assert 1.0 <= low < 2.0 < high <= 3.0 and interval([1.0, 2.0, 3.0]) == [low, high]
    assert estimate([1.0, None])["mean"] is None and estimate([1.0, 3.0])["mean"] == 2.0
    assert student([0.5]) is None and student([0.5, 0.5, 0.5]) == [0.5, 0.5]
    assert student([1.0, 2.0, 3.0]) == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5])
    assert [clearly(x) for x in ([0.1, 0.2], [-0.2, -0.1], [0.0, 0.2], None)] == [1, -1, 0, 0]
    assert apart([1, 2], [3, 4]) and apart([3, 4], [1, 2]) and not apart([1, 3], [3, 4])


def test_numbers_follow_from_what_was_logged(tmp_path):
    numbers = found(tmp_path, WINS)
    first, second = numbers["quality"]
    assert (numbers["seeds"], numbers["end"], numbers["finished"]) == ([0, 1, 2], 40, [12, 12])
    assert list(first["arms"]) == ["vanilla", "reed", "null", "shuffled"]
    reed = first["arms"]["reed"]
    assert reed["final"]["mean"] == pytest.approx(0.52) and reed["gain"]["values"] == pytest.approx([0.5] * 3)
    assert reed["standing"] == "better" and first["arms"]["null"]["standing"] == "undecided"
    assert second["arms"]["reed"]["standing"] == "better", "of what is better higher, more is better"
    steps = first["reach"]["steps"]
    target = steps["target"]
    assert target == pytest.approx(1.02)
    expected = [10 + 10 * (2 + 0.02 * s - target) / 1.1 for s in range(3)]
    assert steps["arms"]["reed"]["steps"] == pytest.approx(expected)
    own = [40 - 10 * (target - (1 + 0.02 * s)) for s in range(2)] + [40]
    assert steps["baseline_steps"] == pytest.approx(sum(own) / 3), "a run that ends above the mean counts with its end"
    assert steps["arms"]["reed"]["ratio"] == pytest.approx(sum(own) / 3 / steps["arms"]["reed"]["mean"])
    seconds, flops = (first["reach"][axis]["arms"]["reed"] for axis in ("seconds", "flops"))
    assert seconds["steps"] == pytest.approx([0.5 * x for x in expected])
    assert flops["steps"] == pytest.approx([1.25e9 * x for x in expected])
    taught = first["reach"]["flops_with_teacher"]["arms"]["reed"]
    assert taught["steps"] == pytest.approx([1.25e9 * x + 32e9 for x in expected]), "targets are computed once"
    ratios = [log(a / b) for a, b in zip(own, expected, strict=True)]
    assert [log(x) for x in steps["arms"]["reed"]["ratio_interval"]] == pytest.approx(student(ratios))
    level = first["levels"][-1]
    assert level["k"] == pytest.approx(2.02), "at three quarters of the run"
    assert level["arms"]["reed"]["values"] == pytest.approx([10 / 4, 10 / 4, (10 + 10 * 0.02 / 1.1) / 4])
    assert numbers["cost"]["reed"]["teacher"] == {"seconds": pytest.approx(3.2), "flops": pytest.approx(32e9)}
    assert numbers["cost"]["vanilla"]["step_seconds"] == 0.5 and numbers["same_batches"]


def test_teachers_that_run_in_every_step_are_counted_in_every_step(tmp_path):
    made = benchmark(tmp_path, WINS)
    raw = collect(tmp_path, made)
    for run in raw["runs"].values():
        if run["start"]["teacher"]:
            run["start"]["teacher"]["kept"] = False
            run["start"]["teacher"]["seconds_per_example"] = 0.02
    assert derive(raw)["cost"]["reed"]["teacher"]["flops"] == pytest.approx(1e9 * 8 * 40)
    reed = raw["runs"]["reed-0"]
    assert AXES["seconds_with_teacher"](reed, [20]) == pytest.approx([10.0]), "the clock of a step has them in"
    assert AXES["seconds"](reed, [20]) == pytest.approx([10 - 0.02 * 8 * 20])


def test_the_same_teachers_take_the_same_time(tmp_path):
    """Each run times a few examples, on a machine that does other things meanwhile."""
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    for name, seconds in (("reed-0", 0.3), ("null-0", 0.1), ("shuffled-1", 0.2)):
        raw["runs"][name]["start"]["teacher"]["seconds_per_example"] = seconds
    cost = derive(raw)["cost"]
    assert [cost[arm]["teacher"]["seconds"] for arm in ("reed", "null", "shuffled")] == pytest.approx([3.2] * 3)
    assert raw["runs"]["reed-0"]["start"]["teacher"]["seconds_per_example"] == 0.3, "what was collected stays as it is"


def test_different_teachers_of_one_name_take_their_own_time(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    for arm in ("null", "reed", "shuffled"):
        raw["configs"][arm]["encoders"] = {"z": {"_target_": "Large" if arm == "reed" else "Small"}}
    for name, run in raw["runs"].items():
        if name.startswith("reed"):
            run["start"]["teacher"]["seconds_per_example"] = 10.0
    cost = derive(raw)["cost"]
    assert cost["reed"]["teacher"]["seconds"] == pytest.approx(320) and cost["null"]["teacher"]["seconds"] == pytest.approx(
        3.2
    )


def test_an_arm_that_never_ran_does_not_hide_the_others(tmp_path):
    made = plan()
    for run in made.runs:
        if run.arm != "null":
            make(tmp_path, run, WINS[run.arm])
        else:
            RunFolder(tmp_path / "runs" / run.name, {"name": "null"}).folder.mkdir(parents=True)
    write_json(tmp_path / "state.json", {"runs": {"null-0": {"status": "failed"}}})
    raw = collect(tmp_path, made)
    numbers = derive(raw)
    assert (numbers["seeds"], numbers["end"], numbers["left_out"]) == ([0, 1, 2], 40, ["null"])
    said = verdict({**raw, **numbers})
    assert "reed ends better" in said and "Failed: null-0. Left out, since no step of them is saved: null." in said
    write_results(tmp_path, raw)
    assert "Samples at step 40" in (tmp_path / "report.html").read_text()


def test_an_arm_that_did_not_come_far_does_not_hide_the_others(tmp_path):
    """It failed after its first piece, or was added when the others were whole."""
    made = plan()
    for run in made.runs:
        if run.arm != "null" or run.seed == 0:
            make(tmp_path, run, WINS[run.arm], until=20 if run.arm == "null" else 40)
    raw = collect(tmp_path, made)
    numbers = derive(raw)
    assert (numbers["seeds"], numbers["end"], numbers["behind"]) == ([0, 1, 2], 40, ["null"])
    said = verdict({**raw, **numbers})
    assert "reed ends better" in said and "none of their runs came to the end: null." in said and "random" not in said
    raw["runs"]["reed-2"]["step"] = 20  # not all of the others are whole: it may still come
    assert derive(raw)["behind"] == [] and derive(raw)["end"] == 20
    raw["state"] = {"runs": {"null-0": {"status": "failed"}}}
    assert derive(raw)["behind"] == ["null"] and derive(raw)["seeds"] == [0, 1]


def test_seeds_that_are_about_as_far_are_compared_together(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    for run in raw["runs"].values():
        run["step"] = 30 if run["seed"] < 2 else 20
    assert (derive(raw)["seeds"], derive(raw)["end"]) == ([0, 1], 30)


def test_flops_that_are_not_known_hide_no_others(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    raw["runs"]["null-1"]["start"]["flops_per_step"] = None
    numbers = derive(raw)
    assert list(numbers["quality"][0]["reach"]["flops"]["arms"]) == ["vanilla", "reed", "shuffled"]
    assert numbers["uncounted"] == ["null"] and "could not be counted: null." in verdict({**raw, **numbers})
    assert [len(row) for row in tables({**raw, **numbers})[0].rows] == [9] * 4


def test_controls_are_known_by_their_pairing_and_explain_their_twins_alone(tmp_path):
    strong = {"experiment": "toy/reed", "settings": {"weight": 5}}
    arms = {"vanilla": "toy/vanilla", "mine": "toy/reed", "strong": strong, "noise": wrong("random")}
    made = plan(arms=arms)
    curves = {"vanilla": SLOW, "mine": QUICK, "strong": [2.0, 0.9, 0.7, 0.4], "noise": PARTLY["null"]}
    for run in made.runs:
        make(tmp_path, run, curves[run.arm])
    raw = collect(tmp_path, made)
    said = verdict({**raw, **derive(raw)})
    assert "random targets (noise, mine otherwise)" in said and "50 % of mine's gain" in said and "strong's gain" not in said
    assert "met by mine and strong" in said and "noise ends" not in said and made.repeated.arm == "strong"


def test_a_control_may_be_the_baseline_or_gain_more_than_its_twin(tmp_path):
    said = verdict(found(tmp_path, WINS, baseline="null"))
    assert "reed ends better" in said and "Control: wrong pairs (shuffled" in said and "Control: random" not in said
    said = verdict(found(tmp_path / "more", {**WINS, "null": [1.9, 0.8, 0.6, 0.4]}))
    assert "all of reed's gain may be owed to regularisation" in said and "120 %" not in said


def test_losses_of_another_kind_are_not_compared(tmp_path):
    quality = [{"of": key, "words": key} for key in ("valid/denoise/x", "valid/x")]
    raw = collect(tmp_path, benchmark(tmp_path, WINS, quality=quality))
    for run in raw["runs"].values():
        run["curves"]["valid/denoise/x"] = run["curves"]["valid/x"]
    raw["configs"]["reed"]["objective"] = {"terms": {"denoise": {"weights": {"x": 0.2}}}}
    raw["configs"]["null"]["processes"] = {"x": {"loss_on": "velocity"}}
    numbers = derive(raw)
    assert [list(q["arms"]) for q in numbers["quality"]] == [["vanilla", "shuffled"], ["vanilla", "reed", "null", "shuffled"]]
    assert "not comparable, in reed, null." in verdict({**raw, **numbers})


def test_what_is_missing_is_named(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    del raw["runs"]["reed-1"]["curves"]["sample/right"]
    raw["runs"]["null-2"]["curves"]["sample/right"] = [
        column[:3] for column in raw["runs"]["null-2"]["curves"]["sample/right"]
    ]
    raw["suite"]["quality"].append({"of": "valid/nothing", "words": "nothing"})
    said = verdict({**raw, **derive(raw)})
    assert "In share that is right: never had by reed-1; compared at step 30, since null-2 had it no later." in said
    assert "Not logged by the baseline: valid/nothing." in said


def test_what_is_looked_at_once_has_no_speed(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    for run in raw["runs"].values():
        run["curves"]["valid/x"] = [[40], run["curves"]["valid/x"][1][-1:]]
    numbers = derive(raw)
    first = numbers["quality"][0]
    assert first["looks"] == 1 and not first["reach"] and not first["levels"]
    said = verdict({**raw, **numbers})
    assert "reed ends better" in said and "sooner" not in said and "is not met" in said
    assert len(tables({**raw, **numbers})) == 4


def test_one_seed_claims_nothing(tmp_path):
    said = verdict(found(tmp_path, WINS, seeds=1))
    assert "reed ends ahead" in said and "one seed explains nothing" in said
    assert "cannot be judged by one seed" in said and "By share that is right (0.9000 for vanilla): reed ahead" in said
    assert "undecided" not in said and "One seed tells nothing of the spread" in said


def test_uneven_machines_are_told(tmp_path):
    raw = collect(tmp_path, benchmark(tmp_path, WINS))
    assert derive(raw)["pace"] == [0.5, 0.5]
    raw["runs"]["null-1"]["clock"][1] = [2 * x for x in raw["runs"]["null-1"]["clock"][1]]
    assert "Steps of the same work took 500 to 1,000 ms" in verdict({**raw, **derive(raw)}).replace(".0", "")


def test_only_what_is_comparable_is_compared(tmp_path):
    made = plan(arms={"vanilla": "a", "joint": "b"})
    for run in made.runs:
        make(tmp_path, run, SLOW, processes=("x",) if run.arm == "vanilla" else ("x", "z"), same=run.arm == "vanilla")
    raw = collect(tmp_path, made)
    numbers = derive(raw)
    assert numbers["not_comparable"] == ["joint"] and raw["initial"] == {"vanilla": 1.0, "joint": 0.5}
    assert [list(q["arms"]) for q in numbers["quality"]] == [["vanilla"], ["vanilla", "joint"]]
    said = verdict({**raw, **numbers})
    assert "Where the representation is denoised too (joint)" in said and "Another initial network" in said


def test_unfinished_runs_are_compared_as_far_as_all_arms_are(tmp_path):
    made = plan()
    for run in made.runs[:6]:  # of the second seed, two arms
        make(tmp_path, run, WINS[run.arm], until=40 if run.seed == 0 and run.arm != "null" else 20)
    write_json(tmp_path / "state.json", {"runs": {"reed-0": {"status": "done"}, "null-1": {"status": "failed"}}})
    numbers = derive(collect(tmp_path, made))
    assert (numbers["seeds"], numbers["end"], numbers["finished"]) == ([0], 20, [3, 12])
    assert numbers["quality"][0]["arms"]["vanilla"]["curve"]["steps"] == [10, 20]
    said = verdict({**collect(tmp_path, made), **numbers})
    assert "Only 3 of 12 runs are finished. Failed: null-1." in said and "One seed tells nothing of the spread" in said
    assert verdict({**derive(collect(tmp_path / "empty", made)), **collect(tmp_path / "empty", made)}).startswith(
        "Nothing to compare"
    )


@pytest.mark.parametrize(
    ("curves", "says", "says_not"),
    [
        (
            WINS,
            [
                "reed ends better",
                "with separated intervals",
                "the aim",
                "is met by reed.",
                "random targets (null, reed otherwise) end at 1.020 (1.000 to 1.040), which may be chance",
                "and reed is clearly ahead, so reed's gain is not owed to regularisation alone",
                "2.09x sooner in steps (",
                "x later in FLOPs with",
            ],
            ["not met"],
        ),
        (
            LOSES,
            [
                "reed ends worse",
                "in none of its runs",
                "is not met",
                "there is no clear gain to explain",
                "wrong pairs (shuffled, reed otherwise) end at",
            ],
            ["is met by"],
        ),
        (TIES, ["reed ends at 1.03", "which may be chance (1 of 3 seeds ahead of the baseline)", "is not met"], ["is met by"]),
        (
            REGULARISES,
            ["of reed's gain may be owed to regularisation, and reed is not clearly ahead, so all of it may be"],
            ["not owed to regularisation"],
        ),
        (
            PARTLY,
            ["50 % of reed's gain may be owed to regularisation, but reed is clearly ahead."],
            ["all of it"],
        ),
        (
            NEAR,
            [
                "reed ends better",
                "seed by seed, though the intervals overlap",
                "and reed is not clearly ahead: whether reed's gain is owed to regularisation stays open",
            ],
            ["is met by"],
        ),
        ({**WINS, "noisy": ["reed"]}, ["is met by reed (as to steps in the mean: chance may have helped)"], ["not met"]),
        (AT_ONCE, ["and needs at most 10 steps", "x sooner in steps"], []),
        (
            TURNS,
            ["After 40 steps with 3 seeds", "to which it first came after 19", "one is called so by chance"],
            ["is met by"],
        ),
    ],
)
def test_the_verdict_says_what_the_numbers_say(tmp_path, curves, says, says_not):
    said = verdict(found(tmp_path, curves))
    assert all(part.lower() in said.lower() for part in says), said
    assert not any(part in said for part in says_not), said


def test_a_repeated_run_is_compared_number_by_number(tmp_path):
    made = benchmark(tmp_path, WINS)
    assert collect(tmp_path, made)["again"] is None
    name = made.repeated.name
    source, copy = tmp_path / "runs" / name, tmp_path / "runs" / f"{name}{AGAIN}"
    copy.mkdir()
    rows = (source / "metrics.jsonl").read_text().splitlines()[:2]
    (copy / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    same = collect(tmp_path, made)["again"]
    assert same == {"run": "reed-0", "steps": 20, "compared": 8, "missing": 0, "largest_difference": 0.0}
    changed = [{**json.loads(row), "loss": 9.0} for row in rows]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert collect(tmp_path, made)["again"]["largest_difference"] == pytest.approx(8.1)


def test_what_only_one_of_a_run_and_its_repeat_has_is_a_difference(tmp_path):
    made = benchmark(tmp_path, WINS)
    copy = tmp_path / "runs" / f"{made.repeated.name}{AGAIN}"
    (copy / "checkpoints").mkdir(parents=True)
    rows = [json.loads(row) for row in (tmp_path / "runs" / made.repeated.name / "metrics.jsonl").read_text().splitlines()]

    def again(*changed):
        (copy / "metrics.jsonl").write_text(
            "".join(json.dumps({**row, **x}) + "\n" for row, x in zip(rows, changed, strict=False))
        )
        found = collect(tmp_path, made)["again"]
        return found["compared"], found["missing"], found["largest_difference"]

    assert again({}, {"loss": None, "valid/x": None}) == (6, 2, 0.0), "nan in one of them"
    del rows[1]["valid/x"]
    assert again({}, {}) == (7, 0, 0.0), "not logged yet, perhaps"
    (copy / "checkpoints/step_00000020").mkdir()
    assert again({}, {}) == (7, 1, 0.0), "never logged"
    raw = collect(tmp_path, made)
    assert "is not the same over 20 steps: numbers that one of the two alone has: 1." in verdict({**raw, **derive(raw)})
    assert again({"valid/more": 1.0}, {}) == (7, 2, 0.0), "logged by the second one alone"


def test_all_is_drawn_from_the_json(tmp_path):
    made = benchmark(tmp_path, WINS)
    said = write_results(tmp_path, collect(tmp_path, made))
    names = ("results.md", "figure.png", "report.html")
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    assert redraw(tmp_path) == said and {name: (tmp_path / name).read_bytes() for name in names} == before
    stored, page = read_json(tmp_path / "results.json"), before["report.html"].decode()
    assert stored["numbers"]["quality"][0]["arms"]["reed"]["standing"] == "better" and stored["configs"]["reed"]["seed"] == 0
    assert stored["configs"]["reed"]["run"] == "runs/reed-0" and str(tmp_path) not in (tmp_path / "results.json").read_text()
    assert said.split(".")[0] in page and page.count('src="data:image/png') == 5, "four arms and real data"
    assert "Samples at step 40, seed 0" in page and "PFLOP" not in page and "GFLOP of training" in page
    assert page.count("derive from Toys (CC0). By hand.") == 1
    text = before["results.md"].decode()
    assert "| vanilla | 1.020 (1.000 to 1.040) | - | baseline |" in text
    assert "| reed | 0.5200 (" in text and "EP@k" in text and before["figure.png"].startswith(b"\x89PNG")


def test_an_axis_has_a_unit_that_fits(tmp_path):
    first = found(tmp_path, WINS)["quality"][0]
    assert lines(first, "steps")[0] == "training step"
    assert lines(first, "seconds")[0] == "seconds of training" and lines(first, "flops")[0] == "GFLOP of training"
    over, made = lines(first, "flops")
    assert made[0].steps == [10, 20, 30, 40] and made[0].low and over.startswith("GFLOP")
    taught = [x for x in made if x.dashed]
    assert [x.label for x in taught] == [f"{arm}, teachers counted in" for arm in ("reed", "null", "shuffled")]
    assert taught[0].steps == [x + 32 for x in made[1].steps] and taught[0].silent and not taught[0].low
    first["arms"]["reed"]["curve"]["flops"] = None
    kept = lines(first, "flops")[1]
    assert "reed" not in [x.label for x in kept] and kept[1].colour == 2, "the others keep their colours"
    for about in first["arms"].values():
        about["curve"]["flops"] = None
    assert lines(first, "flops")[1] == []


def test_a_figure_shows_what_is_compared(tmp_path):
    quality = found(tmp_path, WINS)["quality"][0]
    assert _window(quality) is None
    for about in quality["arms"].values():
        curve = about["curve"]
        curve["steps"], curve["mean"], curve["std"] = [1, *curve["steps"]], [50.0, *curve["mean"]], [0.0, *curve["std"]]
    low, high = _window(quality)
    assert 0 < low < 0.52 and 4.02 < high < 5
    quality["arms"]["reed"]["curve"]["std"] = [0.0] + [2.0] * 4
    assert _window(quality)[0] < 0.52 - 2.0, "bands are seen whole"


def test_arms_are_compared_at_the_last_step_that_all_have(tmp_path):
    """One run had no value at the end, another was killed after it had logged more than it saved."""
    made = benchmark(tmp_path, WINS)
    raw = collect(tmp_path, made)
    steps, values = raw["runs"]["null-1"]["curves"]["sample/right"]
    raw["runs"]["null-1"]["curves"]["sample/right"] = [steps[:-1], values[:-1]]
    first, second = derive(raw)["quality"]
    assert first["end"] == 40 and second["end"] == 30
    assert second["arms"]["vanilla"]["final"]["values"] == pytest.approx([0.8, 0.798, 0.796])
    (tmp_path / "runs/reed-0/checkpoints/step_00000040").rename(tmp_path / "runs/reed-0/checkpoints/step_00000020")
    numbers = derive(collect(tmp_path, made))
    assert numbers["seeds"] == [1, 2] and numbers["finished"] == [11, 12]


def test_what_others_report_stands_beside_what_was_measured(tmp_path):
    about = {"of": "valid/x", "by": "epochs", "unit": 0.01, "source": "a paper"}
    expected = {"vanilla": {5: 210.0, 10: 105.0, 40: 90.0}, "reed": {5: 80.0}, "null": None}
    whole = found(tmp_path, WINS, about={**about, "expected": expected})
    table = published(whole)
    assert table.header == ["published", "5 epochs", "10 epochs", "40 epochs"]
    vanilla, reed = table.rows
    assert [(cell.text, cell.note) for cell in vanilla[1:]] == [("210.0", "302.0"), ("105.0", "102.0"), ("90.00", "")]
    assert [(cell.text, cell.note) for cell in reed[1:]] == [("80.00", "92.00"), ("-", "52.00"), ("-", "")]
    assert published(found(tmp_path / "other", WINS)) is None
