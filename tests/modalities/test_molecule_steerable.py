"""The steerable network: its irreps, its messages, its cutoff."""

from __future__ import annotations

import ast
import inspect

import pytest
import torch
from molecule_networks import distance, run, state, steerable

from modalities.molecule import irreps
from modalities.molecule import steerable as module
from modalities.molecule.irreps import EquivariantNorm, paths_of, read_irreps
from modalities.molecule.steerable import envelope
from multigen.state import MultigenError

IRREPS = "4x0e + 2x0o + 3x1o + 2x1e + 2x2e"


def turned(kinds, x, det=-1):
    """Features under a rotation, or under one followed by the inversion."""
    from e3nn import o3

    torch.manual_seed(1)
    turn = o3.rand_matrix(dtype=torch.float64) * det
    return x @ o3.Irreps(kinds).D_from_matrix(turn).to(x).T, turn


@pytest.mark.parametrize("det", [1, -1])
def test_the_norm_turns_with_its_input(det):
    norm, x = EquivariantNorm(irreps.e3nn("o3").Irreps(IRREPS)).double(), torch.randn(5, 31, dtype=torch.float64)
    torch.nn.init.normal_(norm.scale)
    there, here = norm(turned(IRREPS, x, det)[0]), turned(IRREPS, norm(x), det)[0]
    assert (there - here).abs().max() < 1e-6


def test_the_norm_normalises():
    norm, x = EquivariantNorm(read_irreps(8, "6x1o")), 5 * torch.randn(3, 26) + 2
    y = norm(x)
    assert y[:, :8].mean(1).abs().max() < 1e-5
    assert (y[:, 8:].square().mean(1) - 1).abs().max() < 1e-3


def test_messages_use_every_product_that_nodes_can_hold():
    held = read_irreps(4, "3x1o + 2x2e")
    harmonics = irreps.e3nn("o3").Irreps.spherical_harmonics(2)
    kept, paths = paths_of(held, harmonics)
    # 0e: 00, 11, 22; 1o: 01, 10, 12, 21; 2e: 02, 11, 20, 22 (degrees of feature and direction); not 1e, 2o, 3, 4
    assert len(paths) == 11 and {str(ir) for _, ir in kept} == {"0e", "1o", "2e"}
    assert all(kept[k].mul == held[i].mul for i, _, k, _, _ in paths)


def test_parity_is_kept():
    """Without pseudo-tensors, a mirror image has the mirrored prediction; a cross product would show."""
    kept, _ = paths_of(read_irreps(4, "3x1o"), irreps.e3nn("o3").Irreps("0e + 1o"))
    assert "1e" not in kept


def test_taps_are_scalars_after_each_layer():
    network, batch = steerable(), state(dtype=torch.float32)
    taps = run(network, batch).taps
    assert [f.value.shape for f in taps.values()] == [(4, 7, 12)] * 2
    assert network.tap_names == ["layer1", "layer2"]


def test_nothing_jumps_where_a_pair_leaves_the_cutoff():
    network, batch = steerable(cutoff=2.0).double().eval(), state(sizes=(2, 2))

    def at(gap):
        coords = torch.zeros(2, 2, 3, dtype=torch.float64)
        coords[:, 1, 0] = gap
        return network(batch.clean | {"coords": coords}, {k: torch.ones(2) for k in batch.mask}, {}, batch.mask).pred

    assert distance(at(2.0 - 1e-5), at(2.0 + 1e-5)) < 1e-3 < distance(at(1.5), at(2.0))
    assert envelope(torch.tensor([0.0, 1.0, 3.0])).tolist() == [1, 0, 0]


def test_no_pairs_at_all():
    pred = run(steerable(cutoff=1e-3), state(dtype=torch.float32)).pred
    assert all(x.isfinite().all() for x in pred.values())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"higher": "sixty vectors"}, "'sixty vectors' are no irreps; an example is '32x1o"),
        ({"higher": "4x1e"}, "has vectors 1o, as in"),
        ({"higher": ""}, "has vectors 1o, as in"),
        ({"width": 0}, "width"),
        ({"cutoff": 0.0}, "cutoff is a distance above 0"),
        ({"degree": -1}, "degree is at least 0"),
        ({"layers": 0}, "layers is at least 1"),
    ],
    ids=str,
)
def test_refused(settings, message):
    with pytest.raises(MultigenError, match=message):
        steerable(**settings)


def test_e3nn_is_imported_where_it_is_used(monkeypatch):
    found = [node for m in (module, irreps) for node in ast.walk(ast.parse(inspect.getsource(m)))]
    assert "e3nn" not in {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    monkeypatch.setitem(__import__("sys").modules, "e3nn.o3", None)
    with pytest.raises(MultigenError, match=r"needs the package e3nn .*pip install 'multigen\[molecule\]'"):
        steerable()


def test_pairs_are_taken_in_parts(monkeypatch):
    network, batch = steerable().eval(), state(dtype=torch.float32)
    whole = run(network, batch).pred
    monkeypatch.setattr(module, "PART", 5)
    assert distance(run(network, batch).pred, whole) < 1e-5
