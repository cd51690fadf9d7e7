"""What is to be computed: the shards of caches that are not there yet, and what they will cost."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from multigen.cache import shard
from multigen.cache.codec import CODECS
from multigen.cache.encode import Cost, Job, Size
from multigen.cache.progress import amount, duration, pass_of
from multigen.cache.read import shard_path
from multigen.cache.spec import MANIFEST, PREPARE, Spec, Storage, differences, manifest, refuse
from multigen.cache.whitening import spec_of
from multigen.files import make_folder, write_json
from multigen.state import MultigenError


def begin(folder: Path, spec: Spec, count: int, per_shard: int) -> int:
    """Write the manifest, or go on with the one that is there; returns the examples per shard that it states."""
    from filelock import FileLock

    make_folder(folder)
    wanted = asdict(spec) | {"count": count}
    with FileLock(folder.with_suffix(".lock")):
        try:
            found = manifest(folder)
        except MultigenError:
            shutil.rmtree(folder)  # shards without a manifest could be of any length
            write_json(folder / MANIFEST, {"spec": asdict(spec), "count": count, "shard": per_shard})
            return per_shard
    keys = found["spec"] | {"count": found["count"]}
    if differences(keys, wanted):
        raise refuse(f"cached target {spec.name!r}", wanted, {folder: keys}, f"rm -r {folder}; {PREPARE}")
    return int(found["shard"])


@dataclass(frozen=True, eq=False)
class Plan:
    """The shards of one cache, and how to compute them."""

    job: Job
    folder: Path
    dtype: str
    per_shard: int

    @staticmethod
    def begin(job: Job, storage: Storage, root: Path | None = None) -> Plan:
        spec = spec_of(job.name, job.dataset, job.encoder, storage.dtype)
        folder = spec.folder(root)
        return Plan(job, folder, spec.dtype, begin(folder, spec, len(job.dataset), storage.shard))

    def indices(self, number: int) -> range:
        return range(number * self.per_shard, min((number + 1) * self.per_shard, len(self.job.dataset)))

    def path(self, number: int) -> Path:
        return shard_path(self.folder, number)

    def lacks(self, number: int) -> bool:
        """Is the shard not there, or not as it was written?"""
        return not shard.valid(self.path(number))

    def take(self, number: int, held: ExitStack, wait: bool) -> bool:
        """Lock a shard until `held` ends. False if another process is at it; `wait` for it instead."""
        from filelock import FileLock, Timeout

        try:
            held.enter_context(FileLock(self.folder / f".{self.path(number).stem}.lock").acquire(blocking=wait))
        except Timeout:
            return False
        return True

    def bytes(self, numbers: int, size: Size) -> float:
        """What the features of so many examples take on the disk."""
        return numbers * size.rows * CODECS[self.dtype].encode(np.zeros((1, size.width), np.float32))["rows"].nbytes

    def write(self, number: int, items: Sequence[shard.Item]) -> None:
        path = self.path(number)
        for left in self.folder.glob(f".{path.stem}.*.tmp"):  # of a process that was killed: we hold the lock
            left.unlink(missing_ok=True)
        try:
            shard.write(path, shard.pack(items, CODECS[self.dtype]))
        except MultigenError as error:
            raise MultigenError(f"target {self.job.name!r}: {error}") from error


Missing = Mapping[int, Sequence[Plan]]
"""Numbers of shards that are to be computed, each with the caches that lack it: of one data set, in shards of one size."""


def missing(plans: Sequence[Plan]) -> Missing:
    """The shards that are not there or not as they were written."""
    count = -(-len(plans[0].job.dataset) // plans[0].per_shard)
    found = {number: [plan for plan in plans if plan.lacks(number)] for number in range(count)}
    return {number: plans for number, plans in found.items() if plans}


def lacking(todo: Missing) -> list[Plan]:
    """The caches that lack any shard."""
    return list(dict.fromkeys(plan for plans in todo.values() for plan in plans))


def examples(todo: Missing, plan: Plan | None = None) -> int:
    """How many are to be encoded: at all, or for one cache."""
    return sum(len(plans[0].indices(number)) for number, plans in todo.items() if plan is None or plan in plans)


def estimate(todo: Missing, cost: Cost) -> list[str]:
    """What computing `todo` will take, in words; `cost` is that of the caches that lack a shard.

    Raises:
        MultigenError: more than the disk has left.
    """
    plans, lines, total = lacking(todo), [], 0.0
    for plan, size in zip(plans, cost.sizes, strict=True):
        name, count = plan.job.name, examples(todo, plan)
        needed, free = plan.bytes(count, size), shutil.disk_usage(plan.folder).free - total
        if needed > free:
            raise MultigenError(f"target {name!r} needs {amount(needed)} in {plan.folder}, where {amount(free)} are left")
        total += needed
        each = f"{size.rows:.4g} x {size.width} {plan.dtype} each, {amount(needed)}"
        lines.append(f"target {name!r}: {count:,} of {len(plan.job.dataset):,} examples to encode, {each}")
    return pass_of(lines, f"about {duration(examples(todo) * cost.seconds)} for one process on {plans[0].job.device}")
