"""Pairing noise with molecules: shorter paths, the same law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from modalities.molecule.transport import assigned, cost, paired, rotation


def points(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x - x.mean(0)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 30])
def test_every_stage_lowers_the_cost(n):
    for seed in range(20):
        noise, clean = points(n, seed), points(n, 100 + seed)
        permuted = noise[assigned(noise, clean)]
        turned = paired(noise, clean)
        assert cost(turned, clean) <= cost(permuted, clean) + 1e-9 <= cost(noise, clean) + 2e-9
        assert cost(paired(noise, clean, rounds=3), clean) <= cost(turned, clean) + 1e-9


def test_rotations_are_proper_and_exact():
    for seed in range(20):
        x, turn = points(7, seed), Rotation.random(random_state=seed).as_matrix()
        found = rotation(x, x @ turn.T)
        np.testing.assert_allclose(found, turn, atol=1e-10)
        assert np.linalg.det(rotation(x, x * [1, 1, -1])) == pytest.approx(1)  # never a reflection


def test_noise_is_only_permuted_and_turned():
    noise, clean = points(12, 0), points(12, 1)
    moved = paired(noise, clean)
    np.testing.assert_allclose(np.sort(np.linalg.norm(moved, axis=1)), np.sort(np.linalg.norm(noise, axis=1)))
    fixed = paired(noise, clean, turn=False)
    assert {tuple(x) for x in fixed} == {tuple(x) for x in noise}


def test_finds_a_shuffled_copy():
    clean = points(15, 3)
    shuffled = clean[np.random.default_rng(0).permutation(15)]
    assert cost(paired(shuffled, clean), clean) == pytest.approx(0, abs=1e-12)
