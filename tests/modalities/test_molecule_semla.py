"""Semla: its size, its layers, its gradients (M2)."""

from __future__ import annotations

import pytest
import torch
from molecule_networks import distance, run, semla, state

from modalities.molecule.layers import SetNorm, centre, sites
from modalities.molecule.semla import Semla
from modalities.molecule.vectors import SOFT, directions, squared_distance
from multigen.state import MultigenError


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_published_widths_have_the_published_number_of_parameters():
    """M2: 23.30 million without a projector; no linear map follows another here, and no bias a softmax."""
    network = Semla()
    count = sum(p.numel() for p in network.parameters())
    assert abs(count / 23.30e6 - 1) < 0.005
    assert len(network.tap_names) == 12


def test_the_first_layer_reads_pairs_and_the_last_writes_them():
    network = semla(layers=5)
    assert [layer.pair.edges is not None for layer in network.layers] == [True] + 4 * [False]
    assert [layer.edges is not None for layer in network.layers] == 4 * [False] + [True]


def test_tap_k_is_what_stands_after_k_layers():
    network, batch = semla().double().eval(), state()
    seen = []
    for layer in network.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    taps = run(network, batch).taps
    real = batch.mask["atoms"]
    assert all(torch.equal(taps[f"layer{k + 1}"].value[real], seen[k][real]) for k in range(3))


@pytest.mark.parametrize(
    "settings, message", [({"heads": 3}, "3 heads do not divide"), ({"layers": 1}, "layers is at least 2")]
)
def test_refused(settings, message):
    with pytest.raises(MultigenError, match=message):
        semla(**settings)


def test_unit_vectors_are_summed_without_being_made():
    x, attention = random(2, 3, 3, 5), random(2, 3, 5, 5).softmax(-1) * (1 - torch.eye(5))
    vector = x[..., :, None] - x[..., None, :]  # (B, S, 3, N, N)
    unit = vector / (vector.square().sum(2, keepdim=True) + SOFT**2).sqrt()
    torch.testing.assert_close(directions(x, attention), (attention[:, :, None] * unit).sum(-1))
    torch.testing.assert_close(squared_distance(x), vector.square().sum(2))


def test_gradients_of_the_sum_of_unit_vectors():
    x, attention = random(2, 2, 3, 4).requires_grad_(), (random(2, 2, 4, 4).softmax(-1) * (1 - torch.eye(4))).requires_grad_()
    assert torch.autograd.gradcheck(directions, (x, attention))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 4, 5)])
def test_rounding_errors_do_not_grow_with_depth(sizes):
    """Sets of two atoms are numbers along a line, and some number is near zero in every layer."""
    network, batch = semla(width=32, sets=32, layers=12).double().eval(), state(sizes=sizes)
    noise = 1e-12 * random(*batch.clean["coords"].shape)
    with torch.no_grad():
        here, there = (run(network, batch.replace(clean={**batch.clean, "coords": x})).pred for x in _both(batch, noise))
    assert distance(here, there) < 1e-8


def _both(batch, noise):
    return batch.clean["coords"], batch.clean["coords"] + noise


def test_sets_are_centred_and_scaled_over_real_atoms():
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    at = sites(mask, torch.float64)
    x, norm = centre(random(2, 3, 3, 6), at), SetNorm(3).double()
    assert x.sum(-1).abs().max() < 1e-12 and (x[0, :, :, 4:] == 0).all()
    torch.nn.init.constant_(norm.scale, 2.0)
    scaled, length = norm(x, at)
    assert (scaled.norm(dim=2) - length).abs().max() < 1e-5
    mean = x.norm(dim=2).sum(-1) / mask.sum(1)[:, None]  # (B, S)
    torch.testing.assert_close(
        length.sum(-1) / mask.sum(1)[:, None], 2 * mean / (mean**2 + SOFT**2).sqrt(), rtol=1e-5, atol=1e-5
    )


def test_an_atom_attends_to_other_real_atoms():
    at = sites(torch.tensor([[True, True, True, False]]), torch.float32)
    shown = (at.hidden.view(4, 4) == 0).int()
    assert shown.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
