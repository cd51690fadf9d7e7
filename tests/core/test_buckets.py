"""Samples in batches of similar sizes: nothing lost, little wasted, handed out in their own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multigen.buckets import WINDOW, Sized, batches, bucketed, in_order, padding, ranges
from multigen.evaluate import sample_batches
from multigen.random import Noise, keys
from multigen.state import Batch, MultigenError


class Lines:
    """Samples are rows of one number each, as long as chance wants; longer batches hold zeros behind them."""

    def sizes(self, index, seed):
        return (5 + Noise(keys(seed, index, "sample")).integers(20)).tolist()

    def template(self, index, seed):
        size = torch.tensor(self.sizes(index, seed))  # (B,)
        real = torch.arange(int(size.max())) < size[:, None]  # (B, N)
        mask = {"x": real}
        return Batch({"x": torch.zeros(real.shape)}, mask, mask, keys(seed, index, "sample"))

    def decode(self, state, template):
        return [row[real] for row, real in zip(state["x"], template.mask["x"], strict=True)]


class Unsized:
    pass


def sampler(denoiser, processes, template):
    return {"x": torch.where(template.mask["x"], Noise(template.key).normal(template.mask["x"].shape[1:]), 0)}


def drawn(plan, seed=3):
    return sample_batches(sampler, None, {}, Lines(), plan, seed)


def test_every_sample_is_in_one_batch_beside_its_equals():
    plan, sizes = batches(Lines(), 100, 8, 0), Lines().sizes(range(100), 0)
    assert sorted(i for batch in plan for i in batch) == list(range(100)) and max(map(len, plan)) == 8
    assert padding(sizes, plan) < 0.07 < padding(sizes, ranges(100, 8)) < 1
    widths = [max(sizes[i] for i in batch) for batch in plan]
    assert widths == sorted(widths)


def test_what_has_no_sizes_is_drawn_as_it_comes():
    assert batches(Unsized(), 10, 4, 0) == ranges(10, 4) and isinstance(Lines(), Sized) and not isinstance(Unsized(), Sized)


def test_many_are_sorted_within_windows():
    plan = batches(Lines(), 2 * WINDOW + 10, 64, 0)
    windows = [{i // WINDOW for i in batch} for batch in plan]
    assert all(len(window) == 1 for window in windows) and [w for (w,) in windows] == sorted(w for (w,) in windows)
    assert sorted(i for batch in plan for i in batch) == list(range(2 * WINDOW + 10))


def test_a_batch_holds_nothing_much_larger_than_its_smallest():
    sizes = Lines().sizes(range(40), 0)
    plan = batches(Lines(), 40, 64, 0)
    assert all(max(sizes[i] for i in batch) <= 1.25 * min(sizes[i] for i in batch) for batch in plan)
    assert padding(sizes, plan) < 0.12


@pytest.mark.parametrize("size", [1, 7, 64])
def test_samples_come_in_their_own_order_with_their_templates(size):
    plan = batches(Lines(), 50, size, 3)
    alone = [sample for samples, _ in drawn(ranges(50, 1)) for sample in samples]
    found = list(in_order(Lines(), plan, drawn(plan), ranges(50, size), 3))
    for (samples, template), part in zip(found, ranges(50, size), strict=True):
        assert torch.equal(template.key, keys(3, part, "sample"))
        for sample, i in zip(samples, part, strict=True):
            assert torch.equal(sample, alone[i])
            assert int(template.mask["x"][i - part.start].sum()) == len(sample)


def test_equal_sizes_keep_their_order():
    assert bucketed(range(4, 10), [3] * 6, 4) == [[4, 5, 6, 7], [8, 9]]
    assert np.isclose(padding([3] * 6, [[0, 1, 2, 3], [4, 5]]), 0)


def test_nothing_is_refused():
    for n, size in ((0, 4), (4, 0)):
        with pytest.raises(MultigenError, match=f"n={n} and batch_size={size}"):
            batches(Lines(), n, size, 0)
