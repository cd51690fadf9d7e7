"""What `test_distributed` starts in several processes: train, then cut up and put together a list."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import training_toys

from multigen import distributed
from multigen.files import write_json


def record(folder: str) -> None:
    """How many of the group's threads are left: one that outlives the interpreter may abort the process."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    write_json(Path(folder) / f"threads_{os.environ['RANK']}.json", sum("gloo" in name for name in names))


def main(folder: str, settings: str) -> int:
    atexit.register(record, folder)  # what is registered later runs before it: leaving the group
    code = training_toys.main(folder, settings)
    items = list(range(int(json.loads(settings)["steps"]) + 1))
    gathered = distributed.gather(distributed.shard(items))
    counts = distributed.gather([len(distributed.shard(items))])
    if distributed.rank() == 0:
        write_json(Path(folder) / "gathered.json", {"items": gathered, "counts": counts, "world": distributed.world()})
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
