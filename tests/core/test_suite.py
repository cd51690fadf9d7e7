"""What a benchmark runs, in which order, and what becomes of processes that fail, end early or are told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from multigen.benchmark.board import Board, Pace, words
from multigen.benchmark.room import Slot, slots
from multigen.benchmark.runner import Runner, logged, reason
from multigen.benchmark.suite import Arm, Part, Run, seconds, suite, written
from multigen.files import read_json
from multigen.kinds import misfit
from multigen.state import MultigenError

NULL = {"experiment": "toy/reed", "settings": {"pairing": "random"}}
DOMAIN = {
    "name": "toy",
    "arms": {"vanilla": "toy/vanilla", "reed": {"experiment": "toy/reed", "settings": {"a.b": 1}}, None: NULL},
    "steps": 10,
    "slices": 2,
    "seeds": 2,
    "settings": {"b": 2},
    "validation": {"every": 5, "limit": None},
    "quality": [{"of": "valid/x", "words": "loss"}],
}


def test_arms_are_those_of_the_file_or_experiments():
    null = Arm("toy/reed", {"pairing": "random"})
    assert suite(DOMAIN).arms == {"vanilla": Arm("toy/vanilla"), "reed": Arm("toy/reed", {"a.b": 1}), "null": null}
    assert list(suite(DOMAIN, arms=["reed", None, "my/own"]).arms) == ["reed", "null", "my/own"]
    assert suite(DOMAIN, arms=["reed", None]).baseline == "reed" and suite(DOMAIN).baseline == "vanilla"
    own = suite(DOMAIN, arms={"a": "my/own", "b": {"experiment": "my/own", "settings": {"x": [1, 2]}}}, seeds=[4])
    assert own.arms["b"] == Arm("my/own", {"x": [1, 2]}) and own.seeds == [4]


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({}, {"arms": ["red"]}, "did you mean 'reed'"),
        ({}, {"arms": []}, "which arms"),
        ({}, {"baseline": "repa"}, "'repa' is not among the arms"),
        ({}, {"seeds": 0}, "seeds is at least 1"),
        ({}, {"seeds": "many"}, "seeds is 'many'"),
        ({}, {"seeds": [0, 0]}, "two runs would share a folder"),
        ({"step": 3}, {}, "did you mean 'steps'"),
        ({"quality": []}, {}, "compares nothing"),
        ({"steps": None}, {}, "domain lacks 'steps'"),
        ({"quality": [{"of": "x", "words": "y", "better": "more"}]}, {}, "choices are lower, higher"),
        ({"arms": {"vanilla": {"settings": {}}}}, {}, "arm 'vanilla' is an experiment"),
        ({"arms": {"vanilla": {"experiment": "x", "settings": ["a"]}}}, {}, "arm 'vanilla' is an experiment"),
        ({"arms": ["vanilla"]}, {}, r"domain.arms is \['vanilla'\], expected a mapping"),
        ({"quality": "x"}, {}, "domain.quality is 'x', expected a list"),
        ({"quality": ["x"]}, {}, r"domain.quality\[0\] is 'x', expected a mapping"),
        ({"quality": [{"off": "x", "words": "y"}]}, {}, r"domain.quality\[0\] has no 'off': did you mean 'of'"),
        ({"quality": [{"of": "x"}]}, {}, r"domain.quality\[0\] lacks 'words'"),
        ({"quality": [{"of": "x", "words": "y", "levels": 3}]}, {}, r"domain.quality\[0\].levels is 3, expected a list"),
        ({"steps": "abc"}, {}, "domain.steps is 'abc', expected int"),
        ({"steps": 1e3}, {}, "domain.steps is 1000.0, expected int"),
        ({"slices": "a"}, {}, "domain.slices is 'a', expected int"),
        ({"settings": ["a"]}, {}, r"domain.settings is \['a'\], expected a mapping"),
        ({"measures": 3}, {}, "domain.measures is 3, expected a mapping"),
        ({"settings": {"trainer.steps": 5}}, {}, "domain.settings sets trainer.steps to 5; give domain.steps instead"),
        ({"settings": {"trainer": {"steps": 5}}}, {}, "domain.settings sets trainer.steps to 5; give domain.steps instead"),
        ({"settings": {"seed": 1}}, {}, "domain.settings sets seed to 1; give seeds instead"),
        ({"settings": {"device": "cuda"}}, {}, "domain.settings sets device to 'cuda'; give device=NAME instead"),
        (
            {},
            {"arms": {"a": {"experiment": "x", "settings": {"run": "y"}}}},
            "arm 'a' sets run to 'y'; give out=FOLDER instead",
        ),
        (
            {},
            {"arms": {"a": {"experiment": "x", "settings": {"experiment": "y"}}}},
            "sets experiment to 'y'; give arms instead",
        ),
        ({"settings": {"trainer.observers.validation.every": 2}}, {}, "every to 2; give domain.validation instead"),
        ({"settings": {"trainer.observers": {"validation": None}}}, {}, "validation to None; give domain.validation instead"),
        ({"measures": {"n": 2}, "settings": {"trainer.observers": None}}, {}, "give domain.validation instead"),
        ({"measures": {"n": 2}, "settings": {"trainer.observers.measures": None}}, {}, "give domain.measures instead"),
    ],
)
def test_mistakes_are_named(change, given, said):
    with pytest.raises(MultigenError, match=said):
        suite({**DOMAIN, **change}, **given)


def test_a_list_or_mapping_may_be_of_any_kind_that_a_union_names():
    lists = list[int] | list[str]
    assert misfit(["a"], lists, "k") is None and misfit([1], lists, "k") is None and misfit([], lists, "k") is None
    assert misfit({"a": "b"}, dict[str, int] | dict[str, str], "k") is None
    assert misfit([1.5], lists, "k") == "k[0] is 1.5, expected int or str"
    assert misfit([1, "a"], lists, "k") == "k[1] is 'a', expected int, or k[0] is 1, expected str"


def test_settings_may_say_what_the_suite_does_not():
    said = {
        "trainer": "other",
        "trainer.steps_more": 1,
        "trainer.observers.validation.batch_size": 8,
        "trainer.observers.samples": None,
    }
    assert said.items() <= suite({**DOMAIN, "settings": said}).overrides(Run("reed", 1)).items()


def test_a_run_is_a_training_with_the_suites_schedule():
    given = suite(DOMAIN).overrides(Run("reed", 1))
    assert {"experiment": "toy/reed", "seed": 1, "trainer.steps": 10, "b": 2, "a.b": 1}.items() <= given.items()
    assert given["trainer.observers.validation.every"] == 5 and given["trainer.observers.validation.limit"] is None
    assert not any("measures" in key for key in given)
    measured = suite({**DOMAIN, "measures": {"every": 2}}).overrides(Run("reed", 1))
    assert measured["trainer.observers.measures._target_"] == "multigen.observers.Measures"


def test_arms_of_a_seed_advance_together():
    found = [(p.run, p.until) for p in suite(DOMAIN).parts()]
    first = [("vanilla-0", 5), ("reed-0", 5), ("null-0", 5), ("vanilla-0", 10), ("reed-0", 10), ("null-0", 10)]
    assert found == [*first, *((run.replace("-0", "-1"), step) for run, step in first)]
    assert suite(DOMAIN, repeat=4).repeated == Run("reed", 0) and suite(DOMAIN).repeated is None


def test_words_on_the_command_line():
    assert [seconds(x) for x in ("90s", "60min", "2h", "0.5h", None)] == [90, 3600, 7200, 1800, None]
    with pytest.raises(MultigenError, match="budget is '60'"):
        seconds("60")
    assert written({"a": [None, True, 1.5]}) == "{a:[null,true,1.5]}" and written("it's") == "'it\\'s'"


def test_room_is_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert (
        slots(None, 3, "cpu") == [Slot(2)] * 3
        and slots(2, 6, "cpu") == [Slot(4)] * 2
        and slots(None, 20, "cpu") == [Slot(1)] * 8
    )
    monkeypatch.setattr("multigen.benchmark.room._gpus", lambda: ["3", "5"])
    assert slots(None, 6) == [Slot(4, "3"), Slot(4, "5")] and slots(4, 6)[3] == Slot(2, "5")
    assert slots(None, 6, "cuda:1") == [Slot(8)] and slots(None, 6, "cpu")[0].gpu is None
    environment = Slot(3, "5").environment()
    assert environment["OMP_NUM_THREADS"] == "3" and environment["CUDA_VISIBLE_DEVICES"] == "5"


# ----------------------------------------------------------------------------------------------------------------------- board


def test_the_time_left_is_that_of_the_steps_at_their_pace_of_late():
    pace, left = Pace(), None
    for second in range(0, 600, 10):  # data are prepared
        assert pace.left(480, 36_480, second) is None
    for step in range(20, 2020, 20):  # 0.2 s a step
        left = pace.left(480 + step, 36_480, 600 + step / 5)
        assert step == 20 or left == pytest.approx((36_000 - step) / 5)
    paused = pace.left(2480, 36_480, 1000 + 180)  # samples are drawn
    assert paused > 1.3 * left
    for step in range(2020, 4020, 20):
        left = pace.left(480 + step, 36_480, 1180 + (step - 2000) / 5)
    assert left == pytest.approx((36_000 - 4000) / 5, rel=0.02), "the pause is forgotten"


def test_where_there_are_less_steps_than_before_the_pace_is_measured_anew():
    pace = Pace()
    assert [pace.left(done, 100, done) for done in (50, 60, 70)] == [None, None, 30]
    assert [pace.left(done, 50, 70 + 2 * done) for done in (10, 12, 14)] == [None, None, 72]


def test_what_failed_is_no_work_and_what_is_prepared_has_no_step():
    runs = {"a": (40, 40, "done"), "b": (3, 40, "failed"), "c": (0, 40, "preparing"), "d": (10, 40, "running")}
    assert words(runs, None, None) == "1 of 4 runs, 42 % of all steps, 1 failed; c preparing, d at 10 of 40"
    assert words({"a": (3, 40, "failed")}, None, None) == "0 of 1 runs, 0 % of all steps, 1 failed"


# ---------------------------------------------------------------------------------------------------------------------- runner

TRAINS = """
import json, os, pathlib, signal, sys, time
folder, until, pause, fails = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
steps = sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step_*"))
step = steps[-1] if steps else 0
while step < until and not asked:
    if folder.name == fails:
        sys.exit("error: it broke")
    if folder.name == fails.removesuffix(" killed"):
        os.kill(os.getpid(), 9)
    time.sleep(pause)
    step += 1
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step}) + chr(10))
    with open(folder.parent.parent / "order", "a") as file:
        file.write(f"{folder.name} ")
(folder / "checkpoints" / f"step_{step:08d}").mkdir(parents=True, exist_ok=True)
sys.exit(143 if step < until else 0)
"""


def runner(folder: Path, parts, room=1, budget=None, pause=0.0, fails="-"):
    for part in parts:
        (folder / "runs" / part.run).mkdir(parents=True, exist_ok=True)

    def command(run: Path, until: int):
        return [sys.executable, "-c", TRAINS, str(run), str(until), str(pause), fails]

    return Runner(folder, parts, command, [Slot(1)] * room, budget, Board())


PARTS = [Part("a", 2), Part("b", 2), Part("a", 4), Part("b", 4)]


def test_pieces_are_run_in_turn_and_the_state_is_written(tmp_path):
    assert runner(tmp_path, PARTS).run() == "done"
    assert (tmp_path / "order").read_text().split() == [*"aabbaabb"]
    state = read_json(tmp_path / "state.json")
    assert state["ended"] == "done" and state["seconds"] > 0
    assert state["runs"]["a"] == {"steps": 4, "step": 4, "status": "done", "error": None}
    again = runner(tmp_path, [*PARTS, Part("a", 6)])
    assert again._waiting == [Part("a", 6)] and again.progress["b"].status == "done"
    assert again.run() == "done" and (tmp_path / "order").read_text().split() == [*"aabbaabbaa"]
    assert read_json(tmp_path / "state.json")["seconds"] > state["seconds"]


def test_runs_are_side_by_side_but_no_run_beside_itself(tmp_path):
    begun = time.monotonic()
    assert runner(tmp_path, [Part("a", 2), Part("a", 4), Part("b", 4)], room=3, pause=0.1).run() == "done"
    order = (tmp_path / "order").read_text().split()
    assert sorted(order) == [*"aaaabbbb"] and order != sorted(order) and time.monotonic() - begun < 60


def test_a_failure_is_told_and_the_others_go_on(tmp_path, capsys):
    assert runner(tmp_path, PARTS, fails="a").run() == "failed"
    state = read_json(tmp_path / "state.json")["runs"]
    assert state["a"]["status"] == "failed" and state["a"]["error"] == "it broke" and state["b"]["status"] == "done"
    assert "a failed: it broke" in capsys.readouterr().err
    assert runner(tmp_path, PARTS).run() == "done"


def test_what_a_signal_ended_is_not_told_by_older_lines(tmp_path, capsys):
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/log.txt").write_text("target 'z' is cached\n")
    assert runner(tmp_path, [Part("a", 2)], fails="a killed").run() == "failed"
    assert read_json(tmp_path / "state.json")["runs"]["a"]["error"] == "ended by signal 9 (Killed)"
    assert "target" not in capsys.readouterr().err
    (tmp_path / "log").write_text("error: older\nerror: newer\n\n")
    assert [reason(2, tmp_path / "log", start) for start in (0, 13, 27)] == ["newer", "newer", "ended with code 2"]


def test_steps_that_a_kill_undid_are_not_counted(tmp_path):
    folder = tmp_path / "runs" / "a"
    found = runner(tmp_path, [Part("a", 2000)])
    found.command = lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"]
    (folder / "metrics.jsonl").write_text('{"step": 480}\n')
    assert logged(folder, time.time() - 60) == 480 and logged(folder, time.time() + 60) == 0
    os.utime(folder / "metrics.jsonl", (0, 0))
    found._start(found.parts[0], Slot(1))
    try:
        assert found._status("a") == "preparing"
        found._look()
        assert found.progress["a"].step == 0
        (folder / "start.json").touch()
        assert found._status("a") == "running"
    finally:
        found._stop()


def test_results_are_told_of_while_it_runs_and_stop_nothing(tmp_path, monkeypatch, capsys):
    for often in ("_OFTEN", "_SELDOM"):
        monkeypatch.setattr(f"multigen.benchmark.runner.{often}", 0.0)
    states = []

    def news():
        states.append(read_json(tmp_path / "state.json")["seconds"])
        raise ValueError("no picture")

    found = runner(tmp_path, PARTS)
    found.news = news
    assert found.run() == "done" and 1 <= len(states) <= 4 and states == sorted(states) and states[0] > 0
    assert "results are not written yet: no picture" in capsys.readouterr().err


def test_the_end_of_the_budget_stops_and_saves(tmp_path):
    assert runner(tmp_path, [Part("a", 10_000), Part("b", 10_000)], budget=2.0, pause=0.02).run() == "budget"
    state = read_json(tmp_path / "state.json")
    assert state["ended"] == "budget" and 0 < state["runs"]["a"]["step"] < 10_000
    assert state["runs"]["a"]["status"] == "stopped" and state["runs"]["b"]["status"] == "waiting"


def test_an_interruption_stops_and_saves(tmp_path):
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    found = runner(tmp_path, [Part("a", 10_000)], pause=0.02)
    assert found.run() == "interrupted" and found.received == signal.SIGTERM
    assert 0 < read_json(tmp_path / "state.json")["runs"]["a"]["step"] < 10_000
