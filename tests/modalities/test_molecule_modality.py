"""Molecules to batches, noise that is paired with them, and templates around what is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalities.molecule.example import Chains, contract
from modalities.molecule.fragments import drawn
from modalities.molecule.modality import Molecules
from multigen import buckets
from multigen.evaluate import sample_batches
from multigen.random import Noise, keys
from multigen.sampling import Grid, Jump, Sampler
from multigen.state import MultigenError


def batch_of(modality, n=4):
    return modality.collate([Chains()[i] for i in range(n)], list(range(n)))


def test_molecules_are_centred_scaled_and_turned():
    plain, turned = batch_of(Molecules(scale=2.0, rotate=False)), batch_of(Molecules(scale=2.0))
    for i in range(4):
        real = plain.mask["coords"][i]
        one, other = (b.clean["coords"][i][real] for b in (plain, turned))
        assert one.mean(0).abs().max() < 1e-6 and not torch.allclose(one, other, atol=0.1)
        expected = torch.from_numpy(Chains()[i]["coords"] / 2)
        torch.testing.assert_close(torch.cdist(one, one), torch.cdist(expected, expected))
        torch.testing.assert_close(torch.cdist(one, one), torch.cdist(other, other), atol=1e-5, rtol=1e-5)
        left, right = (torch.linalg.det(x[:3] - x[3]) for x in (one, other))
        assert left * right > 0, "never mirrored"


def test_noise_comes_nearer_and_stays_noise():
    free, coupled = batch_of(Molecules(rotate=False, couple=False)), batch_of(Molecules(rotate=False))
    assert not free.prior and coupled.prior["coords"].shape == (4, 7, 3)
    for i in range(4):
        n = 4 + i
        clean, noise = coupled.clean["coords"][i, :n], coupled.prior["coords"][i, :n]
        plain = Noise(torch.tensor([i])).fold("prior").normal([n, 3])[0]
        plain = plain - plain.mean(0)
        assert ((noise - clean) ** 2).sum() < ((plain - clean) ** 2).sum()
        torch.testing.assert_close(noise.norm(dim=-1).sort().values, plain.norm(dim=-1).sort().values, atol=1e-5, rtol=1e-5)


def test_given_parts_are_connected_and_fix_the_frame():
    batch = batch_of(Molecules(fragment=1.0, rotate=False))
    fixed = batch.cond["fixed"]
    assert (fixed.sum(1) >= 1).all() and (batch.free["atoms"].sum(1) >= 1).all()
    assert torch.equal(fixed, batch.mask["atoms"] & ~batch.free["atoms"])
    for i in range(4):
        given = fixed[i]
        assert batch.clean["coords"][i][given].mean(0).abs().max() < 1e-6
        inside = batch.mask["bonds"][i][given][:, given]
        assert not batch.free["bonds"][i][given][:, given].any() and inside.sum() == given.sum() * (given.sum() - 1)
        assert batch.free["bonds"][i][given][:, batch.free["atoms"][i]].all()


def test_drawn_parts_grow_along_bonds():
    bonds = np.zeros((6, 6), int)
    bonds[[0, 1, 3, 4], [1, 2, 4, 5]] = 1  # two chains of three
    sizes = set()
    for key in range(60):
        given = drawn(bonds + bonds.T, Noise(torch.tensor([key])))
        sizes.add(int(given.sum()))
        assert 1 <= given.sum() <= 3 and (given[:3].any() != given[3:].any())
        assert not (given[[0, 2]].all() and not given[1]) and not (given[[3, 5]].all() and not given[4])
    assert sizes == {1, 2, 3} and not drawn(np.zeros((1, 1)), Noise(torch.tensor([0]))).any()


def test_templates_have_the_sizes_of_the_source():
    drawn_sizes = Molecules(source=Chains()).template(range(40), 0).mask["atoms"].sum(1)
    assert set(drawn_sizes.tolist()) <= set(Chains.sizes.tolist()) and len(set(drawn_sizes.tolist())) > 4
    with pytest.raises(MultigenError, match=r"size holds 8\.5: write a number of atoms like 8, or several like \[8,10,12\]"):
        Molecules(size=[8, 8.5])
    template = Molecules(size=9).template([0, 1], 0)
    assert template.free["bonds"].sum() == 2 * 9 * 8 and "fixed" not in template.cond


def test_completing_keeps_what_is_given():
    modality = Molecules(scale=2.0, fragment=0.5)
    example = Chains()[3]
    room = {
        k: np.concatenate([example[k], np.zeros((2, *example[k].shape[1:]), example[k].dtype)]) for k in ("atoms", "charges")
    }
    coords = np.concatenate([example["coords"], np.zeros((2, 3))])
    bonds = np.pad(example["bonds"], (0, 2))
    whole = {**room, "coords": coords, "bonds": bonds, "fixed": np.arange(len(coords)) < len(example["atoms"])}
    template = modality.to_complete([whole], keys(0, [0], "sample"))
    assert template.cond["fixed"].sum() == 7 and template.free["atoms"].sum() == 2
    [made] = modality.decode(template.clean, template)
    np.testing.assert_allclose(np.diff(made.coords[:7], axis=0), np.diff(example["coords"], axis=0), atol=1e-5)
    assert (made.bonds[:7, :7] == example["bonds"]).all() and (made.atoms[:7] == example["atoms"]).all()


def test_what_is_not_finite_or_undecided_is_no_sample():
    modality = Molecules(size=3)
    template = modality.template([0, 1, 2], 0)
    state = {k: x.clone() for k, x in template.clean.items()}
    state["coords"][1, 0, 0] = torch.nan
    state["atoms"][2, 0] = 17
    assert [m is None for m in modality.decode(state, template)] == [False, True, True]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Molecules(scale=0), "scale is a length in Angstrom, above 0"),
        (lambda: Molecules(fragment=2), "fragment is a probability, got 2"),
        (lambda: Molecules(size=0), "size is at least 1"),
        (lambda: Molecules(size="9:6"), "size is '9:6': nothing lies between"),
        (lambda: Molecules(size="some"), "size is 'some': write a number of atoms"),
        (lambda: Molecules().template([0], 0), "how many atoms"),
    ],
    ids=["scale", "fragment", "size", "range", "words", "source"],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()


@pytest.mark.parametrize("size, wanted", [(9, {9}), ("6:8", {6, 7, 8}), ([5, 7], {5, 7})])
def test_sizes_are_given_as_a_number_a_range_or_a_list(size, wanted):
    modality = Molecules(size=size)
    template = modality.template(range(40), 0)
    assert set(template.mask["atoms"].sum(1).tolist()) == wanted
    assert modality.sizes(range(3, 9), 0) == template.mask["atoms"].sum(1)[3:9].tolist()


def test_a_sample_is_the_same_in_any_batch_to_rounding():
    torch.manual_seed(0)
    example = contract()
    sampler = Sampler(Grid(6), discrete=Jump(noise=1.0), self_conditioning=True)
    modality = Molecules(source=Chains())
    runs = []
    for plan in (buckets.ranges(10, 1), buckets.batches(modality, 10, 4, 0), [list(range(10))]):
        parts = sample_batches(sampler, example.denoiser, example.processes, modality, plan, 0)
        ordered = buckets.in_order(modality, plan, parts, buckets.ranges(10, 1), 0)
        runs.append([sample for samples, _ in ordered for sample in samples])
    for alone, *others in zip(*runs, strict=True):
        for other in others:
            assert (alone.atoms == other.atoms).all() and (alone.bonds == other.bonds).all()
            np.testing.assert_allclose(alone.coords, other.coords, atol=1e-3)
