"""What a benchmark runs, in which order, and what becomes of processes that fail, end early or are told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from multigen.benchmark.board import Board
from multigen.benchmark.room import Slot, slots
from multigen.benchmark.runner import Runner
from multigen.benchmark.suite import Arm, Part, Run, seconds, suite, written
from multigen.files import read_json
from multigen.state import MultigenError

DOMAIN = {
    "name": "toy",
    "arms": {"vanilla": "toy/vanilla", "reed": {"experiment": "toy/reed", "settings": {"a.b": 1}}, None: "toy/null"},
    "steps": 10,
    "slices": 2,
    "seeds": 2,
    "settings": {"b": 2},
    "validation": {"every": 5, "limit": None},
    "quality": [{"of": "valid/x", "words": "loss"}],
}


def test_arms_are_those_of_the_file_or_experiments():
    assert suite(DOMAIN).arms == {"vanilla": Arm("toy/vanilla"), "reed": Arm("toy/reed", {"a.b": 1}), "null": Arm("toy/null")}
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
    ],
)
def test_mistakes_are_named(change, given, said):
    with pytest.raises(MultigenError, match=said):
        suite({**DOMAIN, **change}, **given)


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


# ---------------------------------------------------------------------------------------------------------------------- runner

TRAINS = """
import json, pathlib, signal, sys, time
folder, until, pause, fails = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
steps = sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step_*"))
step = steps[-1] if steps else 0
while step < until and not asked:
    if folder.name == fails:
        sys.exit("error: it broke")
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


def test_the_end_of_the_budget_stops_and_saves(tmp_path):
    assert runner(tmp_path, [Part("a", 10_000), Part("b", 10_000)], budget=2.0, pause=0.02).run() == "budget"
    state = read_json(tmp_path / "state.json")
    assert state["ended"] == "budget" and 0 < state["runs"]["a"]["step"] < 10_000
    assert state["runs"]["a"]["status"] == "stopped" and state["runs"]["b"]["status"] == "waiting"


def test_an_interruption_stops_and_saves(tmp_path):
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert runner(tmp_path, [Part("a", 10_000)], pause=0.02).run() == "interrupted"
    assert 0 < read_json(tmp_path / "state.json")["runs"]["a"]["step"] < 10_000
