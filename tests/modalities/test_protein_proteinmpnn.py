"""ProteinMPNN with random weights: who sees whom, orders, masks; its weights from the package to the network."""

from __future__ import annotations

import io

import pytest
import torch

from modalities.protein import weights
from modalities.protein.example import Helices
from modalities.protein.modality import Protein
from modalities.protein.proteinmpnn import ProteinMPNN, load_proteinmpnn
from multigen import files
from multigen.random import Noise, keys
from multigen.state import MultigenError

has_weights = pytest.mark.skipif(
    not (files.data_root() / "teachers" / "proteinmpnn" / "checksums.json").is_file(), reason="ProteinMPNN is not prepared"
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = ProteinMPNN().double()
    for p in net.parameters():
        if p.ndim > 1:
            torch.nn.init.xavier_normal_(p, gain=2)
    return net


def batch_of(count=2):
    batch = Protein(neighbours=6).collate([Helices()[i] for i in range(count)], range(count))
    cond = {k: x.double() if x.is_floating_point() else x for k, x in batch.cond.items()}
    return cond, batch.clean["sequence"]


def changed(sequence, at):
    other = sequence.clone()
    other[:, at] = (other[:, at] + 1) % 20
    return other


def test_a_residue_is_made_from_those_before_it(network):
    cond, sequence = batch_of()
    neighbours, graph = network.graph(cond)
    rank = Noise(keys(0, range(2))).uniform(sequence.shape[1:])
    before = network.decode(graph, neighbours, sequence, rank)
    assert before.shape == (*sequence.shape, 21)
    assert torch.allclose(before.exp().sum(-1), torch.ones_like(before[..., 0]))
    for at in (0, 4, 7):
        moved = (network.decode(graph, neighbours, changed(sequence, at), rank) - before).abs().amax(-1) > 1e-12  # (B, L)
        assert not (moved & (rank <= rank[:, at : at + 1])).any()  # neither itself nor who came first
    assert torch.equal(network.decode(graph, neighbours, sequence, 10 * rank + 3), before)


def test_states_see_the_whole_sequence(network):
    cond, sequence = batch_of(1)
    neighbours, graph = network.graph(cond)
    known = cond["known"][0]
    for own in (True, False):
        before = network.states(graph, neighbours, sequence, own)
        moved = network.states(graph, neighbours, changed(sequence, 4), own)[0] - before[0]
        assert before.shape == (*sequence.shape, 128)
        # the helix has fewer residues than a neighbourhood: all see all, after one layer those who see those who saw
        assert (moved.abs().amax(-1) > 1e-12)[known].all()
    one = network.states(graph, neighbours, sequence, True) - network.states(graph, neighbours, sequence, False)
    assert (one.abs().amax(-1)[0] > 1e-9)[known].all()


def test_likelihood_is_the_mean_over_seeded_orders(network):
    cond, sequence = batch_of()
    key = keys(1, range(2))
    found = network.log_likelihood(cond, sequence, key, orders=2)
    assert torch.equal(found, network.log_likelihood(cond, sequence, key, orders=2))
    assert not torch.allclose(found, network.log_likelihood(cond, sequence, keys(2, range(2)), orders=2))
    neighbours, graph = network.graph(cond)
    expected = 0
    for i in range(2):
        logs = network.decode(graph, neighbours, sequence, Noise(key).fold("order").fold(i).uniform(sequence.shape[1:]))
        expected = expected + logs.gather(-1, sequence[..., None])[..., 0] / 2
    assert torch.allclose(found[cond["known"]], expected[cond["known"]])
    assert (found[~cond["known"]] == 0).all()


def test_likelihood_depends_on_neither_padding_nor_other_examples(network):
    cond, sequence = batch_of(3)
    small_cond, small = batch_of(1)
    found = network.log_likelihood(cond, sequence, keys(1, range(3)))
    alone = network.log_likelihood(small_cond, small, keys(1, [0]))
    assert torch.allclose(found[0, : small.shape[1]], alone[0], atol=1e-10)


def test_what_is_given_is_seen_by_all_that_was_made(network):
    cond, sequence = batch_of(1)
    free = torch.arange(sequence.shape[1])[None] >= 4
    key = keys(0, [0])
    before = network.log_likelihood(cond, sequence, key, free)
    moved = network.log_likelihood(cond, changed(sequence, 0), key, free) - before
    known = cond["known"][0]
    assert (moved[0, free[0] & known].abs() > 1e-12).all()
    moved = network.log_likelihood(cond, changed(sequence, 6), key, free) - before
    assert (moved[0, :4] == 0).all()


def test_it_is_frozen(network):
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == 1_660_485


# ----------------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def package(data_root, monkeypatch):
    """Random weights in the place of the package's."""

    def read(asset, member, root):
        torch.manual_seed(len(member) + int(member[-5:-3]))
        trace, content = "ca_model" in member, io.BytesIO()
        state = {k: torch.randn_like(p) for k, p in ProteinMPNN(trace).state_dict().items()}
        state |= {"W_v.weight": torch.zeros(128, 128), "features.norm_nodes.bias": torch.zeros(128)} if trace else {}
        torch.save({"model_state_dict": state, "num_edges": 48, "noise_level": 0.2}, content)
        return content.getvalue()

    monkeypatch.setattr(weights.assets, "read", read)
    monkeypatch.setattr(
        weights, "_STOCK", weights._stock({k: weights._MEMBERS[k] for k in ("v_48_002", "v_48_020", "ca_v_48_020")})
    )
    return data_root


def test_weights_come_from_the_package(package):
    weights.prepare()
    one, two = load_proteinmpnn("v_48_002"), load_proteinmpnn()
    assert not torch.equal(one.W_out.weight, two.W_out.weight)
    assert torch.equal(one.W_out.weight, weights.proteinmpnn("v_48_002")["W_out.weight"])
    assert load_proteinmpnn("ca_v_48_020").features.edge_embedding.weight.shape == (128, 167)


def test_weights_that_are_not_there_or_damaged_are_named(package):
    with pytest.raises(MultigenError, match=r"no variant 'v_48_20'; did you mean 'v_48_020'\?"):
        load_proteinmpnn("v_48_20")
    with pytest.raises(MultigenError, match=r"ProteinMPNN v_48_020 are not prepared .*run `multigen prepare data=cgdms`"):
        load_proteinmpnn()
    weights.prepare()
    path = package / "teachers" / "proteinmpnn" / "v_48_020.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MultigenError, match=f"are damaged: {path}"):
        load_proteinmpnn()
    weights.prepare()
    load_proteinmpnn()


@has_weights
@pytest.mark.parametrize("variant", ["v_48_020", "soluble_v_48_020", "ca_v_48_020"])
def test_the_published_weights_prefer_what_helices_are_made_of(variant):
    """Poly-alanine and poly-leucine over poly-glycine and poly-proline on an ideal helix."""
    net, length = load_proteinmpnn(variant), 24
    cond = ideal_helix(length)
    sequence = torch.tensor([["ACDEFGHIKLMNPQRSTVWY".index(letter)] * length for letter in "ALGP"])
    cond = {k: x.expand(4, *x.shape[1:]) for k, x in cond.items()}
    found = net.log_likelihood(cond, sequence, keys(0, [0] * 4), orders=2).mean(-1)
    assert min(found[0], found[1]) > max(found[2], found[3])


def ideal_helix(length):
    """Atoms of an alpha helix by their cylinder coordinates: radius, angle (degrees) and height (Angstrom)."""
    atoms = torch.tensor([[1.55, -27.5, -0.87], [2.29, 0.0, 0.0], [1.66, 26.1, 1.10], [2.0, 21.9, 2.31]])  # (4, 3)
    i = torch.arange(length)[:, None]  # (L, 1)
    angle = torch.deg2rad(atoms[:, 1] + 100.0 * i)  # (L, 4)
    backbone = torch.stack([atoms[:, 0] * angle.cos(), atoms[:, 0] * angle.sin(), atoms[:, 2] + 1.5 * i], -1)  # (L, 4, 3)
    known = torch.ones(1, length, dtype=torch.bool)
    zero = torch.zeros(1, length, dtype=torch.long)
    return {"backbone": backbone[None], "known": known, "chain": zero, "index": torch.arange(length)[None]}
