"""Examples of varying size on the disk: what is written is read, lazily; half a folder never counts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from multigen import store
from multigen.state import MultigenError
from multigen.store import Column, Layout, Store, Writer, kept

LAYOUT = Layout(
    tables={"": {"value": Column("<f4", (2,)), "kind": Column("<i1")}, "pair": {"ends": Column("<i2", (2,))}},
    items={"weight": Column("<i8")},
    texts=("name", "note"),
)


def example(i, rows=3, pairs=1):
    rng = np.random.default_rng(i)
    table = {"value": rng.normal(size=(rows, 2)).astype(np.float32), "kind": np.arange(rows, dtype=np.int8)}
    return {"name": f"ex {i} \u00e9", "note": "", "weight": i, "ends": np.full((pairs, 2), i, np.int16), **table}


def written(folder, count=5, **options):
    with Writer(folder, LAYOUT, {"recipe": 1}) as writer:
        for i in range(count):
            writer.add(example(i, i + 1, i), **options)
    return Store(folder, LAYOUT, "toys")


def test_what_is_written_is_read(tmp_path):
    read = written(tmp_path / "toys")
    assert len(read) == 5 and read.sizes().tolist() == [1, 2, 3, 4, 5]
    for i in range(5):
        expected = example(i, i + 1, i)
        assert set(read[i]) == set(expected)
        for key, value in expected.items():
            assert np.array_equal(read[i][key], value), key
    assert read.manifest["rows"] == {"main": 15, "pair": 10} and read.manifest["count"] == {"train": 5}


def test_loader_workers_get_no_memory_map(tmp_path):
    read = written(tmp_path / "toys")
    first = read[0]
    again = pickle.loads(pickle.dumps(read))
    assert len(pickle.dumps(read)) < 5000 and np.array_equal(again[0]["value"], first["value"])


def test_splits_and_columns_are_set_at_the_end(tmp_path):
    with Writer(tmp_path / "toys", LAYOUT, {}) as writer:
        for i in range(4):
            writer.add(example(i))
        assert writer.column("weight").tolist() == [0, 1, 2, 3]
        with pytest.raises(MultigenError, match="1 values of split for 4 examples"):
            writer.relabel(["train"])
        writer.relabel(["train", "valid", "train", "valid"], weight=[5, 6, 7, 8])
    read = Store(tmp_path / "toys", LAYOUT, "toys")
    assert read.in_split("valid").tolist() == [False, True, False, True] and read.in_split("all").all()
    assert read.column("weight").tolist() == [5, 6, 7, 8]
    with pytest.raises(MultigenError, match=r"toys have no split 'test': choices are \['train', 'valid', 'all'\]"):
        read.in_split("test")


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    folder = tmp_path / "toys"
    before = written(folder)
    with pytest.raises(RuntimeError), Writer(folder, LAYOUT, {}) as writer:
        writer.add(example(9))
        raise RuntimeError
    assert store.whole(folder) and len(Store(folder, LAYOUT, "toys")) == len(before)
    assert {p.name for p in tmp_path.iterdir()} == {"toys", ".toys.lock"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": np.zeros(2, np.int8)}, r"'ex 0 \S+ is malformed: kind has shape \(2,\), expected \(3,\)"),
        ({"value": np.zeros((3, 3))}, r"value has shape \(3, 3\), expected \(3, 2\)"),
        ({"value": np.zeros((0, 2)), "kind": np.zeros(0)}, "it is empty"),
        ({"ends": None}, "it has no 'ends'"),
    ],
)
def test_an_example_that_does_not_fit_is_named(tmp_path, change, message):
    whole = {k: v for k, v in (example(0) | change).items() if v is not None}
    with pytest.raises(MultigenError, match=message), Writer(tmp_path / "toys", LAYOUT, {}) as writer:
        writer.add(whole)
    assert not (tmp_path / "toys").exists()


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for left in (".toys.tmp", ".toys.0123abcd.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "value.npy").write_bytes(b"half")
    written(tmp_path / "toys")
    written(tmp_path / "toys", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".toys.lock", "toys"]


def test_nothing_is_no_data_set(tmp_path):
    with pytest.raises(MultigenError, match="there is no example"), Writer(tmp_path / "toys", LAYOUT, {}):
        pass


def test_preparing_again_does_nothing_unless_recipe_or_files_changed(tmp_path):
    made = []

    def fill(writer):
        made.append(1)
        writer.add(example(0))

    folder = tmp_path / "toys"
    for recipe in (1, 1, (2,), [2]):
        store.prepare(Writer(folder, LAYOUT, {"recipe": recipe}), fill)
    assert len(made) == 2
    (folder / "kind.npy").write_bytes(b"damaged")
    store.prepare(Writer(folder, LAYOUT, {"recipe": [2]}), fill)
    assert len(made) == 3


def test_a_folder_that_is_missing_or_damaged_is_one_line(tmp_path):
    with pytest.raises(MultigenError, match=r"toys are not prepared in .*; run `make toys`"):
        Store(tmp_path, LAYOUT, "toys", "make toys")
    read = written(tmp_path / "toys")
    (tmp_path / "toys" / "kind.npy").write_bytes(b"damaged")
    with pytest.raises(MultigenError, match=r"kind\.npy is damaged .* run `multigen prepare`"):
        read[0]


def test_fingerprints_follow_content_and_options(tmp_path):
    one, other = written(tmp_path / "a"), written(tmp_path / "b", 4)
    assert one.fingerprint(1) == Store(tmp_path / "a", LAYOUT, "toys").fingerprint(1)
    assert len({one.fingerprint(1), one.fingerprint(2), other.fingerprint(1)}) == 3


def test_a_smaller_limit_is_a_subset():
    keep = np.arange(100) % 3 > 0
    few, more = kept(keep, 5).tolist(), kept(keep, 20).tolist()
    assert set(few) <= set(more) <= set(np.flatnonzero(keep)) and len(few) == 5 and sorted(more) == more
    assert kept(keep).tolist() == np.flatnonzero(keep).tolist()
    with pytest.raises(MultigenError, match="limit"):
        kept(keep, 0)


def test_the_digest_follows_files_and_options(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = store.digest(tmp_path, [path], 1)
    assert store.digest(tmp_path, [path], 1) == first != store.digest(tmp_path, [path], 2)
    path.write_text("other")
    assert store.digest(tmp_path, [path], 1) != first
