"""Batches under a budget: nothing lost, little wasted, and a pure function of (seed, position)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_toys import PointModality, Points

from multigen.loader import Loader
from multigen.packing import Packed
from multigen.random import keys
from multigen.state import MultigenError

SIZES = np.random.default_rng(0).integers(20, 200, 500)


def test_no_example_is_lost_and_none_shown_twice_in_an_epoch():
    """Upstream's packing drops the example that overflows each batch: 68 of 1,000 at a budget of 2,000 sites."""
    packed = Packed(SIZES, 2000, window=128)
    for epoch in range(3):
        shown = np.concatenate(packed.plan(epoch).batches)
        assert sorted(shown) == list(range(500))


def test_batches_keep_to_the_budget_and_waste_little():
    packed = Packed(SIZES, 2000)
    sorted_sizes = SIZES[np.asarray(torch.argsort(keys(0, range(500), "order 0"), stable=True))]
    held = [len(b) * sorted_sizes[b].max() for b in packed.plan(0).batches]
    assert max(held) <= 2000
    assert packed.padding == pytest.approx(1 - SIZES.sum() / sum(held))
    unsorted = 1 - SIZES.mean() / 199  # batches at random hold the largest size nearly always
    assert packed.padding < 0.1 < unsorted


def test_a_budget_of_pairs_bounds_the_squares():
    """A network of all pairs costs the square: by sites, the batch of the largest examples costs most."""
    packed = Packed(SIZES, 200_000, power=2)
    sorted_sizes = SIZES[np.asarray(torch.argsort(keys(0, range(500), "order 0"), stable=True))]
    held = [len(b) * sorted_sizes[b].max() ** 2 for b in packed.plan(0).batches]
    assert max(held) <= 200_000 and sorted(np.concatenate(packed.plan(0).batches)) == list(range(500))
    assert packed.padding == pytest.approx(1 - (SIZES**2).sum() / sum(held)) and packed.padding < 0.15
    by_sites = [len(b) * sorted_sizes[b].max() ** 2 for b in Packed(SIZES, 2000).plan(0).batches]
    assert np.std(held) / np.mean(held) < np.std(by_sites) / np.mean(by_sites)


def test_an_example_above_the_budget_is_a_batch_of_its_own():
    plan = Packed([10, 50, 10], 20).plan(0)
    assert sorted(map(len, plan.batches)) == [1, 2]


def test_order_is_shuffled_and_changes_with_epoch_and_seed():
    first, again, other = (Packed(SIZES, 2000, seed=s).plan(0).batches for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [b.tolist() for b in first] != [b.tolist() for b in other]
    assert [b.tolist() for b in first] != [b.tolist() for b in Packed(SIZES, 2000).plan(1).batches]
    largest = [len(b) for b in first]
    assert largest != sorted(largest) and largest != sorted(largest, reverse=True)


def test_processes_and_micro_batches_share_the_run_without_overlap():
    alone = Packed(SIZES, 2000)
    ranks = [Packed(SIZES, 2000, rank=r, world=2) for r in (0, 1)]
    interleaved = [rank.positions(m) for m in range(60) for rank in ranks]
    assert interleaved == [alone.positions(m) for m in range(120)]
    first, second = (len(alone.plan(e).batches) for e in (0, 1))
    assert sorted(p for m in range(first, first + second) for p in alone.positions(m)) == list(range(500, 1000))


def test_any_batch_can_be_asked_first():
    fresh, walked = Packed(SIZES, 2000), Packed(SIZES, 2000)
    for micro in range(100):
        walked.positions(micro)
    assert fresh.positions(100) == walked.positions(100)
    assert walked.positions(3) == Packed(SIZES, 2000).positions(3)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_goes_on_from_any_step(workers):
    split = Packed([1 + i % 3 for i in range(20)], 6)
    whole = list(Loader(Points(20), PointModality(), split).steps(0, 30))
    rest = list(Loader(Points(20), PointModality(), Packed(split.sizes, 6), workers=workers).steps(17, 30))
    assert all(torch.equal(a.key, b.key) for [a], [b] in zip(whole[17:], rest, strict=True))
    assert len({int(k) for [b] in whole for k in b.key}) == sum(len(b) for [b] in whole)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Packed([], 10), "at least one site each, got 0 examples"),
        (lambda: Packed([3, 0], 10), "at least one site each"),
        (lambda: Packed([3], 0), "batch_tokens is at least 1, got 0"),
        (lambda: Packed([3], 0, power=2), "batch_pairs is at least 1, got 0"),
    ],
    ids=["empty", "size", "budget", "pairs"],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()
