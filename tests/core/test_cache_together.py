"""Several targets of one data set are prepared in one pass over it, and each of them as if it were alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_toys import WIDTH, ToyModality, Toys, job
from filelock import FileLock

from multigen.cache import Job, Reader, Storage, build_all, prepare, prepare_all
from multigen.cache.encode import Cost, Size, features
from multigen.cache.plan import Plan, estimate, missing
from multigen.cache.write import attempt, run
from multigen.modality import Example
from multigen.state import MultigenError

LAYOUT = {"single": "ragged", "pair": "pair", "whole": "pooled"}
STORAGES = [Storage("float32", 3, shard=5), Storage("int8", shard=5), Storage("float16", 2, shard=5)]


class Counted(Toys):
    """Counts how often each item is read."""

    def __init__(self, count: int = 23, fingerprint: str = "toys-train") -> None:
        super().__init__(count, fingerprint)
        self.read: Counter[int] = Counter()

    def __getitem__(self, index: int) -> Example:
        self.read[index] += 1
        return super().__getitem__(index)


def quiet(_: str) -> None:
    pass


def targets(root: Path, dataset: Toys | None = None) -> list[Job]:
    """Three of them. Each encoder's calls are logged in ``<root>/<name>``."""
    dataset, modality = Toys() if dataset is None else dataset, ToyModality()
    return [job(dataset, modality, name=name, layout=layout, log=root / name) for name, layout in LAYOUT.items()]


def plans(root: Path) -> list[Plan]:
    return [Plan.begin(task, Storage("float32", shard=4), root) for task in targets(root)]


def encoded(root: Path) -> dict[str, list[int]]:
    """What each encoder has seen since this was last asked."""
    logs = {name: root / name for name in LAYOUT if (root / name).is_file()}
    found = {name: [int(line) for line in log.read_text().split()] for name, log in logs.items()}
    for log in logs.values():
        log.unlink()
    return found


def shards(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("cache/*/*.safetensors")}


def test_together_they_are_what_each_is_alone_to_the_bit(tmp_path: Path) -> None:
    train, valid = Toys(), Toys(9, "toys-valid")
    for task, storage in zip(targets(tmp_path, train), STORAGES, strict=True):
        prepare(task, storage, [valid], tmp_path / "alone", log=quiet)
    folders = prepare_all(targets(tmp_path, train), STORAGES, [valid], tmp_path / "together", log=quiet)
    assert [[Reader(folder).spec.name for folder in split] for split in folders] == [list(LAYOUT)] * 2
    assert shards(tmp_path / "together") == shards(tmp_path / "alone")
    assert len(shards(tmp_path / "alone")) == 3 * (5 + 2)  # of both splits; their folders are named after the whitenings


def test_each_example_is_read_once_for_all_targets(tmp_path: Path) -> None:
    train = Counted()
    prepare_all(targets(tmp_path, train), STORAGES, root=tmp_path, log=quiet)
    check, estimates = Counter([0]), Counter({i * 23 // 4: 4 for i in range(4)})  # whitening and caching: two batches each
    # of the three, two are whitened: in one pass; then all are cached: in another one
    assert train.read == check + estimates + Counter(dict.fromkeys(range(23), 2))


def test_encoders_are_given_the_same_tensors() -> None:
    seen: list[int] = []
    tasks = targets(Path())

    class Looking:
        fingerprint = "looking"

        def __init__(self, encoder):
            self.encoder = encoder

        def __call__(self, batch):
            seen.append(id(batch.raw["index"]))
            return job().encoder(batch)

        def to(self, device):
            return self

    looking = [Job(t.dataset, t.modality, Looking(t.encoder), t.name, t.batch_size) for t in tasks]
    next(features(looking, range(8)))
    assert len(seen) == 3 and len(set(seen)) == 1


@pytest.mark.parametrize(
    ("spoil", "again"),
    [
        (lambda folders: None, {}),
        (lambda folders: shutil.rmtree(folders[1]), {"pair": [*range(23)]}),
        (lambda folders: (folders[0] / "shard_00002.safetensors").unlink(), {"single": [*range(8, 12)]}),
        (
            lambda folders: [(folders[i] / f"shard_0000{n}.safetensors").unlink() for i, n in ((0, 1), (0, 5), (2, 5))],
            {"single": [*range(4, 8), *range(20, 23)], "whole": [*range(20, 23)]},
        ),
    ],
    ids=["nothing", "a target", "a shard", "shards of two"],
)
def test_only_what_is_missing_is_computed(
    tmp_path: Path, spoil: Callable[[list[Path]], object], again: dict[str, list[int]]
) -> None:
    run(missing(plans(tmp_path)))
    before, _ = shards(tmp_path), encoded(tmp_path)
    spoil([plan.folder for plan in plans(tmp_path)])
    run(missing(plans(tmp_path)))
    assert encoded(tmp_path) == again and shards(tmp_path) == before


def test_a_finished_target_is_not_fitted_again(tmp_path: Path) -> None:
    first, *_ = targets(tmp_path)
    prepare(first, STORAGES[0], root=tmp_path, log=quiet)
    encoded(tmp_path)
    prepare_all(targets(tmp_path), STORAGES, root=tmp_path, log=quiet)
    assert encoded(tmp_path).keys() == {"pair", "whole"}


def test_whitenings_of_other_examples_and_shards_of_other_sizes_take_a_pass_each(tmp_path: Path) -> None:
    storages = [Storage("float32", 3, 10, shard=5), Storage("float32", 3, 20, shard=10), Storage("float32", 2, 10, shard=5)]
    said: list[str] = []
    folders = prepare_all(targets(tmp_path), storages, root=tmp_path, log=said.append)[0]
    assert [len(Reader(folder).paths) for folder in folders] == [5, 3, 5]
    assert sum(line.startswith("2 targets in one pass") for line in said) == 2
    fitted = [line.split(",")[0] for line in said if ": whitening to" in line]
    assert [line.rpartition(" from ")[2] for line in fitted] == ["10 examples", "10 examples", "20 examples"]


def test_a_shard_of_one_target_that_is_taken_does_not_hold_up_the_others(tmp_path: Path) -> None:
    work = plans(tmp_path)
    with FileLock(work[1].folder / ".shard_00002.lock"):
        left = attempt(2, work, lambda count: None, wait=False)
    assert left == [work[1]] and [plan.lacks(2) for plan in work] == [False, True, False]
    with FileLock(work[0].folder / ".shard_00003.lock"):  # its holder is about to take the others
        assert attempt(3, work, lambda count: None, wait=False) == work
    run(missing(work))
    assert not missing(work)


def test_helpers_share_the_work(tmp_path: Path) -> None:
    run(missing(plans(tmp_path)), jobs=2)
    assert not missing(plans(tmp_path))
    seen = {name: Counter(indices) for name, indices in encoded(tmp_path).items()}
    assert seen == {name: Counter(range(23)) for name in LAYOUT}


def test_the_estimate_has_a_line_for_each_target_and_one_for_the_pass(tmp_path: Path) -> None:
    work = plans(tmp_path)
    text = estimate({0: work[:2], 5: work[:1]}, Cost(20.0, [Size(3.0, WIDTH), Size(9.0, WIDTH)]))
    assert text == [
        "target 'single': 7 of 23 examples to encode, 3 x 6 float32 each, 504 B",
        "target 'pair': 4 of 23 examples to encode, 9 x 6 float32 each, 864 B",
        "2 targets in one pass, about 2 min 20 s for one process on cpu",
    ]


def test_a_disk_that_holds_some_targets_only_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MultigenError, match=r"target 'pair' needs .* in .*, where 34 B are left"):
        build_all(targets(tmp_path), [Storage("float32")] * 3, tmp_path, log=quiet)
    assert not shards(tmp_path)


def test_the_target_that_fails_is_named(tmp_path: Path) -> None:
    tasks = targets(tmp_path)
    tasks[1].encoder.scale = float("inf")  # type: ignore[attr-defined]
    with pytest.raises(MultigenError, match="the encoder of target 'pair' gives features that are not finite"):
        prepare_all(tasks, STORAGES, root=tmp_path, log=quiet)


def test_targets_of_different_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MultigenError, match="targets 'single' and 'tokens' are not of the same data set and modality"):
        prepare_all([targets(tmp_path)[0], job()], STORAGES[:2], root=tmp_path, log=quiet)
