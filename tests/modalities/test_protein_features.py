"""P1: neighbours, distances and relative positions against their formulas; invariance; nothing is read where nothing is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modalities.protein import features
from modalities.protein.ca_features import TraceFeatures
from modalities.protein.features import EdgeFeatures, RadialLinear, RelativePosition, along_chain, nearest, radial, virtual_cb
from modalities.protein.layers import Neighbourhood
from multigen.random import Noise, keys

ATOMS = ["N", "CA", "C", "O", "CB"]
PAIRS = [
    *("CA-CA", "N-N", "C-C", "O-O", "CB-CB"),
    *("CA-N", "CA-C", "CA-O", "CA-CB", "N-C", "N-O", "N-CB", "CB-C", "CB-O", "O-C"),
    *("N-CA", "C-CA", "O-CA", "CB-CA", "C-N", "O-N", "CB-N", "C-CB", "O-CB", "C-O"),
]
"""Atom of the residue, atom of its neighbour, in the order of the published weights."""


def backbones(sizes=(14, 9), length=None, seed=0, k=6):
    """Conditions of a batch of random traces: backbone float64, two chains in each."""
    length = length or max(sizes)
    noise = Noise(keys(seed, range(len(sizes))))
    step = noise.fold("step").normal([length, 3], torch.float64)  # (B, L, 3)
    ca = (3.8 * step / step.norm(dim=-1, keepdim=True)).cumsum(1)  # (B, L, 3)
    backbone = ca[:, :, None] + 1.3 * noise.fold("atoms").normal([length, 4, 3], torch.float64)  # (B, L, 4, 3)
    backbone[:, :, 1] = ca
    number = torch.arange(length)  # (L,)
    known = number < torch.tensor(sizes)[:, None]  # (B, L)
    chain = (number >= 5).long().expand(len(sizes), -1)  # (B, L)
    backbone = torch.where(known[..., None, None], backbone, 0)
    return {
        "backbone": backbone,
        "known": known,
        "chain": chain,
        "index": number.expand(len(sizes), -1) + 2 * chain,
        "neighbours": nearest(backbone[:, :, 1], known, k),
    }


def network(kind=EdgeFeatures, width=8):
    torch.manual_seed(0)
    return kind(width).double().eval()


def rotation() -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.tensor(np.random.default_rng(0).normal(size=(3, 3))))
    return q * torch.linalg.det(q)  # a proper one


# ------------------------------------------------------------------------------------------------------------- neighbours


def test_neighbours_are_those_of_a_plain_search():
    cond = backbones((14, 9, 3))
    found, known = cond["neighbours"].numpy(), cond["known"].numpy()
    place = cond["backbone"][:, :, 1].numpy().astype(np.float32)
    for b, i in np.argwhere(known):
        others = [j for j in np.flatnonzero(known[b]) if j != i]
        others.sort(key=lambda j, b=b, i=i: (float(((place[b, i] - place[b, j]) ** 2).sum()), j))
        expected = [i, *others][:6]
        assert found[b, i].tolist() == expected + [-1] * (6 - len(expected))
    assert (found[~known] == -1).all()


def test_of_two_neighbours_at_one_distance_the_first_is_taken():
    square = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0], [4, 0, 0]])[None]  # (1, 5, 3)
    known = torch.ones(1, 5, dtype=torch.bool)
    found = nearest(square, known, 3)[0]
    assert found.tolist() == [[0, 1, 3], [1, 4, 0], [2, 1, 3], [3, 0, 2], [4, 1, 0]]
    assert nearest(square, known, 7)[0, 0].tolist() == [0, 1, 3, 4, 2, -1, -1]


def test_neighbours_depend_on_neither_padding_nor_what_stands_where_nothing_is_known():
    small, large = backbones((9,)), backbones((9, 14))
    assert torch.equal(small["neighbours"][0], large["neighbours"][0, :9])
    place = torch.where(small["known"][..., None], small["backbone"][:, :, 1], torch.nan)
    hidden = small["known"].clone()
    hidden[:, 4] = False
    found = nearest(place.index_fill(1, torch.tensor([4]), torch.nan), hidden, 6)
    assert (found[0, 4] == -1).all() and not (found == 4).any()


def test_neighbours_along_the_chain():
    chain = torch.tensor([[0, 0, 0, 0, 1, 1, -1]])
    index = torch.tensor([[0, 1, 5, 6, 0, 1, 0]])
    present = torch.tensor([[True] * 6 + [False]])
    found = along_chain(chain, index, present, 3)[0].tolist()
    assert found == [[0, 1, 2], [1, 0, 2], [2, 3, 1], [3, 2, 1], [4, 5, -1], [5, 4, -1], [-1, -1, -1]]


# --------------------------------------------------------------------------------------------------------------- formulas


def test_the_virtual_cb_stands_where_that_of_an_l_amino_acid_does():
    # ideal alanine: N, CA, C and CB of the Engh and Huber geometry
    n, ca, c = np.array([1.458, 0, 0]), np.zeros(3), 1.525 * np.array([math.cos(1.941), math.sin(1.941), 0])
    backbone = torch.tensor(np.stack([n, ca, c, c + 1]))
    cb = virtual_cb(backbone).numpy()
    angle = [np.degrees(np.arccos(cb @ x / np.linalg.norm(cb) / np.linalg.norm(x))) for x in (n, c)]
    assert np.linalg.norm(cb) == pytest.approx(1.53, abs=0.02)
    assert angle == pytest.approx([110.5, 110.1], abs=1.5)
    assert np.dot(np.cross(n, c), cb) > 0  # seen from H: CO, R, N clockwise


def test_distances_are_those_of_the_named_atoms():
    cond = backbones((14,))
    near = Neighbourhood(cond["neighbours"])
    found = network().lengths(cond["backbone"], cond["known"], near)[0].numpy()  # (L, K, 25)
    atoms = torch.cat([cond["backbone"], virtual_cb(cond["backbone"])[..., None, :]], 2)[0].numpy()
    for i, k, p in [(0, 0, 0), *np.random.default_rng(0).integers([14, 6, 25], size=(60, 3))]:
        own, other = PAIRS[p].split("-")
        j = cond["neighbours"][0, i, k]
        apart = atoms[i, ATOMS.index(own)] - atoms[j, ATOMS.index(other)]
        assert found[i, k, p] == pytest.approx(math.sqrt((apart**2).sum() + 1e-6), abs=1e-12)


def test_radial_bases_are_gaussians():
    d = np.linspace(0, 40, 101)
    mu, sigma = np.linspace(2, 22, 16), 20 / 16
    expected = np.exp(-(((d[:, None] - mu) / sigma) ** 2))
    np.testing.assert_allclose(radial(torch.tensor(d)).numpy(), expected, rtol=1e-10, atol=1e-30)
    single = radial(torch.tensor(d, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(single, expected, rtol=2e-5, atol=1e-7)
    assert radial(torch.tensor([torch.inf])).max() < 1e-30


def test_relative_positions():
    chain, index = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 4, 90, 5]])
    neighbours = torch.arange(4).expand(1, 4, 4)
    found = RelativePosition.classes(chain, index, neighbours)[0].tolist()
    assert found == [[32, 28, 0, 65], [36, 32, 0, 65], [64, 64, 32, 65], [65, 65, 65, 32]]
    layer = RelativePosition(3)
    hot = torch.nn.functional.one_hot(torch.arange(66)).float()
    assert torch.allclose(layer.table(), layer.linear(hot), atol=1e-7)


@pytest.mark.parametrize("chunk", [2048, 7])
def test_bases_are_multiplied_as_if_they_were_stored(chunk, monkeypatch):
    monkeypatch.setitem(features._CHUNK, "cpu", chunk)
    noise = Noise(keys(0, range(2)))
    d, grad = 25 * noise.uniform([5, 3, 4], torch.float64), noise.fold("g").normal([5, 3, 6], torch.float64)
    weight = noise.fold("w").normal([6 * 64], torch.float64)[0].reshape(6, 64).requires_grad_()
    plain = radial(d).flatten(-2) @ weight.T
    expected = torch.autograd.grad(plain, weight, grad)[0]
    found = RadialLinear.apply(d, weight)
    assert torch.allclose(found, plain, atol=1e-12)
    assert torch.allclose(torch.autograd.grad(found, weight, grad)[0], expected, atol=1e-12)


def test_features_are_the_normalised_linear_map_of_position_and_bases():
    net, cond = network(), backbones((14, 9))
    classes = RelativePosition.classes(cond["chain"], cond["index"], cond["neighbours"])
    position = net.embeddings.linear(torch.nn.functional.one_hot(classes, 66).double())
    bases = radial(net.lengths(cond["backbone"], cond["known"], Neighbourhood(cond["neighbours"]))).flatten(-2)
    expected = net.norm_edges(net.edge_embedding(torch.cat([position, bases], -1)))
    real = cond["neighbours"] >= 0
    assert torch.allclose(net(**cond)[real], expected[real], atol=1e-12)
    assert net.edge_embedding.weight.shape == (8, 16 + 25 * 16)


# ---------------------------------------------------------------------------------------------------- invariance and masks

KINDS = pytest.mark.parametrize("kind", [EdgeFeatures, TraceFeatures])


def test_features_are_invariant_to_rigid_motion_and_not_to_reflection():
    net, cond = network(), backbones((14,))
    before = net(**cond)
    moved = net(**{**cond, "backbone": cond["backbone"] @ rotation().T + torch.tensor([3.0, -40.0, 7.0])})
    assert (moved - before).abs().max() < 1e-11
    mirror = net(**{**cond, "backbone": cond["backbone"] * torch.tensor([1.0, 1.0, -1.0])})
    assert (mirror - before).abs().max() > 1e-3


def test_features_of_the_trace_are_invariant_to_translation():
    """And not to rotation: a flaw of the published network, kept because its weights have learned with it."""
    net, cond = network(TraceFeatures), backbones((14,))
    before = net(**cond)
    moved = net(**{**cond, "backbone": cond["backbone"] + torch.tensor([3.0, -40.0, 7.0])})
    # the quaternion of no rotation holds a root of what rounding leaves
    assert (moved - before).abs().max() < 1e-6
    turned = net(**{**cond, "backbone": cond["backbone"] @ rotation().T})
    assert (turned - before).abs().max() > 0.1


@KINDS
def test_features_depend_on_neither_padding_nor_other_examples(kind):
    net = network(kind)
    small, large = backbones((9,)), backbones((9, 14), length=17)
    garbage = torch.where(large["known"][..., None, None], large["backbone"], 1e6)
    assert torch.equal(net(**small)[0], net(**large)[0, :9])
    assert torch.equal(net(**small)[0], net(**{**large, "backbone": garbage})[0, :9])


@KINDS
@pytest.mark.parametrize("left", [torch.nan, torch.inf, 5.0])
def test_nothing_is_read_of_residues_that_are_not_known(kind, left):
    net, cond = network(kind), backbones((14,))
    cond["known"][:, 3] = False
    results = []
    for there in (0.0, left):
        backbone = cond["backbone"].clone()
        backbone[:, 3] = there
        neighbours = nearest(backbone[:, :, 1], cond["known"], 6)
        out = net(**{**cond, "backbone": backbone, "neighbours": neighbours})
        grads = torch.autograd.grad(out[neighbours >= 0].square().sum(), list(net.parameters()))
        results.append([out, *grads])
    assert all(x.isfinite().all() for x in results[1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@KINDS
def test_without_structure_only_the_position_is_left(kind):
    net, cond = network(kind), backbones((14,))
    flat = {**cond, "known": torch.zeros_like(cond["known"])}
    found = net(**flat)
    assert torch.equal(found, net(**{**flat, "backbone": 7 * cond["backbone"]}))
    classes = RelativePosition.classes(cond["chain"], cond["index"], cond["neighbours"])
    for c in classes.unique():
        assert torch.allclose(found[classes == c], found[classes == c][:1], atol=1e-12)


@KINDS
@pytest.mark.parametrize("length", [1, 2, 3])
def test_very_short_chains(kind, length):
    assert network(kind)(**backbones((length,), k=4)).isfinite().all()
