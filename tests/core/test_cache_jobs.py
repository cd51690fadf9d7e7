"""Caches are computed by several processes, any of which may be killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cache_toys
import numpy as np
import pytest
from cache_toys import WIDTH, ToyEncoder, Toys, job

from multigen.cache import Reader, Storage, build, shard
from multigen.cache.encode import Cost, Size, cost
from multigen.cache.plan import Plan, estimate, missing
from multigen.cache.progress import amount, duration
from multigen.cache.whitening import spec_of
from multigen.cache.write import on_device, run
from multigen.state import MultigenError

STORAGE = Storage("float32", shard=4)


def quiet(_: str) -> None:
    pass


def start(root: Path, delay: float = 0.0, meet: str = "") -> subprocess.Popen:
    """Build the toys' cache in another process."""
    paths = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, cache_toys.__file__, str(root), str(delay), meet]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def folder_of(root: Path) -> Path:
    return spec_of("tokens", Toys(), ToyEncoder(), "float32").folder(root)


def finished(root: Path) -> list[Path]:
    with suppress(FileNotFoundError):  # a folder without a manifest is just being made anew
        return sorted(path for path in folder_of(root).glob("*.safetensors") if shard.summary(path).is_file())
    return []


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def kill_when(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    try:
        wait_for(condition)
    finally:
        process.kill()


def plan(root: Path, meet: Path | None = None) -> Plan:
    return Plan.begin(job(log=root / "log", meet=meet), STORAGE, root)


def test_a_killed_job_goes_on_after_its_last_shard(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(tmp_path, delay=0.2)
    try:
        wait_for(lambda: len(finished(tmp_path)) >= 2)
    finally:
        process.kill()  # SIGKILL: nothing is cleaned up
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished(tmp_path)}
    assert 2 <= len(kept) < 6
    (folder_of(tmp_path) / f".shard_{len(kept):05d}.safetensors.0123abcd.tmp").write_bytes(b"half a sh")
    log.unlink()
    build(job(log=log), STORAGE, tmp_path, log=quiet)
    computed = log.read_text().split()[8:]  # after two batches for the estimate
    assert computed == [str(i) for i in range(4 * len(kept), 23)]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(folder_of(tmp_path).glob("*.tmp")) and not list(folder_of(tmp_path).glob(".*.tmp"))
    direct = build(job(), STORAGE, tmp_path / "direct", log=quiet)
    for i in range(23):
        assert np.array_equal(np.asarray(Reader(folder_of(tmp_path))[i]), np.asarray(Reader(direct)[i]))


def test_two_jobs_share_the_work(tmp_path: Path) -> None:
    """Started at the same time by the same command: every shard is computed once, and both end with a whole cache."""
    processes = [start(tmp_path, delay=0.05, meet="meet") for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(Reader(folder_of(tmp_path))) == 23
    counts = Counter(int(line) for line in (tmp_path / "log").read_text().split())
    probes = Counter({i * 23 // 4: 2 for i in range(4)})  # each process estimates with two batches of four
    assert counts == Counter(range(23)) + probes + probes


def test_helpers_share_the_work(tmp_path: Path) -> None:
    work = plan(tmp_path, tmp_path / "meet")
    run(missing([work]), jobs=2)
    assert len(list((tmp_path / "meet").iterdir())) == 2
    assert Counter(int(line) for line in (tmp_path / "log").read_text().split()) == Counter(range(23))
    assert len(Reader(work.folder)) == 23


def test_a_shard_that_another_process_took_and_lost_is_computed(tmp_path: Path) -> None:
    work = plan(tmp_path)
    held = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", held, str(work.folder / ".shard_00002.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        killer = threading.Thread(target=kill_when, args=(other, lambda: lines(tmp_path / "log") == 19))
        killer.start()
        run(missing([work]))
        killer.join()
    order = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert order == [*range(8), *range(12, 23), *range(8, 12)]
    assert len(Reader(work.folder)) == 23


def test_a_finished_cache_is_not_computed_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said: list[str] = []
    build(job(log=log), STORAGE, tmp_path, log=quiet)
    log.unlink()
    build(job(log=log), STORAGE, tmp_path, log=said.append)
    assert not log.exists() and said == [f"target 'tokens': 23 examples are cached in {folder_of(tmp_path)}"]


def test_size_and_time_are_estimated_first(tmp_path: Path) -> None:
    said: list[str] = []
    work = plan(tmp_path)
    [text] = estimate({0: [work], 5: [work]}, Cost(20.0, [Size(3.0, WIDTH)]))
    what = "target 'tokens': 7 of 23 examples to encode, 3 x 6 float32 each, 504 B"
    assert text == f"{what}, about 2 min 20 s for one process on cpu"
    build(work.job, STORAGE, tmp_path, log=said.append)
    assert said[0].startswith("target 'tokens': 23 of 23 examples to encode, 1.75 x 6 float32 each, 966 B, about 1 s")


def test_the_cost_is_measured_on_warm_and_evenly_spaced_batches(tmp_path: Path) -> None:
    found = cost([job(Toys(400), batch_size=100, delay=0.2)])
    assert 0.002 <= found.seconds < 0.02 and found.sizes == [(3.0, WIDTH)]


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(MultigenError, match=r"needs 966 B in .*, where 100 B are left"):
        build(job(), STORAGE, tmp_path, log=quiet)
    assert not finished(tmp_path)


def test_an_encoder_that_cannot_be_sent_says_what_to_do_instead(tmp_path: Path) -> None:
    task = job()
    task.encoder.extra = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(MultigenError, match=r"cannot be sent to another process .* jobs=1"):
        build(task, STORAGE, tmp_path, jobs=2, log=quiet)


def test_another_length_under_the_same_fingerprint_is_refused(tmp_path: Path) -> None:
    build(job(), STORAGE, tmp_path, log=quiet)
    with pytest.raises(MultigenError, match=r"'tokens' is stale: .* has count 23, not 24; run `rm -r .*; multigen prepare`"):
        build(job(Toys(24)), STORAGE, tmp_path, log=quiet)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "1 s"), (75, "1 min 15 s"), (3601, "1 h 0 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (7.2e6, "7.2 MB"), (3e15, "3e+03 TB")])
def test_amounts_are_readable(size: float, text: str) -> None:
    assert amount(size) == text


def test_processes_take_turns_on_several_devices(tmp_path, monkeypatch):
    plans = Plan.begin(replace(job(), device="cuda"), STORAGE, tmp_path)
    todo = {0: [plans], 1: [plans]}
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    moved = [on_device(todo, number) for number in range(3)]
    assert [str(part[1][0].job.device) for part in moved] == ["cuda:0", "cuda:1", "cuda:0"]
    assert all(part[0][0] is part[1][0] and part[0][0].job.dataset is plans.job.dataset for part in moved)
    fixed = {0: [Plan.begin(replace(job(), device="cuda:1"), STORAGE, tmp_path)]}
    assert on_device(fixed, 1) is fixed


class Broken(Toys):
    def __getitem__(self, index):
        if index == 9:
            raise MultigenError("example 9 is broken")
        return super().__getitem__(index)


@pytest.mark.parametrize(("workers", "jobs"), [(0, 1), (1, 1), (0, 2)])
def test_what_a_data_set_refuses_is_said_once_and_in_one_line(tmp_path, workers, jobs, capfd):
    broken = replace(job(dataset=Broken()), workers=workers)
    with pytest.raises(MultigenError) as caught:
        build(broken, STORAGE, tmp_path, jobs=jobs, log=quiet)
    assert str(caught.value) == "example 9 is broken" and "Traceback" not in capfd.readouterr().err
