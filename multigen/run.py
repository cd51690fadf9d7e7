"""A run's folder: its configuration, metrics, checkpoints and samples, written by one process at a time.

::

    outputs/NAME/
        config.yaml      complete: sampling, evaluation and resuming read nothing else
        versions.json    program, libraries and device that trained it last
        metrics.jsonl    one JSON object a line, each with "step"
        checkpoints/     see `multigen.checkpoint`
        samples/         sample grids drawn while training
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from multigen import describe
from multigen.files import make_folder, read_json, read_text, remove_temporaries, to_json, write_json, write_text, writing
from multigen.state import MultigenError

Config = dict[str, Any]

HARMLESS = (
    "name", "run", "resume", "device", "sampler*", "metrics*", "evaluate*", "hydra*",
    "trainer.steps", "trainer.device", "trainer.workers", "trainer.checkpoint_every", "trainer.keep", "trainer.keep_every",
    "trainer.log_every", "trainer.log_to", "trainer.progress", "trainer.observers*", "trainer.compile",
    "trainer.max_bad_losses",
)  # fmt: skip
"""Settings that may change when a run goes on: they do not change what is learned in a step (compiling: but for rounding)."""


class Run:
    """One run's folder.

    Args:
        folder: made when training starts.
        config: the complete configuration as plain values; None when there is none (library use) or it is to be read.
    """

    def __init__(self, folder: Path | str, config: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.config: Config | None = None if config is None else json.loads(to_json(dict(config)))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run, trained or not."""
        return (self.folder / "config.yaml").is_file()

    def require(self) -> None:
        """Refuse a folder that holds no run.

        Raises:
            MultigenError: naming it.
        """
        if not self.begun:
            raise MultigenError(f"{self.folder} is not a run folder: it has no config.yaml")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def digest(self) -> str | None:
        """Identifies what the configuration makes a run learn; None without a configuration."""
        if self.config is None:
            return None
        return hashlib.sha256(to_json(sorted(_essential(self.config).items())).encode()).hexdigest()[:16]

    # --------------------------------------------------------------------------------------------------- configuration

    def stored(self) -> Config:
        """The configuration that the folder holds.

        Raises:
            MultigenError: it is no run folder.
        """
        import yaml

        self.require()
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise MultigenError(f"{path} is damaged: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict):
            raise MultigenError(f"{path} is damaged: it holds no settings")
        return config

    def versions(self) -> Config:
        """What ``versions.json`` says of the last training; {} where there is none that can be read."""
        try:
            found = read_json(self._versions)
        except MultigenError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def _versions(self) -> Path:
        return self.folder / "versions.json"

    def changes(self) -> dict[str, str]:
        """Dotted key -> how a setting differs from what the folder holds; {} if it holds none."""
        if self.config is None or not self.begun:
            return {}
        before, now = dict(flat(self.stored())), dict(flat(self.config))
        pairs = {k: (before.get(k, _ABSENT), now.get(k, _ABSENT)) for k in {**before, **now}}
        return {k: f"{k} was {old!r} and is {new!r}" for k, (old, new) in pairs.items() if old != new}

    def check(self, advice: str = "choose another run folder") -> None:
        """Refuse to go on with a run of another configuration, naming the settings that differ.

        Args:
            advice: what to do about it, for the message.
        """
        changed = [said for key, said in self.changes().items() if not matches(key, HARMLESS)]
        if changed:
            raise MultigenError(f"{self.folder} holds a run of another configuration: {few(changed)}; {advice}")

    def wait(self, seconds: float) -> None:
        """Until nobody writes to the folder.

        Raises:
            MultigenError: after so many seconds another process still does.
        """
        with owning(self.folder, seconds):
            pass

    def store(self, patience: float = 0.0) -> None:
        """Write the configuration and nothing else: what the folder says about the training so far stays as it is.

        Args:
            patience: seconds to wait for another process that writes to the folder.

        Raises:
            MultigenError: it still does, or the folder holds another configuration.
        """
        with owning(self.folder, patience):
            self.check()
            self._store()

    def _store(self) -> None:
        import yaml

        if self.config is not None:
            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True, width=120)
            write_text(self.folder / "config.yaml", text)

    # --------------------------------------------------------------------------------------------------------- writing

    @contextmanager
    def open(self, device: torch.device | str = "cpu", **about: str) -> Iterator[None]:
        """Own the folder for as long as the context lasts: make it, lock it, check it, clear what killed writers left.

        Args:
            device: that it is trained on.
            about: what ``versions.json`` shall say besides.

        Raises:
            MultigenError: another process owns it, it holds another configuration, or it cannot be written.
        """
        make_folder(self.checkpoints)
        with owning(self.folder):
            self.check()
            for folder in (self.folder, self.checkpoints, self.samples):
                remove_temporaries(folder)
            self._store()
            write_json(self._versions, {**describe.versions(device), **about})
            yield

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(to_json({"step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Forget metrics of later steps, and a line that was torn by a kill: training goes on from `step`."""
        if self.metrics.is_file():
            lines = [to_json(entry) for entry in self.history() if entry["step"] <= step]
            write_text(self.metrics, "".join(f"{line}\n" for line in lines))

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, oldest first, without torn ones."""
        if not self.metrics.is_file():
            return []
        parsed = [_parse(line) for line in self.metrics.read_bytes().splitlines()]
        return [entry for entry in parsed if entry is not None]


_ABSENT = "absent"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _essential(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, for what must not change while a run goes on."""
    return {k: v for k, v in flat(config) if not matches(k, HARMLESS)}


def matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def few(said: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join([*said[:3], *([f"and {len(said) - 3} more"] if len(said) > 3 else [])])


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested settings."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


# -------------------------------------------------------------------------------------------------------------------- lock

_PAUSE = 0.2
_held: set[int] = set()
"""File descriptors of the locks that this process holds."""


def _let_go() -> None:
    """In a forked child: a lock lasts as long as anyone has its file open, and a child may outlive a killed parent."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def owning(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock. The system drops it with the process, however that ends, so that it is never stale.

    Args:
        folder: made if it is not there.
        patience: seconds to wait for another process that holds it.

    Raises:
        MultigenError: it still does.
    """
    if find_spec("fcntl") is None:  # no such locks on this system: two writers are the user's to avoid
        yield
        return
    path = make_folder(folder) / ".lock"
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + patience
        while not _taken(handle):
            if time.monotonic() >= end:
                owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                raise MultigenError(f"{folder} is being written by another process (number {owner})")
            time.sleep(_PAUSE)
        _held.add(handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _taken(handle: int) -> bool:
    """Take the lock of an open file; False if another process holds it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
