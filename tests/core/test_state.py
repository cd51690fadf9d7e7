"""Masks over prefixes, means over what is real, batches moved as a whole."""

from __future__ import annotations

import pytest
import torch

from multigen.random import keys
from multigen.state import Batch, Features, expand, masked_mean, pool, where


@pytest.mark.parametrize("shape, expected", [((2,), (2, 1, 1)), ((2, 3), (2, 3, 1)), ((2, 3, 4), (2, 3, 4))])
def test_expand_appends_dimensions(shape, expected):
    assert expand(torch.ones(shape), torch.zeros(2, 3, 4)).shape == expected


def test_where_takes_a_mask_over_a_prefix():
    x, y = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert torch.equal(where(mask, x, y), mask[..., None].expand(2, 3, 4).float())


CASES = [((4,), (4,)), ((4,), (4, 5)), ((4, 6), (4, 6)), ((4, 6), (4, 6, 2)), ((4, 3, 3), (4, 3, 3, 2)), ((4,), (4, 2, 3, 3))]


@pytest.mark.parametrize("mask_shape, shape", CASES)
def test_masked_mean_is_the_mean_over_real_sites(mask_shape, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(mask_shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[3] = False
    got = masked_mean(x, mask)
    for i in range(4):
        expected = x[i][mask[i]].mean() if mask[i].any() else torch.tensor(0.0)
        assert torch.allclose(got[i], expected)


@pytest.mark.parametrize("filling", [float("inf"), float("nan"), 1e30])
def test_padding_does_not_leak_into_means(filling):
    mask = torch.tensor([[True, True, False], [False, False, False]])
    x = torch.where(mask[..., None], torch.ones(2, 3, 2), filling)
    assert masked_mean(x, mask).tolist() == [1, 0]
    pooled = pool(Features(x, mask))
    assert pooled.value.tolist() == [[1, 1], [0, 0]]
    assert pooled.mask.tolist() == [True, False]


def test_pool_of_pairs_and_of_pooled():
    value, mask = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4) < 0.5
    mask[:, 0, 0] = True
    pooled = pool(Features(value, mask))
    assert torch.allclose(pooled.value[1], value[1][mask[1]].mean(0))
    assert pool(pooled) is pooled


def test_pool_does_not_overflow_in_half_precision():
    value = torch.full((1, 300, 2), 1000.0, dtype=torch.float16)
    pooled = pool(Features(value, torch.ones(1, 300, dtype=torch.bool)))
    assert pooled.value.tolist() == [[1000, 1000]]
    assert pooled.value.dtype == torch.float16


def batch() -> Batch:
    ones = torch.ones(2, dtype=torch.bool)
    target = {"z": Features(torch.zeros(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))}
    return Batch({"x": torch.zeros(2, 5)}, {"x": ones}, {"x": ones}, keys(0, [0, 1]), {"label": torch.tensor([1, 2])}, target)


def test_a_batch_is_mapped_everywhere():
    whole = batch()
    first = whole.map(lambda x: x[:1])
    assert len(first) == 1
    assert first.clean["x"].shape == (1, 5)
    assert first.target["z"].value.shape == (1, 4, 3)
    assert first.target["z"].mask.shape == (1, 4)
    assert first.cond["label"].tolist() == [1]
    moved = whole.to("meta")
    assert {moved.key.device.type, moved.target["z"].mask.device.type, moved.free["x"].device.type} == {"meta"}
    assert whole.replace(cond={}).cond == {} and whole.cond != {}
