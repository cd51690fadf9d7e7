"""Networks that are never trained, and how they are told apart."""

from __future__ import annotations

import torch
from torch import nn

from multigen.nn.frozen import Frozen


class Toy(Frozen):
    def __init__(self, seed: int = 0, **options):
        super().__init__(**options)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.freeze()


def test_nothing_of_it_is_trained():
    toy = Toy()
    toy.train()
    assert not any(m.training for m in toy.modules()) and not any(p.requires_grad for p in toy.parameters())
    x = torch.ones(4, 2)
    assert torch.equal(toy.net(x), toy.net(x))


def test_fingerprint_is_of_weights_and_options():
    class Newer(Toy):
        version = 2

    Newer.__name__ = "Toy"
    assert Toy(layer=1).fingerprint == Toy(layer=1).fingerprint
    assert len({t.fingerprint for t in (Toy(), Toy(1), Toy(layer=1), Toy(layer=2), Newer())}) == 5
