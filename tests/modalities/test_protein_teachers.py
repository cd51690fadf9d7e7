"""ProteinMPNN as a teacher: aligned with residues and neighbours, computed once for all that ask, and cached as it is."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest
import torch

from modalities.protein.encoders import MPNNPair, MPNNSingle, MPNNStructure
from modalities.protein.encoders.mpnn import shared
from modalities.protein.example import Helices
from modalities.protein.features import nearest
from modalities.protein.modality import Protein
from modalities.protein.proteinmpnn import ProteinMPNN
from multigen.cache import Cached, Job, Storage, load_teacher, open_cache, prepare
from multigen.state import Batch, Features, MultigenError
from multigen.teachers.common import Memo

K = 12
KEPT = [shared(variant, None, False, 0, 512) for variant in ("v_48_020", "ca_v_48_020")]
"""The networks of random weights, made once for all tests."""
RANDOM = {"pretrained": False}
TEACHERS = {
    "structure": lambda **o: MPNNStructure(**RANDOM, **o),
    "single": lambda **o: MPNNSingle(**RANDOM, **o),
    "others": lambda **o: MPNNSingle(own=False, **RANDOM, **o),
    "pair": lambda **o: MPNNPair(K, **RANDOM, **o),
    "told pair": lambda **o: MPNNPair(K, sequence=True, **RANDOM, **o),
    "trace": lambda **o: MPNNStructure(variant="ca_v_48_020", **RANDOM, **o),
}
WIDTHS = {"structure": 128, "single": 128, "others": 128, "pair": 128, "told pair": 256, "trace": 128}


def batch_of(*index: int, neighbours: int = K) -> Batch:
    """Helices of 9, 12, ... residues: the first have fewer than `K` known ones."""
    return Protein(neighbours=neighbours).collate([Helices()[i] for i in index], index)


def with_sequence(batch: Batch, tokens: torch.Tensor) -> Batch:
    return batch.replace(clean={"sequence": tokens})


def real(features: Features) -> torch.Tensor:
    return features.value[features.mask]


@pytest.mark.parametrize("name", TEACHERS)
def test_one_state_for_each_residue_or_pair(name):
    batch = batch_of(3, 0)
    found = TEACHERS[name]()(batch)
    wanted = batch.cond["neighbours"] >= 0 if "pair" in name else batch.cond["known"]
    assert torch.equal(found.mask, wanted) and found.value.shape == (*wanted.shape, WIDTHS[name])
    assert found.value.isfinite().all() and real(found).std() > 0.05 and not found.value.requires_grad


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_protein_does_not_see_its_batch(name, tokens):
    found = TEACHERS[name](tokens=tokens)(batch_of(0, 3, 1))
    for row, index in enumerate((0, 3, 1)):
        length = int(Helices.sizes[index])
        alone = TEACHERS[name]()(batch_of(index))
        one = Features(found.value[row, :length], found.mask[row, :length])
        torch.testing.assert_close(real(one), alone.value[0][alone.mask[0]], rtol=1e-4, atol=1e-5)
        assert not found.mask[row, length:].any()


def test_pairs_are_the_edges_to_the_neighbours():
    """The network reads 48 neighbours; the pairs of the first K of them, in the order of the batch, are kept."""
    batch, net = batch_of(7, 0), shared("v_48_020", None, False, 0, 512).net
    given = batch.cond
    near = nearest(given["backbone"][:, :, 1], given["known"], 48)
    with torch.no_grad():
        _, graph = net.graph({k: given[k] for k in ("backbone", "known", "chain", "index")})
    for count in (1, K, 30):
        found = MPNNPair(count, **RANDOM)(batch_of(7, 0, neighbours=count))
        assert torch.equal(found.mask, near[..., :count] >= 0)
        expected = graph.edges[..., :count, :][found.mask[..., : graph.edges.shape[2]]]  # they have fewer residues than 48
        torch.testing.assert_close(real(found), expected, rtol=1e-4, atol=1e-5)


def test_pairs_of_other_neighbours_are_refused():
    with pytest.raises(MultigenError, match=r"MPNNPair is for 30 neighbours, the batch has 12: give it neighbours: \$\{mod"):
        MPNNPair(**RANDOM)(batch_of(0))
    with pytest.raises(MultigenError, match="MPNNPair reads 48 neighbours of each residue, 49 are too many"):
        MPNNPair(49, **RANDOM)
    batch = batch_of(3)
    turned = batch.replace(cond={**batch.cond, "neighbours": batch.cond["neighbours"].flip(-1)})
    with pytest.raises(MultigenError, match="not the nearest ones in space"):
        MPNNPair(K, **RANDOM)(turned)


def test_who_reads_the_sequence():
    batch = batch_of(4)
    tokens = batch.clean["sequence"].clone()
    tokens[0, 9] = (tokens[0, 9] + 1) % 20
    changed = with_sequence(batch, tokens)
    moved = {}
    for name, make in TEACHERS.items():
        difference = (make()(changed).value - make()(batch).value).abs().amax(-1)[0]  # (L,) or (L, K)
        moved[name] = difference.amax(-1) if difference.ndim == 2 else difference  # (L,)
    assert not any(moved[name].any() for name in ("structure", "pair", "trace"))
    assert all(moved[name].max() > 1e-4 for name in ("single", "others", "told pair"))
    assert not torch.allclose(TEACHERS["single"]()(batch).value, TEACHERS["others"]()(batch).value, atol=1e-4)


def test_unknown_and_masked_residues_are_read_as_unknown():
    batch = batch_of(1)
    masked = with_sequence(batch, torch.full_like(batch.clean["sequence"], 21))
    unknown = with_sequence(batch, torch.full_like(batch.clean["sequence"], 20))
    assert torch.equal(TEACHERS["single"]()(masked).value, TEACHERS["single"]()(unknown).value)


def test_proteins_without_a_backbone():
    example = Helices()[2]
    example["backbone"][:] = np.nan
    batch = Protein(neighbours=K).collate([example, Helices()[0]], [0, 1])
    for make in TEACHERS.values():
        found = make()(batch)
        assert not found.mask[0].any() and found.mask[1].any() and found.value.isfinite().all()


# ------------------------------------------------------------------------------------------------- one forward for several


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the batches that the network encoded."""
    seen, graph = [], ProteinMPNN.graph

    def counted(self, structure):
        seen.append(len(structure["known"]))
        return graph(self, structure)

    monkeypatch.setattr(ProteinMPNN, "graph", counted)
    return seen


def test_a_batch_is_encoded_once_for_all_teachers(calls):
    teachers = [TEACHERS[name]() for name in ("structure", "single", "pair")]
    batch = batch_of(3, 0)
    together = [teacher(batch) for teacher in teachers]
    assert calls == [2] and len({id(t.net) for t in teachers}) == 1
    for teacher, found in zip(teachers, together, strict=True):
        assert torch.equal(teacher(batch_of(3, 0)).value, found.value)
    assert MPNNStructure(seed=1, **RANDOM).net is not teachers[0].net


def test_what_was_encoded_is_forgotten_when_it_changes(calls):
    teacher, batch = TEACHERS["structure"](), batch_of(3)
    before = teacher(batch).value
    teacher(with_sequence(batch, batch.clean["sequence"] + 0))  # the same backbone
    assert len(calls) == 1
    batch.cond["backbone"][:, 5] += 3.0
    assert len(calls) == 1 and not torch.equal(teacher(batch).value, before) and len(calls) == 2
    other = batch.map(torch.clone)
    assert torch.equal(teacher(other).value, teacher(batch).value) and len(calls) == 4


def test_what_was_encoded_lives_as_long_as_the_batch():
    teacher, batch = TEACHERS["structure"](), batch_of(3)
    teacher(batch)
    assert teacher.shared.last._value is not None
    del batch
    gc.collect()
    assert teacher.shared.last._value is None


def test_memo():
    memo, made = Memo(), []
    x, y = torch.zeros(2), torch.zeros(2)

    def make():
        made.append(1)
        return len(made)

    assert [memo([x, y], make), memo([x, y], make), memo([y, x], make), memo([y], make)] == [1, 1, 2, 3]
    y.add_(1)
    assert memo([y], make) == 4
    assert pickle.loads(pickle.dumps(memo))._value is None and memo([y], make) == 4


def test_teachers_travel_to_other_processes():
    teacher, batch = TEACHERS["pair"](), batch_of(3)
    expected = teacher(batch)
    sent = pickle.loads(pickle.dumps(teacher))
    assert sent.fingerprint == teacher.fingerprint and torch.equal(sent(batch).value, expected.value)


def test_fingerprints():
    makers = [
        *TEACHERS.values(),
        lambda: MPNNStructure(seed=1, **RANDOM),
        lambda: MPNNPair(K + 1, **RANDOM),
        lambda: MPNNSingle(seed=1, **RANDOM),
    ]
    assert len({make().fingerprint for make in makers}) == len(makers)
    assert MPNNSingle(tokens=3, **RANDOM).fingerprint == MPNNSingle(**RANDOM).fingerprint


# ------------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize(
    ("name", "whiten", "dtype", "bound"),
    [("pair", 8, "float16", 2e-3), ("pair", None, "int8", 2e-2), ("single", 8, "float16", 2e-3)],
)
def test_cached_states_are_those_of_the_teacher(data_root, name, whiten, dtype, bound):
    """Proteins with fewer known residues than neighbours, and with unknown ones: the same values at the same sites."""
    dataset, modality, storage = Helices(), Protein(neighbours=K), Storage(dtype, whiten, shard=5)
    prepare(Job(dataset, modality, TEACHERS[name](), name, batch_size=5), storage, log=lambda text: None)
    teacher = load_teacher(TEACHERS[name](), name, storage, dataset)
    cached = Cached(dataset, {name: open_cache(dataset, teacher, name, dtype)})
    for rows in ([0], [5, 0, 1]):
        batch = modality.collate([cached[i] for i in rows], rows)
        expected, (value, mask) = teacher(batch), batch.target[name]
        assert torch.equal(mask, expected.mask) and value.shape == expected.value.shape
        assert (value - expected.value)[mask].abs().max() <= bound * expected.value[mask].abs().max()
