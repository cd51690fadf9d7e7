"""What `test_distributed` starts in several processes: train, then cut up and put together a list."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import training_toys

from multigen import distributed
from multigen.files import write_json


def main(folder: str, settings: str) -> int:
    code = training_toys.main(folder, settings)
    items = list(range(int(json.loads(settings)["steps"]) + 1))
    gathered = distributed.gather(distributed.shard(items))
    counts = distributed.gather([len(distributed.shard(items))])
    if distributed.rank() == 0:
        write_json(Path(folder) / "gathered.json", {"items": gathered, "counts": counts, "world": distributed.world()})
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
