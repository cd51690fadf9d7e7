"""What `test_distributed` starts in several processes: train, then cut up and put together a list."""

from __future__ import annotations

import atexit
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import training_toys

from multigen import distributed
from multigen.files import write_json


def group_threads() -> int:
    """How many of this process's threads are the group's, by the names that Linux gives them."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # a thread may end meanwhile
            names.append(path.read_text())
    return sum("gloo" in name for name in names)


def record(folder: str, threads: list[int]) -> None:
    """One that outlives the interpreter may abort the process."""
    write_json(Path(folder) / f"threads_{os.environ['RANK']}.json", [*threads, group_threads()])


def main(folder: str, settings: str) -> int:
    threads: list[int] = []
    atexit.register(record, folder, threads)  # what is registered later runs before it: leaving the group
    code = training_toys.main(folder, settings)
    threads.append(group_threads())
    items = list(range(int(json.loads(settings)["steps"]) + 1))
    gathered = distributed.gather(distributed.shard(items))
    counts = distributed.gather([len(distributed.shard(items))])
    if distributed.rank() == 0:
        write_json(Path(folder) / "gathered.json", {"items": gathered, "counts": counts, "world": distributed.world()})
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
