"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multigen.ema import Ema
from multigen.state import MultigenError


def test_follows_the_formula_and_copies_the_rest() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net[0].bias.requires_grad_(False)
    ema = Ema(net, 0.3)
    expected = net[0].weight.detach().clone()
    for n in (1, 2, 3, 4):
        with torch.no_grad():
            net[0].weight.normal_()
            net[1].running_mean.normal_()
            net[1].num_batches_tracked.add_(1)
        ema.update(n)
        d = min(0.3, n / (9 + n))
        expected = d * expected + (1 - d) * net[0].weight.detach()
    assert torch.allclose(ema.module[0].weight, expected, atol=1e-6)
    assert torch.equal(ema.module[0].bias, net[0].bias)
    assert torch.equal(ema.module[1].running_mean, net[1].running_mean)
    assert ema.module[1].num_batches_tracked == 4


def test_without_a_warm_up_the_decay_is_constant() -> None:
    net = nn.Linear(2, 3)
    ema = Ema(net, 0.9, warmup=False)
    first = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.add_(1)
    for n in (1, 2, 3):
        ema.update(n)
    assert torch.allclose(ema.module.weight, first + (1 - 0.9**3), atol=1e-6)


def test_is_another_network_that_is_ready_for_use() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = Ema(net, 0.999)
    assert not ema.module.training and net.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert ema.module[0].weight.data_ptr() != net[0].weight.data_ptr()
    assert ema.name == "ema_0.999"


def test_keeps_tied_weights_tied() -> None:
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net[1].weight = net[0].weight
    ema = Ema(net, 0.5)
    with torch.no_grad():
        net[0].weight.add_(1)
    ema.update(100)
    assert ema.module[0].weight is ema.module[1].weight
    assert torch.allclose(ema.module[0].weight, net[0].weight - 0.5)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_refuses_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(MultigenError, match=str(decay)):
        Ema(nn.Linear(1, 1), decay)
