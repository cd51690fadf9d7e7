"""``multigen benchmark domain=NAME``: arms of a domain trained side by side, and what came of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from multigen.benchmark.collect import AGAIN, collect
from multigen.benchmark.earlier import set_aside
from multigen.benchmark.page import redraw, write_results
from multigen.benchmark.room import Slot, slots
from multigen.benchmark.runner import PATIENCE, Runner
from multigen.benchmark.suite import Part, Run, Suite, seconds, suite, written
from multigen.build import Config, compose, groups
from multigen.cli import settings as own
from multigen.cli.errors import explain
from multigen.run import Run as RunFolder
from multigen.run import few, matches, owning
from multigen.state import MultigenError
from multigen.trainer import Interrupted

_MEASURED = ("sampler*", "metrics*", "trainer.observers*")
"""Settings that a run's numbers depend on, although what it learns does not."""
_ELSEWHERE, _FOR_ALL = "choose out=FOLDER", '"domain.settings={KEY:VALUE}"'
_READ = ("domain", "arms", "seeds", "baseline", "repeat", "out", "budget", "jobs", "device")


def main(settings: Config) -> None:
    """Train what is not trained yet, and write the results of what is."""
    if unread := sorted(key for key in own.given() if key.split(".")[0] not in _READ):
        raise MultigenError(f"a benchmark of a domain does not read {unread[0]}; what its runs do is said in {_FOR_ALL}")
    plan = suite(*(settings[k] for k in ("domain", "arms", "seeds", "baseline", "repeat")))
    folder = Path(settings["out"] or f"outputs/benchmark/{plan.name}")
    budget = seconds(settings["budget"])
    room = slots(_jobs(settings["jobs"]), len(plan.runs), settings["device"])
    with owning(folder):
        prepare(plan, folder, settings["device"])
        print(_header(plan, folder, room), set_aside(folder, plan), sep="", file=sys.stderr)
        parts = [*plan.parts(), *_again(plan)]
        runner = Runner(folder, parts, command, room, budget, news=lambda: write_results(folder, collect(folder, plan)))
        finish(folder, plan, runner.run(), runner.received)


def _header(plan: Suite, folder: Path, room: Sequence[Slot]) -> str:
    again = f" and {min(plan.repeat, plan.steps):,} steps of one of them again" if plan.repeated else ""
    each = f"{room[0].threads} {'thread' if room[0].threads == 1 else 'threads'} each"
    return f"{plan.name}: {len(plan.runs)} runs of {plan.steps:,} steps{again}, {len(room)} side by side, {each}, in {folder}"


def _jobs(given: int | str) -> int | None:
    """So many, or None for as many as there is room for."""
    if isinstance(given, str) and given != "auto":
        raise MultigenError(f"jobs is {given!r}: a number, or auto")
    return None if isinstance(given, str) else given


def finish(folder: Path, plan: Suite, ended: str, received: int | None = None) -> None:
    """Say what came out, and what to do about what did not."""
    print(write_results(folder, collect(folder, plan)))
    print(f"report: {folder}/report.html; numbers: {folder}/results.json and results.md; figure: {folder}/figure.png")
    if ended == "interrupted":
        raise Interrupted(received or signal.SIGINT, "stopped; the same command goes on where it was")
    if ended == "budget":
        print("the budget is used up; the same command goes on where it was")
    if ended == "failed":
        raise MultigenError(f"some runs failed: {folder}/state.json says which and why; the same command tries them again")


def again(folder: str) -> None:
    """Figures, tables and page once more, out of the JSON."""
    print(redraw(Path(folder)))


def prepare(plan: Suite, folder: Path, device: str) -> None:
    """Put the complete configuration of every run into its folder, and refuse folders of other ones before any is changed.

    Raises:
        MultigenError: an arm cannot be composed, or a folder holds another run, or one that was measured in another way.
    """
    named = [(run, run.name) for run in plan.runs]
    if (again := plan.repeated) is not None:
        named.append((again, f"{again.name}{AGAIN}"))
    configured = [configure(plan, run, folder / "runs" / name, device) for run, name in named]
    for run_folder in configured:
        if run_folder.changes() or not run_folder.begun:
            run_folder.store(PATIENCE)


def configure(plan: Suite, run: Run, folder: Path, device: str) -> RunFolder:
    """A run's folder with its configuration, of which nothing is written yet."""
    try:
        config = compose("train", [*_sources(), *overrides(plan, run), f"device={device}"])
    except MultigenError as error:
        raise MultigenError(f"arm {run.arm!r}: {error}; what all arms need stands in {_FOR_ALL}") from None
    except Exception as error:
        found = explain(error, "train", overrides(plan, run))
        raise (MultigenError(f"arm {run.arm!r}: {found}") if found else error) from error
    run_folder = RunFolder(folder, {**config, "run": str(folder)})
    run_folder.check(_ELSEWHERE)
    changed = [said for key, said in run_folder.changes().items() if matches(key, _MEASURED)]
    if changed and run_folder.metrics.is_file():
        raise MultigenError(f"{folder} was measured in another way so far: {few(changed)}; {_ELSEWHERE}")
    return run_folder


def overrides(plan: Suite, run: Run) -> list[str]:
    """A run's settings as Hydra reads them: choices of a group, and keys that need not be there before."""
    known = groups("train")
    return [f"{'' if key in known else '++'}{key}={written(x)}" for key, x in plan.overrides(run).items()]


def _sources() -> list[str]:
    """Where the command line says that further configurations lie."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    found = [f"file://{x.path}" for x in HydraConfig.get().runtime.config_sources if x.provider == "command-line"]
    return [f"hydra.searchpath=[{','.join(found)}]"] if found else []


def _again(plan: Suite) -> list[Part]:
    run = plan.repeated
    return [] if run is None else [Part(f"{run.name}{AGAIN}", min(plan.repeat, plan.steps))]


def command(folder: Path, until: int) -> list[str]:
    return [sys.executable, "-m", "multigen.cli.arm", str(folder), str(until), str(os.getpid())]
