"""Building a cache: shards computed by any number of processes, each of which may be killed at any time.

A process takes a shard by locking a file. The system lets go of such a lock when the process dies, so that nothing has to
be cleaned up, and the next one computes what is missing. Starting the same command several times is therefore all it takes
to share the work, on one machine or on several with a common disk.

Several targets of the same examples are computed together, a shard of each at a time, since encoders may share a network:
examples are read once and the network runs once for all. Each target still has its own cache, its own locks and its own
missing shards, so that it can be prepared alone, and a cache that lacks nothing costs nothing.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from multigen.cache import shard
from multigen.cache.cut import cut
from multigen.cache.encode import Job, check, cost, features
from multigen.cache.plan import Missing, Plan, estimate, examples, lacking, missing
from multigen.cache.progress import bar
from multigen.cache.spec import Storage
from multigen.cache.whitening import fit_teachers
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
    return [folder for (folder,) in prepare_all([job], [storage], others, root, jobs, log)]


def prepare_all(
    targets: Sequence[Job],
    storages: Sequence[Storage],
    others: Sequence[Dataset] = (),
    root: Path | None = None,
    jobs: int = 1,
    log: Log = print,
) -> list[list[Path]]:
    """`prepare` for several targets of the same examples, in one pass over each data set.

    Args:
        targets: jobs that differ in encoder and name alone.
        storages: how each of them is stored.
        others, root, jobs, log: as in `prepare`.

    Returns:
        For each data set, the folders of its caches in the order of `targets`.
    """
    check(targets)
    teachers = fit_teachers(targets, storages, root, log)
    splits = [
        [replace(job, dataset=dataset, encoder=teacher) for job, teacher in zip(targets, teachers, strict=True)]
        for dataset in (targets[0].dataset, *others)
    ]
    return [build_all(split, storages, root, jobs, log) for split in splits]


def build(job: Job, storage: Storage, root: Path | None = None, jobs: int = 1, log: Log = print) -> Path:
    """Cache one target of one data set. `job.encoder` already whitens, where that is wanted; see `prepare`."""
    return build_all([job], [storage], root, jobs, log)[0]


def build_all(
    targets: Sequence[Job], storages: Sequence[Storage], root: Path | None = None, jobs: int = 1, log: Log = print
) -> list[Path]:
    """`build` for several targets of one data set, in one pass over it; in several where caches have shards of other sizes."""
    plans = [Plan.begin(job, storage, root) for job, storage in zip(targets, storages, strict=True)]
    for plan in plans:
        cut(plan, root, log)
    for size in dict.fromkeys(plan.per_shard for plan in plans):
        todo = missing([plan for plan in plans if plan.per_shard == size])
        if todo:
            for line in estimate(todo, cost([plan.job for plan in lacking(todo)])):
                log(line)
            run(todo, jobs)
    for plan in plans:
        log(f"target {plan.job.name!r}: {len(plan.job.dataset):,} examples are cached in {plan.folder}")
    return [plan.folder for plan in plans]


def run(todo: Missing, jobs: int = 1) -> None:
    """Compute `todo` with `jobs` processes. At the end all of it is there, whoever computed it."""
    context = multiprocessing.get_context("spawn")
    done = context.RawValue("q", 0)
    helpers = max(0, min(jobs, len(todo)) - 1)
    share = max(1, torch.get_num_threads() // (helpers + 1))
    processes = [
        context.Process(target=_help, args=(on_device(todo, 1 + i), done, share), daemon=True) for i in range(helpers)
    ]
    text = f"caching {', '.join(plan.job.name for plan in lacking(todo))}"
    with _running(processes), _threads(share), bar(text, examples(todo)) as show:
        work(todo, lambda count: show(_add(done, count)))


def on_device(todo: Missing, number: int) -> Missing:
    """The same for the process of that number: on machines with several accelerators processes take turns."""
    plans = lacking(todo)
    device = torch.device(plans[0].job.device)
    if device.type == "cpu" or device.index is not None or (count := torch.accelerator.device_count()) < 2:
        return todo
    there = torch.device(device.type, number % count)
    moved = {plan: replace(plan, job=replace(plan.job, device=there)) for plan in plans}
    return {at: [moved[plan] for plan in some] for at, some in todo.items()}


def work(todo: Missing, report: Report) -> None:
    """Compute what nobody else does, and then wait for the others."""
    wait = False
    while todo:
        left = {number: attempt(number, plans, report, wait) for number, plans in todo.items()}
        todo, wait = {number: plans for number, plans in left.items() if plans}, True


def attempt(number: int, plans: Sequence[Plan], report: Report, wait: bool) -> Sequence[Plan]:
    """Compute a shard for `plans`, where it is not there by now; `wait` for another process that is at it.

    Returns:
        Those of `plans` that other processes are at. While locks are held none is waited for, so that no two processes wait
        for each other; and who finds the first lock taken leaves the rest to its holder, who is about to take them.
    """
    with ExitStack() as held:
        if not plans[0].take(number, held, wait):
            return plans
        taken = [plans[0], *(plan for plan in plans[1:] if plan.take(number, held, wait=False))]
        wanted = [] if _orphaned() else [plan for plan in taken if plan.lacks(number)]
        if wanted:
            compute(number, wanted, report)
    return [plan for plan in plans if plan not in taken]


def compute(number: int, plans: Sequence[Plan], report: Report) -> None:
    """Encode the examples of a shard once for all of `plans`."""
    items: list[list[shard.Item]] = [[] for _ in plans]
    for found in features([plan.job for plan in plans], plans[0].indices(number)):
        for kept, one in zip(items, found, strict=True):
            kept += shard.split(one)
        report(len(found[0].mask))
    for plan, kept in zip(plans, items, strict=True):
        plan.write(number, kept)


def _add(done: Any, count: int) -> int:
    """Count on a number that processes share. Without a lock: a progress bar may be an example off."""
    done.value += count
    return done.value


def _help(todo: Missing, done: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    with suppress(MultigenError):  # whoever started this meets the same mistake, and says so once
        work(todo, lambda count: _add(done, count))


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
