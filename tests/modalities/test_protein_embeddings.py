"""Representations from files: read by name, checked, gathered at neighbours, and the first that is wrong is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalities.protein.embeddings import FORMATS, Folder, WithEmbeddings
from modalities.protein.encoders import Files
from modalities.protein.example import Helices
from modalities.protein.modality import Protein
from multigen.cache import Cached, Job, Storage, load_teacher, open_cache, prepare
from multigen.modality import decode_text, encode_text
from multigen.state import Batch, MultigenError

WIDTHS = {"single": 5, "pair": 3, "structure": 4}
K = 6


def arrays(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    sites = {"single": (length,), "pair": (length, length), "structure": (length,)}
    return {what: generator.normal(size=(*sites[what], WIDTHS[what])).astype(np.float16) for what in WIDTHS}


@pytest.fixture
def folder(tmp_path):
    """Embeddings of all helices."""
    for example in (Helices()[i] for i in range(8)):
        np.savez(tmp_path / f"{example['name']}.npz", **arrays(len(example["sequence"]), int(example["name"][5:])))
    return tmp_path


def modality() -> Protein:
    """With a teacher, for which the batch carries names."""
    return Protein(neighbours=K, encoders={"any": object()})


def batch_of(*index: int) -> Batch:
    return modality().collate([Helices()[i] for i in index], index)


def test_names_travel_as_tensors():
    names = ["1abc_A", "", "größe"]
    assert decode_text(encode_text(names)) == names and encode_text(names).dtype == torch.uint8
    assert encode_text([""]).shape == (1, 1)


@pytest.mark.parametrize("what", ["single", "structure"])
def test_files_give_what_stands_in_them(folder, what):
    batch = batch_of(3, 0)
    found = Files(folder, what, neighbours=K)(batch)
    assert found.value.shape == (2, 18, WIDTHS[what])
    assert torch.equal(found.mask, batch.cond["known"])
    for row, (index, length) in enumerate([(3, 18), (0, 9)]):
        expected = torch.from_numpy(arrays(length, index)[what]).float()
        torch.testing.assert_close(found.value[row, :length], expected)
        assert not found.value[row, length:].any()


def test_pairs_are_those_of_neighbours(folder):
    batch = batch_of(3, 0)
    found, near = Files(folder, "pair", neighbours=K)(batch), batch.cond["neighbours"]
    assert found.value.shape == (2, 18, K, 3) and torch.equal(found.mask, near >= 0)
    dense = torch.from_numpy(arrays(9)["pair"]).float()
    for i, k in (near[1, :9] >= 0).nonzero().tolist():
        torch.testing.assert_close(found.value[1, i, k], dense[i, near[1, i, k]])


@pytest.mark.parametrize("what", ["single", "pair"])
@pytest.mark.parametrize("format", ["alphafold3", "boltz", "protenix"])
def test_what_other_programs_write(tmp_path, format, what):
    files = {
        "alphafold3": ["helix0/seed-1_embeddings/embeddings.npz", "helix0/seed-2_embeddings/helix0_seed-2_embeddings.npz"],
        "boltz": ["helix0/embeddings_helix0.npz"],
        "protenix": ["helix0.npz"],
    }[format]
    generator, keys = np.random.default_rng(0), FORMATS[format].keys
    content = {keys["single"]: generator.normal(size=(9, 384)), keys["pair"]: generator.normal(size=(9, 9, 128))}
    for seed, file in enumerate(files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        sample = {k: v[None] if format == "boltz" else v for k, v in content.items()}
        np.savez_compressed(tmp_path / file, **{k: (v + seed).astype(np.float16) for k, v in sample.items()})
    batch = batch_of(0)
    value = Files(tmp_path, what, format, neighbours=K)(batch).value[0]  # (L, 384) or (L, K, 128)
    near = batch.cond["neighbours"][0].clamp(min=0).numpy()
    expected = content[keys["single"]] if what == "single" else content[keys["pair"]][np.arange(9)[:, None], near]
    mask = Files(tmp_path, what, format, neighbours=K)(batch).mask[0]
    torch.testing.assert_close(value[mask], torch.from_numpy(expected).float()[mask], rtol=1e-3, atol=1e-3)


def rewritten(folder, name: str = "helix1", **changes):
    content = {**arrays(12, 1), **changes}
    np.savez(folder / f"{name}.npz", **{k: v for k, v in content.items() if v is not None})
    return folder


NOT_FINITE = np.where(np.arange(60).reshape(12, 5) == 17, np.nan, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"single": None}, {}, r"helix1.npz: expected key 'single', found \['pair', 'structure'\]"),
        ({"single": np.ones((11, 5))}, {}, r"helix1.npz, key 'single': expected shape \(12, any\), found \(11, 5\)"),
        ({"single": np.ones((12, 7))}, {"width": 5}, r"expected shape \(12, 5\), found \(12, 7\)"),
        ({"single": np.ones((12, 2, 5))}, {}, r"expected shape \(12, any\), found \(12, 2, 5\)"),
        ({"single": np.ones((2, 12, 5))}, {}, r"found \(2, 12, 5\)"),
        ({"single": NOT_FINITE}, {}, r"key 'single': expected finite numbers, found nan at \(3, 2\)"),
        ({"single": np.ones((12, 5), np.int64)}, {}, "expected floating numbers, found int64"),
        ({"single": np.array([None] * 12)}, {}, "helix1.npz cannot be read: Object arrays"),
        ({"pair": np.ones((12, 11, 3))}, {"what": "pair"}, r"expected shape \(12, 12, any\), found \(12, 11, 3\)"),
        ({"mine": np.ones((12, 7))}, {"key": "mine", "width": 8}, r"key 'mine': expected shape \(12, 8\), found \(12, 7\)"),
    ],
    ids=["key", "length", "width", "rank", "samples", "nan", "integers", "objects", "square", "own"],
)
def test_the_first_offender_is_named(folder, changes, options, message):
    reader = Folder(rewritten(folder, **changes), **options)
    with pytest.raises(MultigenError, match=message) as caught:
        reader.read("helix1", 12)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_damaged(folder):
    (folder / "helix1.npz").write_bytes((folder / "helix1.npz").read_bytes()[:200])
    (folder / "helix2.npz").write_text("text")
    for name in ("helix1", "helix2"):
        with pytest.raises(MultigenError, match=f"{name}.npz cannot be read"):
            Folder(folder).read(name, 12)
    with pytest.raises(MultigenError, match=r"no embedding of protein 'helix9': expected .*helix9.npz; missing=mask"):
        Folder(folder).read("helix9", 12)
    with pytest.raises(MultigenError, match=r"there is no folder of embeddings .*nowhere"):
        Folder(folder / "nowhere")


@pytest.mark.parametrize("what", ["single", "pair"])
def test_proteins_without_a_file_may_go_without_a_target(folder, what):
    (folder / "helix3.npz").unlink()
    found = Files(folder, what, missing="mask", neighbours=K)(batch_of(3, 0))
    assert found.value.shape[-1] == WIDTHS[what] and not found.mask[0].any() and found.mask[1].any()
    for path in folder.glob("*.npz"):
        path.unlink()
    with pytest.raises(MultigenError, match="no embedding at all"):
        Files(folder, what, missing="mask", neighbours=K)(batch_of(0))
    assert Files(folder, what, missing="mask", width=2, neighbours=K)(batch_of(0)).value.shape[-1] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "bolts"}, "unknown format of embeddings 'bolts': did you mean 'boltz'"),
        ({"format": "boltz", "what": "structure"}, "format 'boltz' has no embedding 'structure'"),
        ({"missing": "skip"}, "missing is 'skip'"),
    ],
    ids=["format", "what", "missing"],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(MultigenError, match=message):
        Folder(tmp_path, **options)


def test_names_are_asked_for(folder):
    with pytest.raises(MultigenError, match=r"Files needs raw 'name', the batch has \[\]"):
        Files(folder)(Protein(neighbours=K).collate([Helices()[0]], [0]))


def test_fingerprint_is_of_the_content(folder):
    before = [Folder(folder, what).fingerprint for what in WIDTHS]
    assert len(set(before)) == 3
    rewritten(folder, pair=np.ones((12, 12, 3)))
    after = [Folder(folder, what).fingerprint for what in WIDTHS]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert Folder(folder, missing="mask").fingerprint != after[0]
    (folder / "helix2.npz").write_text("damaged")
    assert Folder(folder).fingerprint != after[0]


# ------------------------------------------------------------------------------------------- two ways into a training batch


def test_a_dataset_with_embeddings(folder):
    dataset = WithEmbeddings(Helices(), folder, list(WIDTHS), neighbours=K)
    assert len(dataset) == 8 and list(dataset.sizes) == list(Helices.sizes)
    batch = Protein(neighbours=K).collate([dataset[3], dataset[0]], [0, 1])
    for what in WIDTHS:
        expected = Files(folder, what, neighbours=K)(batch_of(3, 0))
        value, mask = batch.target[what]
        torch.testing.assert_close(value[expected.mask], expected.value[expected.mask])
        assert (mask >= expected.mask).all()
    assert torch.equal(batch.target["pair"].mask, batch.cond["neighbours"] >= 0)
    others = [{"targets": ["single"]}, {"neighbours": 7}, {"missing": "mask"}]
    prints = [WithEmbeddings(Helices(), folder, **{"targets": list(WIDTHS), "neighbours": K, **o}).fingerprint for o in others]
    assert len({dataset.fingerprint, *prints}) == 4


def test_single_embeddings_need_no_backbone(folder):
    class Sequences(Helices):
        def __getitem__(self, index):
            return {k: v for k, v in super().__getitem__(index).items() if k in ("name", "sequence")}

    item = WithEmbeddings(Sequences(), folder, ["single"])[2]
    np.testing.assert_array_equal(item["target"]["single"][0], arrays(15, 2)["single"])


# ------------------------------------------------------------------------------------------------------------- the cache


class Ends(Helices):
    """Helices of which some lack atoms at an end, one has fewer residues than neighbours, and one has no structure."""

    fingerprint = "ends"
    sizes = np.array([9, 12, 4, 18, 5, 24])

    def __getitem__(self, index):
        item = super().__getitem__(index)
        item["backbone"][{1: slice(-2, None), 3: slice(0, 1), 4: slice(None)}.get(index, slice(0))] = np.nan
        return item


@pytest.fixture
def ends(tmp_path):
    for index, length in enumerate(Ends.sizes):
        np.savez(tmp_path / f"helix{index}.npz", **arrays(length, index))
    return tmp_path


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float16", 2e-3), ("int8", 2e-2)])
@pytest.mark.parametrize(("what", "whiten"), [("pair", None), ("pair", 2), ("single", 3), ("structure", None)])
def test_cached_targets_are_those_of_the_teacher(ends, data_root, what, whiten, dtype, bound):
    """Through the cache and back, in batches other than those that were encoded: the same values at the same sites."""
    dataset, storage = Ends(), Storage(dtype, whiten, shard=2)
    prepare(Job(dataset, modality(), Files(ends, what, neighbours=K), what, batch_size=4), storage, log=lambda text: None)
    teacher = load_teacher(Files(ends, what, neighbours=K), what, storage, dataset)
    cached = Cached(dataset, {what: open_cache(dataset, teacher, what, dtype)})
    for rows in ([5, 2], [2], [1, 4], [0, 1, 2, 3, 4, 5]):
        batch = modality().collate([cached[i] for i in rows], rows)
        expected, (value, mask) = teacher(batch), batch.target[what]
        assert torch.equal(mask, expected.mask) and value.shape == expected.value.shape
        largest = expected.value[mask].abs().max() if mask.any() else 1
        assert (value - expected.value)[mask].abs().max().item() <= bound * largest if mask.any() else not value.any()


def test_a_cache_of_other_neighbours_is_not_read(ends, data_root):
    def teacher(k):
        return Files(ends, "pair", neighbours=k)

    prepare(Job(Ends(), modality(), teacher(K), "pair"), Storage(), log=lambda text: None)
    with pytest.raises(MultigenError, match=r"cached target 'pair' is stale: .* has encoder"):
        open_cache(Ends(), teacher(K + 1), "pair", "float16")
    with pytest.raises(MultigenError, match=r"Files is for 7 neighbours, the batch has 6: give it neighbours: \$\{modality"):
        teacher(K + 1)(batch_of(0))
    assert Files(ends, neighbours=1).fingerprint == Files(ends, neighbours=2).fingerprint


def test_preparing_names_the_first_offender(ends, data_root):
    np.savez(ends / "helix3.npz", **arrays(17))
    job = Job(Ends(), modality(), Files(ends, "pair", neighbours=K), "pair")
    with pytest.raises(MultigenError, match=r"helix3.npz, key 'pair': expected shape \(18, 18, any\), found \(17, 17, 3\)"):
        prepare(job, Storage(), log=lambda text: None)
