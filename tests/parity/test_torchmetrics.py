"""Our distances against those of torchmetrics, fed with the same features."""

import pytest
import torch

from multigen import distances
from multigen.random import Noise, keys

kid = pytest.importorskip("torchmetrics.image.kid")
fid = pytest.importorskip("torchmetrics.image.fid")


class _Identity(torch.nn.Module):
    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def sets():
    x = Noise(keys(0, range(64), "x")).normal([8])  # (64, 8)
    return x, x.flip(0) * 0.5 + Noise(keys(0, range(64), "y")).normal([8])  # (64, 8)


def _feed(metric, sets):
    metric.update(sets[0], real=True)
    metric.update(sets[1], real=False)
    return metric.compute()


def test_frechet(sets):
    theirs = _feed(fid.FrechetInceptionDistance(_Identity()).set_dtype(torch.float64), [s.double() for s in sets])
    assert distances.frechet(*map(distances.moments, sets)) == pytest.approx(float(theirs), rel=1e-4)


def test_kernel_distance(sets):
    theirs, _ = _feed(kid.KernelInceptionDistance(_Identity(), subsets=1, subset_size=64), sets)
    assert distances.kernel_distance(*sets, subset=64, subsets=1)[0] == pytest.approx(float(theirs), rel=1e-4)
