"""Building a cache: shards computed by any number of processes, each of which may be killed at any time.

A process takes a shard by locking a file. The system lets go of such a lock when the process dies, so that nothing has to
be cleaned up, and the next one computes what is missing. Starting the same command several times is therefore all it takes
to share the work, on one machine or on several with a common disk.
"""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multigen.cache import shard
from multigen.cache.codec import CODECS
from multigen.cache.encode import Cost, Job
from multigen.cache.progress import amount, bar, duration
from multigen.cache.read import shard_path
from multigen.cache.spec import MANIFEST, PREPARE, Spec, Storage, differences, manifest, refuse
from multigen.cache.whitening import fit_teacher, spec_of
from multigen.files import make_folder, write_json
from multigen.modality import Dataset
from multigen.state import MultigenError

Log = Callable[[str], None]
Report = Callable[[int], object]
"""Is told how many more examples are encoded."""


def prepare(
    job: Job,
    storage: Storage,
    others: Sequence[Dataset] = (),
    root: Path | None = None,
    jobs: int = 1,
    log: Log = print,
) -> list[Path]:
    """Fit the whitening (if any) on `job.dataset` and cache one target of it and of `others`: all that training needs.

    Args:
        job: the encoder and the training split; its ``workers`` and ``device`` are used throughout.
        storage: how the features are stored.
        others: further data sets (validation), stored with the training split's whitening.
        root: the data root; see `multigen.files.data_root`.
        jobs: processes that encode, this one included.
        log: is told what will be done and what it will cost, before it is done.

    Returns:
        The folders of the caches. Finished shards found there are verified and kept; damaged ones are computed again.

    Raises:
        MultigenError: the modality augments, a feature is not finite or does not fit the type, the disk is full, ...
    """
    job.check()
    teacher = fit_teacher(job, storage, root, log)
    return [build(replace(job, dataset=d, encoder=teacher), storage, root, jobs, log) for d in (job.dataset, *others)]


def build(job: Job, storage: Storage, root: Path | None = None, jobs: int = 1, log: Log = print) -> Path:
    """Cache one target of one data set. `job.encoder` already whitens, where that is wanted; see `prepare`."""
    spec = spec_of(job.name, job.dataset, job.encoder, storage.dtype)
    folder = spec.folder(root)
    plan = Plan(job, folder, spec.dtype, begin(folder, spec, len(job.dataset), storage.shard))
    missing = plan.missing()
    if missing:
        log(plan.estimate(missing, job.cost()))
        plan.run(missing, jobs)
    log(f"target {job.name!r}: {len(job.dataset):,} examples are cached in {folder}")
    return folder


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


@dataclass(frozen=True)
class Plan:
    """The shards of one cache, and how to compute them."""

    job: Job
    folder: Path
    dtype: str
    per_shard: int

    def indices(self, number: int) -> range:
        return range(number * self.per_shard, min((number + 1) * self.per_shard, len(self.job.dataset)))

    def missing(self) -> list[int]:
        """The shards that are not there or not as they were written."""
        count = -(-len(self.job.dataset) // self.per_shard)
        return [number for number in range(count) if not shard.valid(shard_path(self.folder, number))]

    def examples(self, numbers: Iterable[int]) -> int:
        return sum(len(self.indices(number)) for number in numbers)

    def estimate(self, missing: Sequence[int], cost: Cost) -> str:
        """What computing `missing` will take, in words.

        Raises:
            MultigenError: more than the disk has left.
        """
        name, count = self.job.name, self.examples(missing)
        row = CODECS[self.dtype].encode(np.zeros((1, cost.width), np.float32))["rows"].nbytes
        size, free = count * cost.rows * row, shutil.disk_usage(self.folder).free
        if size > free:
            raise MultigenError(f"target {name!r} needs {amount(size)} in {self.folder}, where {amount(free)} are left")
        each = f"{cost.rows:.4g} x {cost.width} {self.dtype} each"
        cost_text = f"{amount(size)}, about {duration(count * cost.seconds)} for one process on {self.job.device}"
        return f"target {name!r}: {count:,} of {len(self.job.dataset):,} examples to encode, {each}, {cost_text}"

    def run(self, missing: Sequence[int], jobs: int = 1) -> None:
        """Compute `missing` with `jobs` processes. At the end all of them are there, whoever computed them."""
        context = multiprocessing.get_context("spawn")
        done = context.RawValue("q", 0)
        helpers = min(jobs, len(missing)) - 1
        share = max(1, torch.get_num_threads() // (helpers + 1)) if helpers else torch.get_num_threads()
        arguments = (self, missing, done, share)
        processes = [context.Process(target=_help, args=arguments, daemon=True) for _ in range(helpers)]
        with _running(processes), _threads(share), bar(f"caching {self.job.name}", self.examples(missing)) as show:
            self.work(missing, lambda count: show(_add(done, count)))

    def work(self, missing: Sequence[int], report: Report) -> None:
        """Compute those of `missing` that nobody else does, and wait for the others."""
        taken = [number for number in missing if not self.attempt(number, report, wait=False)]
        for number in taken:
            self.attempt(number, report, wait=True)

    def attempt(self, number: int, report: Report, wait: bool) -> bool:
        """Compute a shard unless it is there by now. False if another process is at it; `wait` for it instead."""
        from filelock import FileLock, Timeout

        path = shard_path(self.folder, number)
        try:
            with FileLock(self.folder / f".{path.stem}.lock").acquire(blocking=wait):
                if not _orphaned() and not shard.valid(path):
                    self.compute(number, report)
        except Timeout:
            return False
        return True

    def compute(self, number: int, report: Report) -> None:
        path, items = shard_path(self.folder, number), []
        for left in self.folder.glob(f".{path.stem}.*.tmp"):  # of a process that was killed: we hold the lock
            left.unlink(missing_ok=True)
        for features in self.job.features(self.indices(number)):
            items += shard.split(features)
            report(len(features.mask))
        try:
            shard.write(path, shard.pack(items, CODECS[self.dtype]))
        except MultigenError as error:
            raise MultigenError(f"target {self.job.name!r}: {error}") from error


def _add(done: Any, count: int) -> int:
    """Count on a number that processes share. Without a lock: a progress bar may be an example off."""
    done.value += count
    return done.value


def _help(plan: Plan, missing: Sequence[int], done: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    plan.work(missing, lambda count: _add(done, count))


def _orphaned() -> bool:
    """Is this a helper whose parent was killed?"""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Share the processor's cores among processes instead of each taking them all."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _running(helpers: Sequence[BaseProcess]) -> Iterator[None]:
    """Processes that help until the caller is done. What a helper leaves, failed or killed, the caller does itself."""
    started: list[BaseProcess] = []
    try:
        for helper in helpers:
            _start(helper)
            started.append(helper)
        yield
    finally:
        for helper in started:
            helper.terminate()
            helper.join()


def _start(helper: BaseProcess) -> None:
    try:
        helper.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        hint = "use jobs=1, or start the command several times"
        raise MultigenError(f"the encoder or data set cannot be sent to another process ({error}): {hint}") from error
