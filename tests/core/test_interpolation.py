"""Paths between noise and data."""

from __future__ import annotations

import pytest
import torch

from multigen.interpolation import Linear, Never, Shifted, Trigonometric
from multigen.state import MultigenError

MOVING = [Linear(), Trigonometric(), Shifted(3.0), Shifted(0.4), Shifted(2.5, Trigonometric()), Shifted(2.0, Shifted(1.5))]
T = torch.linspace(0, 1, 41, dtype=torch.float64)


@pytest.mark.parametrize("path", [*MOVING, Never()], ids=repr)
def test_derivatives_are_those_of_autograd(path):
    t = T.clone().requires_grad_(True)
    c = path(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma)):
        expected = torch.zeros_like(t)
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        assert torch.allclose(derivative, expected, atol=1e-12)


@pytest.mark.parametrize("path", MOVING, ids=repr)
def test_paths_lead_from_noise_to_data(path):
    c = path(T)
    assert torch.allclose(torch.stack([c.alpha[0], c.sigma[0]]), torch.tensor([0.0, 1.0]).double(), atol=1e-12)
    assert torch.allclose(torch.stack([c.alpha[-1], c.sigma[-1]]), torch.tensor([1.0, 0.0]).double(), atol=1e-12)
    assert (c.alpha.diff() > 0).all() and (c.sigma.diff() < 0).all()
    assert torch.isfinite(c.snr).all() and (c.snr.diff() > 0).all()
    assert c.alpha.dtype == torch.float64


def test_trigonometric_preserves_variance():
    c = Trigonometric()(T)
    assert torch.allclose(c.alpha**2 + c.sigma**2, torch.ones_like(T))


def test_shift_multiplies_noise_over_signal():
    plain, shifted = Linear()(T[1:]), Shifted(3.0)(T[1:])
    assert torch.allclose(shifted.sigma / shifted.alpha, 3 * plain.sigma / plain.alpha, atol=1e-12)
    same = Shifted(1.0, Trigonometric())(T)
    assert all(torch.allclose(a, b) for a, b in zip(same, Trigonometric()(T), strict=True))


def test_never_carries_no_signal():
    c = Never()(T)
    assert (c.alpha == 0).all() and (c.sigma == 1).all() and (c.d_alpha == 0).all() and (c.d_sigma == 0).all()


@pytest.mark.parametrize("shift", [0, -1.0])
def test_shift_must_be_positive(shift):
    with pytest.raises(MultigenError, match="shift must be positive"):
        Shifted(shift)
