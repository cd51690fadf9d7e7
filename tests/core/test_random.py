"""Random numbers as functions of (key, stream, site): known answers, distributions, and what must not change a draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from multigen.random import _GAMMA, Noise, _signed, hash64, keys, mix
from multigen.state import MultigenError

PUBLISHED = {  # the first outputs of Vigna's splitmix64.c for two seeds
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B],
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_mix_gives_the_published_outputs_of_splitmix64(seed):
    counters = seed + torch.arange(1, 6) * _GAMMA  # (5,)
    assert mix(counters).tolist() == [_signed(x) for x in PUBLISHED[seed]]


def test_hash_is_pinned_and_counts_numpy_integers_as_integers():
    """A changed hash would change every split, every sample and every resumed run."""
    assert hash64("emoji", 7) == hash64("emoji", np.int64(7)) == 3048957581468746672
    assert len({hash64("a", "b"), hash64("ab"), hash64("b", "a"), hash64("1"), hash64(1)}) == 5


def test_draws_are_pinned():
    noise = Noise(keys(3, [0, 41], "sample")).fold("x")
    assert noise.uniform([2]).flatten().tolist() == pytest.approx([0.8181043, 0.0387059, 0.9690114, 0.9623961], abs=1e-6)
    assert noise.normal([2]).flatten().tolist() == pytest.approx([0.3439712, -0.7541630, 1.2042409, -0.2374837], abs=1e-5)
    assert noise.integers(10, [3]).tolist() == [[5, 1, 5], [4, 8, 0]]


def noise_of(n: int, stream: str = "test") -> Noise:
    return Noise(keys(0, range(n), stream))


# ------------------------------------------------------------------------------------------------------ distributions


def test_uniform_numbers_are_uniform():
    u = noise_of(200).uniform([500]).flatten()  # (100_000,)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal():
    x = noise_of(200).normal([500]).double().flatten()  # (100_000,)
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    moments = [(x**k).mean().item() for k in range(1, 5)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.08)
    assert x.abs().max() > 4  # the tails are there


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 3), (0, 3), (4, 4, 7)])
def test_shapes(shape):
    noise = noise_of(6)
    assert noise.normal(shape).shape == noise.uniform(shape).shape == noise.integers(5, shape).shape == (6, *shape)


def test_normals_of_odd_width_use_every_draw_once():
    x = noise_of(20_000).normal([3])  # (20_000, 3)
    assert torch.corrcoef(x.T).fill_diagonal_(0).abs().max() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [0, -1, -(1 << 12), 1 << 11])
def test_uniform_interval_is_open(dtype, bits, monkeypatch):
    """Also for the extreme bit patterns: a time of exactly 1, or log(0), would come once in some million draws."""
    noise = noise_of(1)
    monkeypatch.setattr(noise, "_bits", lambda shape: torch.full((1,), bits))
    assert 0 < noise.uniform((), dtype).item() < 1


def test_uniform_refuses_half_precision():
    with pytest.raises(MultigenError, match="bfloat16"):
        noise_of(1).uniform((), torch.bfloat16)


@pytest.mark.parametrize("bits", [0, -1, 0xFFFFFFFF, -(1 << 32)])
def test_normal_is_finite_for_extreme_bits(bits, monkeypatch):
    noise = noise_of(1)
    monkeypatch.setattr(noise, "_bits", lambda shape: torch.full((1, *shape), bits))
    assert noise.normal([2]).abs().max() < 7


def test_integers_are_uniform():
    counts = noise_of(100).integers(7, [300]).flatten().bincount(minlength=7)  # (7,)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1.0, 1e-30, 250.0])
def test_categorical_follows_its_unnormalised_probabilities(scale):
    probs = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])  # (6,)
    drawn = noise_of(20_000).categorical(scale * probs.expand(20_000, 6))  # (20_000,)
    counts = drawn.bincount(minlength=6)  # (6,)
    assert counts[probs == 0].sum() == 0
    assert stats.chisquare(counts[probs > 0].numpy(), 20_000 * probs[probs > 0].double().numpy()).pvalue > 1e-3


def test_categorical_draws_each_site_for_itself():
    probs = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]).expand(5, 2, 3)  # (5, 2, 3)
    assert (noise_of(5).categorical(probs) == torch.tensor([0, 2])).all()


# ------------------------------------------------------------------------------------------------------ independence


def bits_of(noise: Noise, shape: tuple[int, ...]) -> torch.Tensor:
    return noise._bits(shape).flatten()


def streams() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    n, flat = noise_of(300), noise_of(300).uniform([300])
    square, upper = noise_of(30).uniform([50, 60]), torch.triu_indices(50, 50, 1)
    return {
        "neighbouring keys": (flat[:-1], flat[1:]),
        "neighbouring sites": (flat[:, :-1], flat[:, 1:]),
        "rows of sites": (square[:, :-1], square[:, 1:]),
        "transposed sites": (square[:, upper[0], upper[1]], square[:, upper[1], upper[0]]),
        "streams by name": (n.fold("a").uniform([300]), n.fold("b").uniform([300])),
        "streams by number": (n.fold(0).uniform([300]), n.fold(1).uniform([300])),
        "a stream and its child": (flat, n.fold("a").uniform([300])),
        "order of folding": (n.fold("a").fold("b").uniform([300]), n.fold("b").fold("a").uniform([300])),
        "names of key streams": (flat, noise_of(300, "other").uniform([300])),
        "seeds": (flat, Noise(keys(1, range(300), "test")).uniform([300])),
    }


@pytest.mark.parametrize("name", list(streams()))
def test_streams_are_independent(name):
    a, b = (x.double().flatten() for x in streams()[name])
    n = len(a)
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4.5 / math.sqrt(n)
    # 8 x 8 contingency table: a dependence that correlation does not see
    counts = ((a * 8).long() * 8 + (b * 8).long()).bincount(minlength=64)  # (64,)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_every_bit_is_fair_and_no_number_comes_twice():
    bits = torch.cat([bits_of(noise_of(64), (32, 32)), bits_of(noise_of(64).fold("x"), (32, 32))])  # (131_072,)
    assert len(bits.unique()) == len(bits)
    share = torch.stack([((bits >> i) & 1).double().mean() for i in range(64)])  # (64,)
    assert (share - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(len(bits))


def test_one_bit_of_the_key_changes_half_of_the_bits_of_the_draw():
    key = keys(0, range(200))  # (200,)
    for i in range(0, 64, 9):
        flipped = Noise(key)._bits(()) ^ Noise(key ^ (1 << i))._bits(())  # (200,)
        changed = sum(((flipped >> j) & 1).double().mean() for j in range(64))
        assert changed == pytest.approx(32, abs=2)


def test_keys_do_not_collide():
    assert len(keys(0, range(100_000), "train").unique()) == 100_000
    assert len(torch.cat([keys(s, range(1000), name) for s in range(20) for name in "ab"]).unique()) == 40_000


# ------------------------------------------------------------------------------------------------- what changes nothing


def draws(noise: Noise, shape: tuple[int, ...] = (6, 5)) -> dict[str, torch.Tensor]:
    probs = torch.tensor([0.2, 0.3, 0.5]).expand(len(noise.key), *shape, 3)  # (B, *shape, 3)
    return {
        "uniform": noise.uniform(shape),
        "normal": noise.normal(shape),
        "integers": noise.integers(11, shape),
        "categorical": noise.categorical(probs),
    }


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "categorical"])
def test_batch_composition_changes_no_number(kind):
    whole = draws(Noise(keys(5, range(40))))[kind]
    for index in ([7], [3, 39, 0], list(range(39, -1, -1))):
        assert torch.equal(draws(Noise(keys(5, index)))[kind], whole[index])
    assert torch.equal(draws(Noise(keys(5, range(40))).rows(torch.tensor([2, 4])))[kind], whole[[2, 4]])


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "categorical"])
def test_padding_changes_no_number(kind):
    noise = noise_of(4)
    small, large = draws(noise, (6, 5))[kind], draws(noise, (9, 12))[kind]
    assert torch.equal(small, large[:, :6, :5])


def test_asking_again_repeats_and_threads_change_nothing():
    noise, threads = noise_of(64), torch.get_num_threads()
    once = draws(noise, (64, 33))
    try:
        torch.set_num_threads(3)
        again = draws(noise, (64, 33))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(once[k], again[k]) for k in once)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_draws_the_same():
    cpu, cuda = draws(noise_of(16)), draws(Noise(keys(0, range(16), "test").cuda()))
    for kind in ("uniform", "integers", "categorical"):
        assert torch.equal(cpu[kind], cuda[kind].cpu())
    assert torch.allclose(cpu["normal"], cuda["normal"].cpu(), atol=1e-6)


def test_global_seed_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draws(noise_of(3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert all(torch.equal(first[k], v) for k, v in draws(noise_of(3)).items())
