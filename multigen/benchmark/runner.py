"""Pieces of runs, each as a process of its own, as many side by side as there is room for."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from multigen import checkpoint
from multigen.benchmark.board import Board
from multigen.benchmark.room import Slot
from multigen.benchmark.suite import Part
from multigen.files import read_json, write_json
from multigen.run import Run
from multigen.trainer.signals import Signals

FORMAT = 1
"""Version of `state.json`."""
TO_SAVE = 120.0
"""Seconds that a process has for saving before it is killed."""
PATIENCE = TO_SAVE + 30
"""Seconds in which a process whose benchmark was killed has surely ended."""
_PAUSE, _TAIL = 0.2, 1 << 16
_OFTEN, _SELDOM = 60.0, 600.0
"""Seconds between two writings of ``state.json``, and of the results, which are many figures."""


@dataclass
class Progress:
    """How far one run is, as `state.json` has it."""

    steps: int
    step: int = 0
    status: str = "waiting"
    """waiting | running | stopped | done | failed."""
    error: str | None = None

    def rest(self, step: int) -> None:
        """Nobody works on it; it is saved at `step`."""
        self.step, self.status = step, "done" if step >= self.steps else "stopped" if step else "waiting"


class Active(NamedTuple):
    """A process that works on a run."""

    process: subprocess.Popen[Any]
    slot: Slot
    begun: float
    """Wall-clock time, as files have it."""
    said: int
    """Bytes of the run's ``log.txt`` that are older."""


@dataclass
class Runner:
    """Runs `parts` in order, but no two of one run at a time.

    Args:
        folder: of the benchmark; ``runs/NAME`` are the runs' folders, ``state.json`` says how far each is.
        parts: what is to be done.
        command: (folder of a run, step) -> the command line that trains it so far.
        room: see `multigen.benchmark.room.slots`.
        budget: seconds after which everything is stopped and saved; None for no limit.
        news: called now and then when parts have ended; what goes wrong in it is told, and stops nothing.
    """

    folder: Path
    parts: Sequence[Part]
    command: Callable[[Path, int], Sequence[str]]
    room: Sequence[Slot]
    budget: float | None = None
    board: Board = field(default_factory=Board)
    news: Callable[[], object] = lambda: None
    progress: dict[str, Progress] = field(init=False)
    received: int | None = field(init=False, default=None)
    """The signal that it was interrupted by."""

    def __post_init__(self) -> None:
        goals = {name: max(p.until for p in self.parts if p.run == name) for name in dict.fromkeys(p.run for p in self.parts)}
        self.progress = {name: Progress(steps, saved(self.path(name))) for name, steps in goals.items()}
        self._active: dict[str, Active] = {}
        self._free = list(self.room)
        self._waiting = [part for part in self.parts if part.until > self.progress[part.run].step]
        self._before = float(_stored(self.folder).get("seconds", 0.0))
        self._begun = self._written = self._told = time.monotonic()
        self._untold = 0
        for run in self.progress.values():
            run.rest(run.step)

    def path(self, name: str) -> Path:
        return self.folder / "runs" / name

    def run(self) -> str:
        """Work until nothing is left to do; returns how it ended: "done", "failed", "budget" or "interrupted"."""
        with Signals() as signals, self.board:
            try:
                while (ended := self._ended(signals)) is None:
                    self._fill()
                    self._keep()
                    time.sleep(_PAUSE)
                    self._look()
            finally:
                self.received = signals.received
                self._stop()
        self._write(ended)
        return ended

    @property
    def seconds(self) -> float:
        """Wall-clock time of this and earlier calls."""
        return self._before + time.monotonic() - self._begun

    def _ended(self, signals: Signals) -> str | None:
        if signals.received is not None:
            return "interrupted"
        if not self._waiting and not self._active:
            return "failed" if any(run.status == "failed" for run in self.progress.values()) else "done"
        out_of_time = self.budget is not None and time.monotonic() - self._begun >= self.budget
        return "budget" if out_of_time else None

    def _fill(self) -> None:
        """Start what there is room for."""
        while self._free and (part := next((part for part in self._waiting if part.run not in self._active), None)):
            self._waiting.remove(part)
            self._start(part, self._free.pop(0))

    def _start(self, part: Part, slot: Slot) -> None:
        folder, begun = self.path(part.run), time.time()
        with open(folder / "log.txt", "ab") as log:
            said = log.tell()
            process = subprocess.Popen(
                self.command(folder, part.until),
                env=slot.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's ctrl-c is for us, who pass it on
            )
        self._active[part.run] = Active(process, slot, begun, said)
        self.progress[part.run].status = "running"
        self._write(None)

    def _look(self) -> None:
        """Take in what has been done since the last look."""
        for name, active in list(self._active.items()):
            self.progress[name].step = max(saved(self.path(name)), logged(self.path(name), active.begun))
            if active.process.poll() is not None:
                self._finished(name, active)
        left = None if self.budget is None else self.budget - (time.monotonic() - self._begun)
        self.board.show({name: (run.step, run.steps, self._status(name)) for name, run in self.progress.items()}, left)

    def _status(self, name: str) -> str:
        """As it is shown: data and targets are prepared, and the start is measured, before a run's first step."""
        begun = name not in self._active or (self.path(name) / "start.json").is_file()
        return self.progress[name].status if begun else "preparing"

    def _finished(self, name: str, active: Active) -> None:
        del self._active[name]
        self._free.append(active.slot)
        run = self.progress[name]
        run.rest(saved(self.path(name)))
        self._untold += 1
        if active.process.returncode != 0:
            run.status, run.error = "failed", reason(active.process.returncode, self.path(name) / "log.txt", active.said)
            self._waiting = [part for part in self._waiting if part.run != name]
            self.board.say(f"{name} failed: {run.error}")
        self._write(None)

    def _keep(self) -> None:
        """What is worth keeping should this process be killed."""
        if time.monotonic() - self._written < _OFTEN:
            return
        self._written = time.monotonic()
        self._write(None)
        if self._untold and self._written - self._told >= _SELDOM:
            self._untold, self._told = 0, self._written
            try:
                self.news()
            except Exception as error:  # trainings of days go on whatever becomes of a picture
                self.board.say(f"results are not written yet: {error}")

    def _stop(self) -> None:
        """Ask what still runs to save and end."""
        for active in self._active.values():
            active.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + TO_SAVE
        for name, active in self._active.items():
            try:
                active.process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                active.process.kill()
                active.process.wait()
            self.progress[name].rest(saved(self.path(name)))
        self._active.clear()

    def _write(self, ended: str | None) -> None:
        runs = {name: vars(run) for name, run in self.progress.items()}
        write_json(self.folder / "state.json", {"format": FORMAT, "ended": ended, "seconds": self.seconds, "runs": runs})


def _stored(folder: Path) -> Mapping[str, Any]:
    path = folder / "state.json"
    return read_json(path) if path.is_file() else {}


def saved(folder: Path) -> int:
    """The step of a run's last checkpoint."""
    found = checkpoint.paths(Run(folder).checkpoints)
    return int(found[-1].name.removeprefix("step_")) if found else 0


def logged(folder: Path, since: float) -> int:
    """The last step that a run has logged, from the end of a file that may be long.

    Args:
        since: 0 if nothing was logged after this time: a process that goes on first forgets what was never saved.
    """
    path = Run(folder).metrics
    if not path.is_file() or path.stat().st_mtime < since:
        return 0
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        found = re.findall(rb'^\{"step": (\d+)', file.read(), re.MULTILINE)
    return int(found[-1]) if found else 0


def reason(code: int, log: Path, start: int) -> str:
    """Why a process ended: what it said last, behind byte `start` of its log, unless a signal ended it."""
    if code < 0:
        return f"ended by signal {-code} ({signal.strsignal(-code)})"
    lines = log.read_bytes()[start:].decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), f"ended with code {code}").removeprefix("error: ")
