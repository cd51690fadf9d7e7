"""Small denoisers of molecules and random states, for the tests of both kinds of network."""

from __future__ import annotations

import torch

from modalities.molecule.egnn import EGNN
from modalities.molecule.semla import Semla
from modalities.molecule.steerable import Steerable
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen.random import Noise, keys
from multigen.state import Batch, where

SIZES = (5, 2, 1, 7)


def semla(**settings):
    torch.manual_seed(0)
    return stirred(Semla(**{"width": 16, "sets": 6, "edges": 8, "message": 8, "layers": 3, "heads": 4, **settings}))


def steerable(**settings):
    torch.manual_seed(0)
    small = {"width": 12, "higher": "4x1o + 3x2e", "layers": 2, "radial": 8, "basis": 5, "edges": 6, "message": 8}
    return stirred(Steerable(**{**small, **settings}))


def egnn(**settings):
    torch.manual_seed(0)
    return stirred(EGNN(**{"width": 16, "edges": 8, "message": 8, "layers": 2, **settings}))


NETWORKS = {
    "semla": semla,
    "egnn": egnn,
    "steerable": steerable,
    "steerable-cutoff": lambda **k: steerable(cutoff=1.7, **k),
    "steerable-pseudo": lambda **k: steerable(width=8, higher="3x0o + 3x1o + 2x1e + 2x2e + 2x2o", **k),
}


def stirred(network):
    """With what starts at zero moved away from it."""
    for p in network.parameters():
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return network


def state(sizes=SIZES, pad=0, seed=0, dtype=torch.float64, fixed=0):
    """A batch of random noisy molecules; the first `fixed` atoms of those with more are given."""
    b, n = len(sizes), max(sizes) + pad
    noise = Noise(keys(seed, range(b)))
    real = torch.arange(n) < torch.tensor(sizes)[:, None]  # (B, N)
    pairs = real[:, :, None] & real[:, None] & ~torch.eye(n, dtype=torch.bool)  # (B, N, N)
    bonds = noise.fold("bonds").integers(len(BONDS) + 1, [n, n]).triu(1)  # (B, N, N)
    given = real & (torch.arange(n) < fixed) & (real.sum(1, keepdim=True) > fixed)  # (B, N)
    charges = noise.fold("charges").integers(len(CHARGES), [n])  # (B, N)
    clean = {
        "coords": noise.fold("coords").normal([n, 3], torch.float64).to(dtype) + 0.5,
        "atoms": noise.fold("atoms").integers(ATOMS + 1, [n]),
        "bonds": bonds + bonds.mT,
        "charges": torch.where(given, charges, len(CHARGES)),
    }
    mask = {"coords": real, "atoms": real, "bonds": pairs, "charges": real}
    clean = {k: where(mask[k], x, 0) for k, x in clean.items()}
    return Batch(clean, mask, mask, keys(seed, range(b)), {"fixed": given} if fixed else {})


def guess(batch, seed=1):
    """A previous prediction."""
    noise = Noise(keys(seed, range(len(batch))))
    n = batch.clean["atoms"].shape[1]
    like = batch.clean["coords"].dtype
    shapes = {"coords": [n, 3], "atoms": [n, ATOMS], "bonds": [n, n, len(BONDS)], "charges": [n, len(CHARGES)]}
    return {k: where(batch.mask[k], noise.fold(k).normal(shape, torch.float64).to(like), 0) for k, shape in shapes.items()}


def times(batch, coords=0.4, atoms=0.6):
    """(B,) each, different for every molecule."""
    part = torch.linspace(0.5, 1, len(batch), dtype=batch.clean["coords"].dtype)  # (B,)
    return {"coords": coords * part, "atoms": atoms * part, "bonds": atoms * part, "charges": 0 * part}


def run(network, batch, prev=None, taps=None):
    return network(batch.clean, times(batch), batch.cond, batch.mask, prev, network.tap_names if taps is None else taps)


def everything(output):
    """Predictions and taps by name."""
    return output.pred | {name: features.value for name, features in output.taps.items()}


def distance(a, b):
    """The largest difference of two sets of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).detach().abs().max()) for k in a)
