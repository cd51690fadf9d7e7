"""What holds for every denoiser of molecules (M1): symmetries, padding, given atoms, self-conditioning, reduced precision."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from molecule_networks import NETWORKS, distance, everything, guess, run, semla, state, steerable, times
from torch.func import functional_call

from multigen.diffusion import Diffusion
from multigen.interpolation import Never
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian, Masked, Uniform
from multigen.process.geometry import symmetric, zero_com
from multigen.state import MultigenError, pool, where
from multigen.testing import check_denoiser, learns_one_batch

EXACT = 1e-6
"""Double precision; e3nn keeps its coupling coefficients in single precision, whose errors are the only ones."""


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    return NETWORKS[request.param]().double().eval()


@pytest.fixture(params=["semla", "steerable"], scope="module")
def single(request):
    """In single precision."""
    return NETWORKS[request.param]()


def orthogonal(det):
    """A rotation (1) or a reflection after it (-1)."""
    torch.manual_seed(3)
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    return q * torch.linalg.det(q) * det


def moved(batch, turn, shift):
    coords = where(batch.mask["coords"], batch.clean["coords"] @ turn.T + shift, 0)
    return batch.replace(clean={**batch.clean, "coords": coords})


@pytest.mark.parametrize("det", [1, -1])
@pytest.mark.parametrize("fixed", [0, 2])
def test_the_prediction_turns_with_the_molecule(network, det, fixed):
    batch, turn, shift = state(fixed=fixed), orthogonal(det), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    prev = guess(batch)
    other = {**prev, "coords": prev["coords"] @ turn.T + 2 * shift}
    here, there = everything(run(network, batch, prev)), everything(run(network, moved(batch, turn, shift), other))
    given = batch.cond["fixed"].any(1)[:, None, None] if fixed else torch.zeros(len(batch), 1, 1, dtype=torch.bool)
    here["coords"] = where(batch.mask["coords"], here["coords"] @ turn.T + given * shift, 0)
    assert distance(here, there) < EXACT
    assert here["coords"].abs().max() > 0.1


def test_the_prediction_is_permuted_with_the_atoms(network):
    batch = state(fixed=2)
    prev, order = guess(batch), torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(i)) for i in range(4)])

    def permuted(x, pairs):
        rows = torch.stack([row[o] for row, o in zip(x, order, strict=True)])
        return torch.stack([row[:, o] for row, o in zip(rows, order, strict=True)]) if pairs else rows

    def all_of(tensors):
        return {k: permuted(x, k == "bonds") for k, x in tensors.items()}

    shuffled = batch.replace(clean=all_of(batch.clean), mask=all_of(batch.mask), cond=all_of(batch.cond))
    here, there = everything(run(network, batch, prev)), everything(run(network, shuffled, all_of(prev)))
    assert distance(all_of(here), there) < EXACT


def test_padding_changes_nothing(network):
    """Pooled taps included, by mean and by sum; whatever stands in padding, be it no number."""
    batch, padded = state(fixed=2), state(fixed=2, pad=5)
    nowhere = torch.full_like(padded.clean["coords"], torch.inf)
    padded = padded.replace(clean={**padded.clean, "coords": where(padded.mask["coords"], padded.clean["coords"], nowhere)})
    for name, x in batch.clean.items():  # the same molecules
        here = padded.clean[name][:, :7, :7] if name == "bonds" else padded.clean[name][:, :7]
        padded.clean[name][batch_slice(padded, name)] = where(batch.mask[name], x, here).flatten()
    prev = guess(batch)
    wide = {k: torch.full_like(x, 7.0) for k, x in guess(padded).items()}
    for name, x in prev.items():
        wide[name][batch_slice(wide, name)] = x.flatten()
    few, many = run(network, batch, prev), run(network, padded, wide)
    for name, x in few.pred.items():
        there = many.pred[name]
        assert (there[batch_slice(many.pred, name)].view_as(x) - x).abs().max() < EXACT, name
        assert (there[~padded.mask[name]] == 0).all(), name
    for name in network.tap_names:
        a, b = few.taps[name], many.taps[name]
        assert torch.equal(b.mask, padded.mask["atoms"]) and (b.value[~b.mask] == 0).all()
        assert (b.value.sum(1) - a.value.sum(1)).abs().max() < EXACT
        assert (pool(b).value - pool(a).value).abs().max() < EXACT


def batch_slice(holder, name):
    """Where the first seven atoms (and their pairs) lie."""
    x = holder.clean[name] if hasattr(holder, "clean") else holder[name]
    keep = torch.zeros(x.shape, dtype=torch.bool)
    keep[(slice(None), slice(7), slice(7)) if name == "bonds" else (slice(None), slice(7))] = True
    return keep


def test_centre_and_symmetry(network):
    batch = state()
    pred = run(network, batch, guess(batch)).pred
    assert pred["coords"].sum(1).abs().max() < 1e-9
    assert torch.equal(pred["bonds"], pred["bonds"].transpose(1, 2))
    assert pred["bonds"][0, 0, 1].abs().max() > 0 and (pred["bonds"].diagonal(dim1=1, dim2=2) == 0).all()


def test_given_atoms_hold_the_prediction_in_place(network):
    batch = state(fixed=2)
    given = batch.cond["fixed"]
    assert given.sum(1).tolist() == [2, 0, 0, 2]
    coords = run(network, batch).pred["coords"]
    error = where(given, coords - batch.clean["coords"], 0).sum(1)  # (B, 3)
    assert error.abs().max() < 1e-9
    assert coords[1:3].sum(1).abs().max() < 1e-9 < coords[0].sum(0).abs().max()
    free = batch.replace(cond={"fixed": torch.zeros_like(given)})
    assert distance(run(network, free).pred, run(network, batch.replace(cond={})).pred) == 0
    assert torch.equal(network.null(batch.cond)["fixed"], given)


@pytest.mark.parametrize("what", ["atoms", "bonds", "coords"])
def test_the_previous_prediction_is_read(network, what):
    batch = state()
    zero = {k: torch.zeros_like(x) for k, x in guess(batch).items()}
    one = run(network, batch, zero).pred
    other = run(network, batch, {**zero, what: guess(batch)[what]}).pred
    assert distance(one, other) > 1e-4
    same = {k: guess(batch)[k] for k in ("coords", "atoms", "bonds")}
    assert distance(run(network, batch, same).pred, run(network, batch, guess(batch)).pred) == 0  # charges are not


def test_masked_charges_say_nothing_and_decided_ones_do(network):
    batch = state(fixed=2)
    hidden = torch.full_like(batch.clean["charges"], 7)
    masked = batch.replace(clean={**batch.clean, "charges": where(batch.mask["charges"], hidden, 0)})
    assert distance(run(network, batch).pred, run(network, masked).pred) > 1e-4
    weights = {
        "embed_atoms.charges.weight": torch.zeros_like(network.embed_atoms.charges.weight)
    }  # as at the start of training

    def untrained(batch):
        return functional_call(network, weights, (batch.clean, times(batch), batch.cond, batch.mask)).pred

    assert distance(untrained(batch), untrained(masked)) == 0


@pytest.mark.parametrize("which", ["coords", "atoms"])
def test_times_are_read(network, which):
    batch = state()
    t = times(batch)
    one = network(batch.clean, t, {}, batch.mask).pred
    assert distance(one, network(batch.clean, {**t, which: t[which] / 2}, {}, batch.mask).pred) > 1e-4


def test_the_core_s_checks(network):
    check_denoiser(network, state(), network.tap_names)
    check_denoiser(network, state(fixed=1), network.tap_names[:1])


def test_a_component_is_missing(single):
    batch = state(dtype=torch.float32)
    del batch.clean["charges"]
    with pytest.raises(MultigenError, match="reads 'charges', which the state lacks; it has atoms, bonds, coords"):
        single(batch.clean, {k: torch.ones(4) for k in batch.mask}, {}, batch.mask)


def gradients(network, pred):
    return torch.autograd.grad(sum(x.float().square().sum() for x in pred.values()), list(network.parameters()))


def test_atoms_in_one_place_have_finite_gradients(single):
    batch = state(dtype=torch.float32)
    together = batch.replace(clean={**batch.clean, "coords": torch.zeros_like(batch.clean["coords"])})
    assert all(g.isfinite().all() for g in gradients(single, run(single, together).pred))


def test_bfloat16_leaves_the_geometry_exact(single):
    batch, network = state(dtype=torch.float32), single
    turn = orthogonal(-1).float()
    with torch.autocast("cpu", torch.bfloat16):
        here, there = run(network, batch), run(network, moved(batch, turn, torch.ones(3)))
    assert here.pred["coords"].dtype == torch.float32
    exact = run(network, batch)
    for name, x in exact.pred.items():
        scale = x.abs().max()
        assert (here.pred[name] - x).abs().max() < 0.1 * scale, name
    turned = here.pred["coords"] @ turn.T
    assert (turned - there.pred["coords"])[batch.mask["coords"]].abs().max() < 0.05 * turned.abs().max()
    assert all(g.isfinite().all() for g in gradients(network, here.pred))


@pytest.mark.parametrize("make", [semla, steerable], ids=["semla", "steerable"])
def test_one_batch_is_learnt(make):
    network, batch = make(), state(dtype=torch.float32)
    clean = {k: x.clamp(max={"atoms": 16, "bonds": 4, "charges": 0}.get(k, 9)) for k, x in batch.clean.items()}
    coords = zero_com(clean["coords"], batch.mask["coords"])
    processes = {
        "coords": Gaussian("clean", project=zero_com, jitter=0.1),
        "atoms": Uniform(17),
        "bonds": Uniform(5, project=symmetric),
        "charges": Masked(7, Never()),
    }
    diffusion = Diffusion(network, processes, Objective({"denoise": Denoising()}), self_conditioning=0.5)
    learns_one_batch(diffusion, batch.replace(clean={**clean, "coords": coords}), steps=25, lr=1e-2)


def test_copies_compute_the_same(single, tmp_path):
    """Deep copies (averages of weights), pickles (worker processes) and saved weights that are loaded without running code."""
    batch = state(dtype=torch.float32)
    expected = run(single, batch).pred
    torch.save(single.state_dict(), tmp_path / "weights.pt")
    twin, sent = copy.deepcopy(single), pickle.loads(pickle.dumps(single))
    for p in twin.parameters():
        torch.nn.init.ones_(p)
    assert distance(run(sent, batch).pred, expected) == 0 < distance(run(twin, batch).pred, expected)
    twin.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert distance(run(twin, batch).pred, expected) == 0
