"""What is read from a cache is what the encoder says, and nothing else is ever read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_toys import LAYOUTS, WIDTH, ToyEncoder, ToyModality, Toys, job
from torch.utils.data import DataLoader

from multigen.alignment import Alignment
from multigen.cache import Cached, Job, Reader, Storage, Whitened, Whitening, build, load_teacher, open_cache, prepare, spec
from multigen.cache.codec import CODECS
from multigen.cache.encode import features
from multigen.denoiser import Output
from multigen.modality import collate_targets, run_encoders
from multigen.objective import Context
from multigen.random import Noise, keys
from multigen.state import Batch, Features, MultigenError

STEP = {"float32": 0.0, "float16": 2.0**-11, "int8": 0.5 / 127, "int8-channel": 0.5 / 127}
"""The largest error of each type, as a share of the number itself (floats) or of the largest one of its token or channel."""


def quiet(_: str) -> None:
    pass


def batches(task: Job, root: Path, storage: Storage, indices: range) -> tuple[Batch, Batch]:
    """The same examples with targets from the cache and from the encoder."""
    assert isinstance(task.dataset, Toys)
    teacher = load_teacher(task.encoder, task.name, storage, task.dataset, root)
    cached = Cached(task.dataset, {task.name: open_cache(task.dataset, teacher, task.name, storage.dtype, root)})
    numbers = keys(0, indices).tolist()
    one, two = (task.modality.collate([d[i] for i in indices], numbers) for d in (cached, task.dataset))
    return run_encoders(one, {task.name: teacher}), run_encoders(two, {task.name: teacher})


def loss(batch: Batch) -> torch.Tensor:
    """A masked alignment with features that are unrelated to the targets."""
    value, mask = batch.target["tokens"]
    hidden = Noise(batch.key).normal(value.shape[1:])  # (B, *sites, D)
    context = Context(
        batch, {}, {"x": torch.zeros(len(batch))}, {}, Output({}, {"h": Features(hidden, mask)}), Noise(batch.key)
    )
    return Alignment("h", "tokens", similarity="l2")(context)[""]  # (B,)


def tolerance(dtype: str, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest error of each feature that the type allows: broadcasts against `value`."""
    size = torch.where(mask[..., None], value, 0).abs()  # (B, *sites, D)
    if dtype == "int8":
        size = size.amax(-1, keepdim=True)
    elif dtype == "int8-channel":
        size = size.flatten(0, -2).amax(0)
    return STEP[dtype] * size * (1 + 1e-5)


@pytest.mark.parametrize("whiten", [None, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(CODECS))
def test_cached_targets_and_losses_are_the_online_ones(tmp_path: Path, dtype: str, layout: str, whiten: int | None) -> None:
    storage, task = Storage(dtype, whiten, shard=10), job(layout=layout)
    prepare(task, storage, root=tmp_path, log=quiet)
    cached, online = batches(task, tmp_path, storage, range(23))
    (a, a_mask), (b, b_mask) = cached.target["tokens"], online.target["tokens"]
    assert a.shape == b.shape and torch.equal(a_mask, b_mask) and a.dtype == torch.float32
    assert not b_mask.all() or layout == "fixed"
    allowed = tolerance(dtype, b, b_mask) if dtype != "int8-channel" else STEP[dtype] * b[b_mask].abs().amax(0) * (1 + 1e-5)
    # whitening a whole batch and the shards' batches may add up in another order
    assert ((a - b).abs() <= allowed + 1e-5 * (whiten is not None))[b_mask].all()
    assert (a[~a_mask] == 0).all()
    limit = {"float32": 1e-6, "float16": 2e-3}.get(dtype, 2e-2)
    assert torch.allclose(loss(cached), loss(online), rtol=limit, atol=limit)


def test_float32_losses_are_equal_to_the_bit(tmp_path: Path) -> None:
    storage, task = Storage("float32"), job()
    prepare(task, storage, root=tmp_path, log=quiet)
    cached, online = batches(task, tmp_path, storage, range(8))
    assert torch.equal(loss(cached), loss(online)) and loss(online).abs().min() > 0


def test_whitened_training_features_have_identity_covariance(tmp_path: Path) -> None:
    train, storage = Toys(400), Storage("float32", whiten=4, examples=None)
    task = job(train, batch_size=64)
    prepare(task, storage, root=tmp_path, log=quiet)
    rows, mask = batches(task, tmp_path, storage, range(400))[0].target["tokens"]
    real = rows[mask].double()  # (R, 4)
    assert len(real) == 1200
    assert real.mean(0).abs().max() < 1e-5
    assert (real.T @ real / len(real) - torch.eye(4)).abs().max() < 1e-5


def test_whitening_keeps_the_directions_of_most_variance(tmp_path: Path) -> None:
    task = job(Toys(200))
    prepare(task, Storage("float32", whiten=2), root=tmp_path, log=quiet)
    teacher = load_teacher(task.encoder, "tokens", Storage("float32", whiten=2), task.dataset, tmp_path)
    assert isinstance(teacher, Whitened)
    pieces = [value[mask] for ((value, mask),) in features([task], range(200))]
    centred = torch.cat(pieces).double() - torch.cat(pieces).double().mean(0)  # (R, D)
    principal = torch.linalg.svd(centred, full_matrices=False).Vh[:2]  # (2, D)
    basis = torch.linalg.qr(teacher.whitening.basis.double()).Q  # (D, 2)
    assert torch.allclose(torch.linalg.svdvals(principal @ basis), torch.ones(2, dtype=torch.float64), atol=1e-4)


def test_validation_is_whitened_as_training_was(tmp_path: Path) -> None:
    train, valid, storage = Toys(100), Toys(9, "toys-valid"), Storage("float16", whiten=3)
    task = job(train)
    folders = prepare(task, storage, [valid], tmp_path, log=quiet)
    teacher = load_teacher(task.encoder, "tokens", storage, train, tmp_path)
    specs = [Reader(folder).spec for folder in folders]
    assert isinstance(teacher, Whitened)
    assert {s.whitening for s in specs} == {teacher.whitening.digest} and [s.dataset for s in specs] == [
        "toys-train",
        "toys-valid",
    ]
    reader = open_cache(valid, teacher, "tokens", "float16", tmp_path)
    assert len(reader) == 9 and reader.width == 3


def prepared(root: Path, storage: Storage, say: Callable[[str], None] = quiet, **encoder: Any) -> tuple[list[Reader], int]:
    """Caches for training and validation, and how many examples the encoder saw for them."""
    (log := root / "log").write_text("")
    folders = prepare(job(log=log, **encoder), storage, [Toys(9, "toys-valid")], root, log=say)
    return [Reader(folder) for folder in folders], len(log.read_text().split())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fewer_components_are_the_first_of_a_longer_cache(tmp_path: Path, dtype: str, layout: str) -> None:
    for name in ("long", "alone"):
        (tmp_path / name).mkdir()
    assert prepared(tmp_path / "long", Storage(dtype, 4, shard=5), layout=layout)[1]
    cut, none = prepared(tmp_path / "long", Storage(dtype, 2, shard=7), layout=layout)
    alone, all_of_them = prepared(tmp_path / "alone", Storage(dtype, 2, shard=7), layout=layout)
    assert none == 0 < all_of_them and [c.spec for c in cut] == [a.spec for a in alone]
    for one, other in zip(cut, alone, strict=True):
        for i in range(len(other)):
            mine, theirs = (x if isinstance(x, tuple) else (x, True) for x in (one[i], other[i]))
            assert np.array_equal(mine[1], theirs[1]) and mine[0].shape == theirs[0].shape and mine[0].dtype == theirs[0].dtype
            assert np.allclose(mine[0], theirs[0], rtol=1e-5 if dtype == "float32" else 1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "then", "encoder"),
    [
        (Storage("float32", 2), Storage("float32", 4), {}),
        (Storage("float32", 4), Storage("float16", 2), {}),
        (Storage("int8", 4), Storage("int8", 2), {}),
        (Storage("float32", 4, examples=8), Storage("float32", 2), {}),
        (Storage("float32", 4), Storage("float32", 2), {"scale": 2.0}),
        (Storage("float32", 4), Storage("float32", 2), {"layout": "fixed"}),
    ],
    ids=["shorter", "type", "integers", "examples", "scale", "encoder"],
)
def test_nothing_is_cut_out_of_another_cache(tmp_path: Path, first: Storage, then: Storage, encoder: dict) -> None:
    said: list[str] = []
    prepared(tmp_path, first)
    assert prepared(tmp_path, then, said.append, **encoder)[1] >= len(Toys()) + 9
    assert said and not any("components in" in line for line in said)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_nothing_is_cut_out_of_a_cache_that_is_not_whole(tmp_path: Path, damage: str) -> None:
    caches, _ = prepared(tmp_path, Storage("float32", 4, shard=5))
    path, content = caches[0].paths[1], bytearray(caches[0].paths[1].read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said: list[str] = []
    assert prepared(tmp_path, Storage("float32", 2), said.append)[1] == len(Toys()) + 8  # two batches tell what it will take
    assert [line for line in said if "the first 2 of 4 components in" in line and "toys_valid" in line]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": Toys(fingerprint="toys-other")}, "dataset 'toys-train', not 'toys-other'"),
        ({"encoder": ToyEncoder(scale=2.0)}, "encoder 'toy-ragged-1.0', not 'toy-ragged-2.0'"),
        ({"dtype": "int8"}, "dtype 'float16', not 'int8'"),
        ({"name": "caption"}, "cached target 'caption' is not prepared"),
    ],
)
def test_a_stale_cache_is_refused_by_the_key_that_differs(tmp_path: Path, change: dict, words: str) -> None:
    task = job()
    prepare(task, Storage(), root=tmp_path, log=quiet)
    asked = {"dataset": task.dataset, "encoder": task.encoder, "name": "tokens", "dtype": "float16"} | change
    with pytest.raises(MultigenError, match="run `multigen prepare`") as raised:
        open_cache(asked["dataset"], asked["encoder"], asked["name"], asked["dtype"], tmp_path)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_cache_with_another_whitening_is_refused(tmp_path: Path) -> None:
    task, storage = job(), Storage(whiten=3)
    prepare(task, storage, root=tmp_path, log=quiet)
    teacher = load_teacher(task.encoder, "tokens", storage, task.dataset, tmp_path)
    assert isinstance(teacher, Whitened)
    changed = Whitened(task.encoder, replace(teacher.whitening, mean=teacher.whitening.mean + 1))
    with pytest.raises(MultigenError, match=r"is stale: .* has whitening"):
        open_cache(task.dataset, changed, "tokens", "float16", tmp_path)
    with pytest.raises(MultigenError, match=r"is stale: .* has whiten '3', not '4'; run"):
        load_teacher(task.encoder, "tokens", Storage(whiten=4), task.dataset, tmp_path)
    with pytest.raises(MultigenError, match="whitening of target 'other' is not prepared"):
        load_teacher(task.encoder, "other", storage, task.dataset, tmp_path)


def test_a_damaged_whitening_is_named(tmp_path: Path) -> None:
    task, storage = job(), Storage(whiten=3)
    prepare(task, storage, root=tmp_path, log=quiet)
    truncate(next(tmp_path.rglob("whitening-*.safetensors")))
    with pytest.raises(MultigenError, match=r"whitening-tokens-.* is damaged .*; delete it and run") as raised:
        load_teacher(task.encoder, "tokens", storage, task.dataset, tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(MultigenError, match="is not prepared"):  # a damaged neighbour is no obstacle
        load_teacher(task.encoder, "tokens", Storage(whiten=2), task.dataset, tmp_path)


def test_a_damaged_neighbour_does_not_hide_what_is_stale(tmp_path: Path) -> None:
    prepare(job(), Storage(), root=tmp_path, log=quiet)
    neighbour = prepare(job(), Storage("int8"), root=tmp_path, log=quiet)[0]
    (neighbour / spec.MANIFEST).write_text("{}")
    assert len(spec.prepared(tmp_path)) == 1
    with pytest.raises(MultigenError, match="dtype 'float16', not 'float32'"):
        open_cache(Toys(), ToyEncoder(), "tokens", "float32", tmp_path)


def test_a_hand_edited_manifest_is_refused(tmp_path: Path) -> None:
    task = job()
    manifest = prepare(task, Storage(), root=tmp_path, log=quiet)[0] / spec.MANIFEST
    manifest.write_text(manifest.read_text().replace("toys-train", "toys-other"))
    with pytest.raises(MultigenError, match="dataset 'toys-other', not 'toys-train'"):
        open_cache(task.dataset, task.encoder, "tokens", "float16", tmp_path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, r"shard_00001\.safetensors is truncated: \d+ of \d+ bytes; run `multigen prepare`"),
        (flip, r"shard_00001\.safetensors is corrupt: .* run `multigen prepare`"),
        (Path.unlink, r"shard_00001\.safetensors is truncated: 0 of \d+ bytes; run `multigen prepare`"),
        (lambda path: path.with_suffix(".json").unlink(), r"is not finished \(2 of 3 shards in .*; run `multigen prepare`"),
        (lambda path: path.with_suffix(".json").write_text("{"), r"shard_00001\.json is damaged: .* run `multigen prepare`"),
        (lambda path: path.with_suffix(".json").write_text("[]"), r"shard_00001\.json is damaged: .* run `multigen prepare`"),
    ],
)
def test_damage_is_named_and_only_it_is_computed_again(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    log = tmp_path / "log"
    task, storage = job(log=log), Storage("float32", shard=10)
    folder = build(task, storage, tmp_path, log=quiet)
    whole = [np.array(Reader(folder)[i]) for i in range(23)]  # copies: rows are views of the file
    damage(folder / "shard_00001.safetensors")
    with pytest.raises(MultigenError, match=words) as raised:
        open_cache(task.dataset, task.encoder, "tokens", "float32", tmp_path)
    assert "\n" not in str(raised.value)
    log.unlink()
    build(replace(task, batch_size=10), storage, tmp_path, log=quiet)
    assert log.read_text().split()[-10:] == [str(i) for i in range(10, 20)]
    assert len(log.read_text().split()) == 30  # two batches of ten for the estimate
    assert all(np.array_equal(a, b) for a, b in zip(whole, (Reader(folder)[i] for i in range(23)), strict=True))


def test_a_damaged_manifest_is_made_again(tmp_path: Path) -> None:
    folder = build(job(), Storage(shard=10), tmp_path, log=quiet)
    (folder / spec.MANIFEST).write_text('{"spec": ')
    with pytest.raises(MultigenError, match=r"manifest\.json is damaged"):
        open_cache(Toys(), ToyEncoder(), "tokens", "float16", tmp_path)
    build(job(), Storage(shard=5), tmp_path, log=quiet)
    assert len(Reader(folder).paths) == 5 and Reader(folder)[22].shape == (3, WIDTH)  # type: ignore[union-attr]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_read_the_same(tmp_path: Path, context: str) -> None:
    task = job(layout="holes")
    folder = build(task, Storage("int8", shard=5), tmp_path, log=quiet)
    cached = Cached(task.dataset, {"tokens": Reader(folder)})
    alone = collate_targets([cached[i] for i in range(23)])["tokens"]  # mapped in this process before the workers start
    assert len(pickle.dumps(cached)) < 5000
    loader: DataLoader = DataLoader(
        cached, batch_size=6, num_workers=1, collate_fn=collate_targets, multiprocessing_context=context
    )  # type: ignore[arg-type]
    parts = [part["tokens"] for part in loader]
    rows = torch.cat([value[mask] for value, mask in parts])  # (R, D)
    assert torch.equal(rows, alone.value[alone.mask])


def test_cached_items_keep_what_they_had_and_know_their_sources(tmp_path: Path) -> None:
    task = job()
    reader = Reader(build(task, Storage(), tmp_path, log=quiet))
    cached = Cached(task.dataset, {"tokens": reader})
    assert cached[3]["index"] == 3 and cached[3]["target"]["tokens"].shape == (4, WIDTH) and len(cached) == 23
    other = Reader(build(task, Storage("int8"), tmp_path, log=quiet))
    prints = {task.dataset.fingerprint, cached.fingerprint, Cached(task.dataset, {"tokens": other}).fingerprint}
    assert len(prints) == 3
    with pytest.raises(MultigenError, match=r"'tokens' is of other examples: 23 of 'toys-train', not 23 of 'toys-valid'"):
        Cached(Toys(23, "toys-valid"), {"tokens": reader})
    with pytest.raises(IndexError):
        reader[23]


def test_plain_rows_are_views_of_the_file(tmp_path: Path) -> None:
    reader = Reader(build(job(layout="fixed"), Storage("float16"), tmp_path, log=quiet))
    row = reader[5]
    assert isinstance(row, np.ndarray) and row.dtype == np.float16 and row.base is not None and not row.flags.writeable


@pytest.mark.parametrize(
    ("task", "storage", "words"),
    [
        (job(modality=ToyModality(augment=True), sees=True), Storage(), "augments at random; use targets=online"),
        (job(scale=float("inf")), Storage(), "gives features that are not finite"),
        (job(scale=1e6), Storage(), "beyond float16's 6.55e[+]04: use float32"),
        (job(Toys(0)), Storage(), "the data set is empty"),
        (job(Toys(2), layout="fixed"), Storage(whiten=7), "to 7 dimensions: its features span 6; use whiten=6"),
    ],
)
def test_what_cannot_be_cached_is_refused(tmp_path: Path, task: Job, storage: Storage, words: str) -> None:
    with pytest.raises(MultigenError, match=words) as raised:
        prepare(task, storage, root=tmp_path, log=quiet)
    assert "'tokens'" in str(raised.value)


def test_an_augmentation_that_the_encoder_does_not_see_is_allowed(tmp_path: Path) -> None:
    """A rotation, for features that know of no direction."""
    folders = [prepare(job(modality=ToyModality(turn)), Storage(), root=tmp_path, log=quiet)[0] for turn in (True, False)]
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "flaot16"}, "did you mean 'float16'"), ({"whiten": 0}, "whiten=0"), ({"shard": 0}, "shard=0")],
)
def test_storage_options_are_checked(options: dict, words: str) -> None:
    with pytest.raises(MultigenError, match=words):
        Storage(**options)


def test_targets_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(MultigenError, match=r"different targets: \['a'\] and \[\]"):
        collate_targets([{"target": {"a": np.zeros(3)}}, {}])
    with pytest.raises(MultigenError, match=r"target 'a' .* shapes \[\(2,\), \(3,\)\]"):
        collate_targets([{"target": {"a": np.zeros(3)}}, {"target": {"a": np.zeros(2)}}])
    assert collate_targets([{}, {}]) == {}


def test_targets_are_padded_as_far_as_asked() -> None:
    value, mask = collate_targets([{"target": {"a": np.ones((2, 3))}}, {"target": {"a": np.ones((4, 3))}}], {"a": (6,)})["a"]
    assert value.shape == (2, 6, 3) and mask.sum(1).tolist() == [2, 4] and value.sum() == 18


def test_a_whitened_encoder_follows_the_batch() -> None:
    """Training, evaluation and templates ask the same teacher, on whichever device they are."""
    teacher = Whitened(ToyEncoder("pooled"), Whitening(torch.zeros(WIDTH), torch.eye(WIDTH)))
    batch = job().modality.collate([Toys()[i] for i in range(4)], [0, 1, 2, 3])
    run_encoders(batch, {"tokens": teacher})
    assert teacher.to("meta") is teacher and teacher.whitening.mean.device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta"):  # it is brought back, as far as it can be
        run_encoders(batch, {"tokens": teacher})
