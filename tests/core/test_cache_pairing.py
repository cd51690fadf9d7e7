"""Targets of the wrong example, and targets of noise."""

from __future__ import annotations

import numpy as np
import pytest
from cache_toys import LAYOUTS, WIDTH, ToyEncoder, ToyModality, Toys, job

from multigen.cache import Cached, InMemory, RandomTargets, Shuffled, Storage, build, open_cache, paired
from multigen.cache.pairing import partners
from multigen.modality import collate_targets
from multigen.state import MultigenError

LARGE = Toys(200)


class Sized:
    """Examples of 1 to 9 sites, whose targets count the sites of their example."""

    fingerprint = "sized"
    sizes = np.arange(60) % 9 + 1

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        n = int(self.sizes[index])
        return {"index": index, "target": {"z": np.full((n, 2), index, np.float32), "whole": np.full(3, index, np.float32)}}


def kept(layout, dataset=None):
    return InMemory(dataset or Toys(), ToyModality(), {"z": ToyEncoder(layout)})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_in_memory_are_those_of_the_cache(layout, tmp_path):
    made = job(layout=layout, name="z")
    build(made, Storage("float32"), tmp_path)
    cached = Cached(made.dataset, {"z": open_cache(made.dataset, made.encoder, "z", "float32", tmp_path)})
    ours, theirs = (collate_targets([data[i] for i in range(23)])["z"] for data in (kept(layout), cached))
    assert ours.mask.equal(theirs.mask) and ours.value.equal(theirs.value)


def test_everybody_has_a_partner_of_about_its_size():
    sizes = np.random.default_rng(0).integers(20, 100, 500)
    found = partners(sizes, seed=1)
    assert sorted(found) == list(range(500)) and (found != np.arange(500)).all()
    assert np.abs(sizes[found] - sizes).max() <= 8
    assert (partners(sizes, 1) == found).all() and (partners(sizes, 2) != found).any()
    assert partners(np.zeros(2), 0).tolist() == [1, 0]
    with pytest.raises(MultigenError, match="at least two"):
        partners(np.zeros(1), 0)


def test_shuffled_targets_are_another_examples_on_ones_own_sites():
    data, shuffled = Sized(), Shuffled(Sized(), seed=3)
    for i in range(len(data)):
        other = int(shuffled.partner[i])
        (z, mask), (whole, _) = shuffled[i]["target"]["z"], shuffled[i]["target"]["whole"]
        assert shuffled[i]["index"] == i and z.shape == (data.sizes[i], 2) and (whole == other).all()
        shared = min(data.sizes[i], data.sizes[other])
        assert mask.sum() == shared and (z[:shared] == other).all() and (z[shared:] == 0).all()
    assert shuffled.sizes is data.sizes and shuffled.fingerprint not in (data.fingerprint, Shuffled(data, seed=4).fingerprint)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_targets_have_the_shape_and_the_moments_of_real_ones(layout):
    real = kept(layout, LARGE)
    noise = RandomTargets(real, seed=0)
    a, b = (collate_targets([data[i] for i in range(len(data))])["z"] for data in (real, noise))
    assert a.mask.equal(b.mask)
    ours, theirs = (x.value[x.mask].double() for x in (b, a))
    spread = theirs.std(0).max()
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 0.35 * spread
    assert (ours.T.cov() - theirs.T.cov()).abs().max() < 0.35 * spread**2
    again = RandomTargets(real, seed=0)[7]["target"]["z"]
    assert (again[0] == noise[7]["target"]["z"][0]).all() and again[0].shape[-1] == WIDTH
    assert (RandomTargets(real, seed=1)[7]["target"]["z"][0] != again[0]).any()


def test_a_pairing_is_chosen_by_name():
    data = Sized()
    assert paired(data, "own", 0) is data
    assert isinstance(paired(data, "shuffled", 0), Shuffled) and isinstance(paired(data, "random", 0), RandomTargets)
    with pytest.raises(MultigenError, match="did you mean 'shuffled'"):
        paired(data, "shufled", 0)
    with pytest.raises(MultigenError, match="the data have none"):
        paired(Toys(), "random", 0)
