"""P2: the inverse-folding network: its size, its layers against plain formulas, taps, caching, null conditions, masks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from modalities.protein.alphabet import MASK
from modalities.protein.cone import Cone
from modalities.protein.denoiser import MPNN
from modalities.protein.example import Helices, contract
from modalities.protein.layers import DecoderLayer, Dropout, EdgeUpdate, EncoderLayer, Neighbourhood, of_pair
from modalities.protein.modality import Protein
from multigen.denoiser import is_timeless, prepared
from multigen.guidance import Guidance
from multigen.process import Masked
from multigen.random import Noise, keys
from multigen.sampling import Grid
from multigen.state import Batch, MultigenError
from multigen.testing import check_denoiser
from multigen.unmasking import Unmasking


def small(**settings) -> MPNN:
    torch.manual_seed(0)
    chosen = {"width": 16, "encoder_layers": 2, "decoder_layers": 2, **settings}
    net = MPNN(**chosen).eval()
    if net.start is not None:
        torch.nn.init.normal_(net.start)
    return net


def batch_of(count=3, k=6, noisy=0.5) -> Batch:
    """Helices of two chains, about half of their residues masked."""
    batch = Protein(neighbours=k).collate([Helices()[i] for i in range(count)], range(count))
    sequence = batch.clean["sequence"]
    hidden = Noise(keys(0, range(count))).uniform(sequence.shape[1:]) < noisy
    return batch.replace(clean={"sequence": torch.where(hidden, MASK, sequence)})


def run(net, batch, cond=None, taps=(), sequence=None):
    noisy = batch.clean if sequence is None else {"sequence": sequence}
    t = {"sequence": torch.full((len(batch),), 0.5)}
    return net(noisy, t, batch.cond if cond is None else cond, batch.mask, taps=taps)


def logits(*args, **options):
    return run(*args, **options).pred["sequence"]


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


# ----------------------------------------------------------------------------------------------------------- size and kind


def test_published_widths_have_the_published_number_of_parameters():
    net = MPNN()
    assert count(net) == 2_403_910
    assert count(net.edge_updates) == 743_040
    assert round(count(net) / 1e6, 3) == 2.404
    assert count(MPNN(update_edges=False, learnable_node=False)) == 2_403_910 - 743_040 - 128


@pytest.mark.parametrize("settings", [{}, {"update_edges": False}, {"learnable_node": False, "decoder_layers": 1}], ids=str)
def test_it_is_a_denoiser(settings):
    net = small(**settings)
    check_denoiser(net, batch_of(), net.tap_names)
    assert is_timeless(net)


def test_it_reads_no_time():
    net, batch = small(), batch_of()
    early, late = (
        net(batch.clean, {"sequence": torch.full((3,), t)}, batch.cond, batch.mask).pred["sequence"] for t in (0.01, 0.99)
    )
    assert torch.equal(early, late)


def test_taps():
    net, batch = small(), batch_of()
    assert net.tap_names == ["encoder", "decoder1", "decoder2", "edges1", "edges2"]
    taps = run(net, batch, taps=net.tap_names).taps
    length, found = batch.mask["sequence"].shape[1], batch.cond["neighbours"] >= 0
    assert taps["encoder"].value.shape == taps["decoder1"].value.shape == (3, length, 16)
    assert taps["edges2"].value.shape == (3, length, 6, 32)
    assert torch.equal(taps["edges1"].mask, found)
    assert torch.equal(taps["encoder"].mask, batch.cond["known"]) and torch.equal(taps["decoder2"].mask, batch.cond["known"])
    assert "edges1" not in small(update_edges=False).tap_names
    assert torch.allclose(net.W_out(taps["decoder2"].value), logits(net, batch))


def test_the_encoder_reads_no_sequence_and_the_decoder_does():
    net, batch = small(), batch_of()
    other = torch.where(batch.mask["sequence"], 3, 0)
    one, two = (run(net, batch, taps=["encoder", "decoder1"], sequence=s).taps for s in (None, other))
    assert torch.equal(one["encoder"].value, two["encoder"].value)
    assert not torch.allclose(one["decoder1"].value, two["decoder1"].value)


@pytest.mark.parametrize("tap", ["encoder", "decoder1", "edges1", "edges2"])
def test_gradients_pass_through_taps(tap):
    net, batch = small(), batch_of()
    value, mask = run(net, batch, taps=[tap]).taps[tap]
    value[mask].square().sum().backward()
    assert net.features.edge_embedding.weight.grad.abs().max() > 0 and net.start.grad.isfinite().all()
    reached = net.edge_updates[0].W_in.weight.grad is not None
    assert reached == (tap != "encoder")


def test_logits_are_invariant_to_rigid_motion():
    net, batch = small().double(), batch_of()
    q, _ = torch.linalg.qr(Noise(keys(3, [0])).normal([3, 3], torch.float64)[0])
    q = q * torch.linalg.det(q)
    backbone = batch.cond["backbone"].double()
    moved = torch.where(batch.cond["known"][..., None, None], backbone @ q.T + 5, 0)
    before, after = (logits(net, batch, {**batch.cond, "backbone": x}) for x in (backbone, moved))
    assert (before - after).abs().max() < 1e-10


def test_what_is_missing_is_never_read():
    net, batch = small(), batch_of()
    expected = logits(net, batch)
    missing = ~batch.cond["known"]
    broken = {**batch.cond, "backbone": batch.cond["backbone"].masked_fill(missing[..., None, None], torch.nan)}
    found = logits(net, batch, broken)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_predictions_do_not_depend_on_padding():
    net, small_batch, large = small().double(), batch_of(1), batch_of(3)
    length = small_batch.mask["sequence"].shape[1]
    alone = logits(net, small_batch, taps=[])[0]
    assert torch.allclose(alone, logits(net, large)[0, :length], atol=1e-10)


def test_prediction_of_a_residue_depends_on_those_near_it_and_on_itself():
    net, batch = small(decoder_layers=1, encoder_layers=1), batch_of(1, k=3)
    before = logits(net, batch)[0]
    changed = batch.clean["sequence"].clone()
    changed[0, 0] = (changed[0, 0] + 1) % 20
    moved = (logits(net, batch, sequence=changed)[0] - before).abs().amax(-1) > 1e-7
    readers = (batch.cond["neighbours"][0] == 0).any(-1)
    assert torch.equal(moved, readers) and moved[0] and not moved.all()


# --------------------------------------------------------------------------------------------------- conditions and noise


def test_a_prepared_backbone_gives_the_same_to_the_bit():
    net, batch = small(), batch_of()
    cond = prepared(net, batch.cond, batch.mask)
    assert cond["nodes"].shape == (*batch.mask["sequence"].shape, 16) and set(batch.cond) < set(cond)
    assert torch.equal(logits(net, batch, cond), logits(net, batch))
    assert torch.equal(logits(net, batch, net.null(cond)), logits(net, batch, net.null(batch.cond)))


@pytest.mark.parametrize("settings", [{}, {"update_edges": False}, {"decoder_layers": 3}, {"decoder_layers": 1}])
def test_residues_that_are_asked_about_alone_get_the_same_logits(settings):
    net, batch = small(**settings), batch_of(k=3)
    for cond in (batch.cond, net.prepare(batch.cond), net.null(batch.cond)):
        asked = Noise(keys(1, range(len(batch)))).uniform(batch.mask["sequence"].shape[1:]) < 0.1  # (B, L)
        found, whole = logits(net, batch, {**cond, "sequence.asked": asked}), logits(net, batch, cond)
        assert asked.any() and not asked.all()
        assert torch.allclose(found[asked], whole[asked], atol=1e-5, rtol=0) and (found[~asked] == 0).all()
    nothing = logits(net, batch, {**batch.cond, "sequence.asked": torch.zeros_like(asked)})
    assert nothing.shape == whole.shape and (nothing == 0).all()


def test_a_cone_is_what_is_read():
    near = torch.tensor([[[0, 1], [1, 2], [2, 3], [3, -1]], [[0, 3], [1, -1], [2, 1], [3, 2]]])  # (B, L, K)
    asked = torch.tensor([[True, False, False, False], [False, False, False, True]])  # (B, L)
    cone = Cone.of(asked, near, 2)
    assert cone.sites.tolist() == [0, 7, 1, 6, 2, 5]
    assert [layer.sites for layer in cone.layers] == [4, 2]
    held = cone.take(torch.arange(8).view(2, 4))  # (1, M)
    assert cone.layers[0].gather(held)[0].tolist() == [[0, 1], [7, 6], [1, 2], [6, 5]]
    back = cone.give(held[:, :2, None] + 1, like=asked)  # (B, L, 1)
    assert back.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 8]


class Whole(MPNN):
    """Answers for all residues at every call."""

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        return super().forward(noisy, t, {k: x for k, x in cond.items() if k != "sequence.asked"}, mask, prev, taps)


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
@pytest.mark.parametrize("guide", [None, Guidance(1.5)])
def test_designs_are_those_of_the_plain_loop(order, guide):
    net, batch = small(), batch_of(k=4)
    batch = batch.replace(free={"sequence": batch.free["sequence"] & (batch.clean["sequence"] == MASK)})
    processes = {"sequence": Masked(MASK)}
    found = Unmasking(Grid(60), order=order, guide=guide)(net, processes, batch)
    whole = Whole(width=16, encoder_layers=2, decoder_layers=2).eval()
    whole.load_state_dict(net.state_dict())
    expected = Unmasking(Grid(60), order=order, guide=guide)(whole, processes, batch)
    assert torch.equal(found["sequence"], expected["sequence"])
    assert torch.allclose(found["sequence.confidence"], expected["sequence.confidence"], atol=1e-5)


def test_null_leaves_a_model_of_the_chain():
    net, batch = small(), batch_of()
    null = net.null(batch.cond)
    assert not null["known"].any() and (null["backbone"] == 0).all()
    assert null["neighbours"].shape == batch.cond["neighbours"].shape
    assert torch.equal(net.null(null)["neighbours"], null["neighbours"])
    chain, found = batch.cond["chain"], null["neighbours"]
    rows = torch.arange(3)[:, None, None]
    assert (chain[rows, found.clamp(min=0)] == chain[..., None])[found >= 0].all()
    assert torch.equal(found[..., 0] >= 0, batch.cond["known"])
    # whatever the structure was
    other = {**batch.cond, "backbone": 3 * batch.cond["backbone"] + 1}
    assert torch.equal(logits(net, batch, net.null(other)), logits(net, batch, null))
    # neighbours along the chain are no pairs to align with targets of neighbours in space
    taps = run(net, batch, null, ["encoder", "edges1", "decoder1"]).taps
    assert not taps["encoder"].mask.any() and not taps["edges1"].mask.any() and taps["decoder1"].mask.any()


def test_coordinates_are_noisy_in_training_alone():
    net, batch = small(noise=0.1, dropout=0.0), batch_of()
    calm = logits(net, batch)
    assert torch.equal(calm, logits(net, batch))
    net.train()
    torch.manual_seed(0)
    first, second = logits(net, batch), logits(net, batch)
    assert not torch.allclose(first, second) and not torch.allclose(first, calm)
    net.noise = 0
    assert torch.equal(logits(net, batch), calm)


def test_it_runs_in_half_precision_under_autocast():
    net, batch = small(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        found = run(net, batch, taps=["edges2"])
    assert found.taps["edges2"].value.dtype == torch.bfloat16
    known, exact = batch.cond["known"], logits(net, batch)
    assert (found.pred["sequence"].float() - exact)[known].norm() < 0.05 * exact[known].norm()
    found.pred["sequence"].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_example_is_a_whole_contract():
    assert contract().denoiser.tap_names == ["encoder", "decoder1", "decoder2", "edges1", "edges2"]


# ------------------------------------------------------------------------------------------------------------------ layers


def tensors(residues=7, k=3, width=8, edges=8):
    noise = Noise(keys(5, range(2)))
    neighbours = noise.fold("n").integers(residues, [residues, k])
    neighbours[:, 2, 1:] = -1  # few neighbours
    neighbours[1, 5:] = -1  # none
    nodes = noise.fold("v").normal([residues, width], torch.float64)
    return nodes, noise.fold("e").normal([residues, k, edges], torch.float64), neighbours


def concatenated(nodes, edges, neighbours):
    """[h_i; e_ij; h_j], as it is written."""
    rows = torch.arange(len(nodes))[:, None, None]
    own = nodes[:, :, None].expand(*neighbours.shape, -1)
    return torch.cat([own, edges, nodes[rows, neighbours.clamp(min=0)]], -1)


def message(layer, x, real):
    hidden = functional.gelu(layer.W2(functional.gelu(layer.W1(x))))
    return (layer.W3(hidden) * real).sum(2) / layer.scale


def after_message(layer, nodes, change):
    nodes = layer.norm1(nodes + change)
    return layer.norm2(nodes + layer.dense.W_out(functional.gelu(layer.dense.W_in(nodes))))


@pytest.mark.parametrize("whole", [True, False])
def test_layers_are_the_published_formulas(whole):
    torch.manual_seed(0)
    nodes, edges, neighbours = tensors(edges=8)
    neighbours = neighbours.clamp(min=0) if whole else neighbours
    near, real = Neighbourhood(neighbours), (neighbours >= 0)[..., None].double()
    encoder, decoder = EncoderLayer(8).double().eval(), DecoderLayer(8, 8).double().eval()
    update = EdgeUpdate(8, 8).double().eval()
    x = concatenated(nodes, edges, neighbours)
    expected = after_message(decoder, nodes, message(decoder, x, real))
    assert torch.allclose(decoder(nodes, edges, near), expected, atol=1e-12)
    new, changed = encoder(nodes, edges, near)
    expected = after_message(encoder, nodes, message(encoder, x, real))
    assert torch.allclose(new, expected, atol=1e-12)
    y = encoder.W12(functional.gelu(encoder.W11(concatenated(new, edges, neighbours))))
    assert torch.allclose(changed, encoder.norm3(edges + encoder.W13(functional.gelu(y))), atol=1e-12)
    y = update.W_in(update.norm_in(x[..., 8:]))
    assert torch.allclose(update(nodes, edges, near), update.norm_out(edges + update.W_out(functional.gelu(y))), atol=1e-12)


def test_a_linear_map_of_what_stands_side_by_side():
    nodes, edges, neighbours = tensors(edges=5)
    layer = torch.nn.Linear(21, 4).double()
    expected = layer(concatenated(nodes, edges, neighbours))
    found = of_pair(layer, nodes, edges, Neighbourhood(neighbours))
    assert torch.allclose(found, expected, atol=1e-12)
    one, two = (torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (found, expected))
    assert all(torch.allclose(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_dropout_keeps_the_mean(chance):
    torch.manual_seed(0)
    layer, x, change = Dropout(chance), torch.full((400, 251), 3.0), torch.ones(400, 251).requires_grad_()
    found = layer(x, change) - 3
    kept = found != 0
    assert abs(kept.float().mean() - (1 - chance)) < 0.005
    assert torch.allclose(found[kept], torch.tensor(1 / (1 - chance)))
    grad = torch.autograd.grad(found.sum(), change)[0]
    assert torch.equal(grad != 0, kept)
    columns = kept.float().mean(0)
    assert columns.std() < 1.3 * (chance * (1 - chance) / 400) ** 0.5  # no entry is favoured
    assert torch.equal(layer.eval()(x, change), x + change)


# ------------------------------------------------------------------------------------------------------------ start, errors


def test_it_starts_from_the_encoder_of_a_file(tmp_path):
    teacher, path = small(learnable_node=False), tmp_path / "encoder.safetensors"
    save_file({k: torch.randn_like(p) for k, p in teacher.state_dict().items()}, path)
    torch.manual_seed(1)
    net = MPNN(width=16, encoder_layers=2, decoder_layers=1, start=str(path))
    teacher = MPNN(width=16, encoder_layers=2, decoder_layers=1, start=str(path), learnable_node=False)
    batch = batch_of()
    for a, b in zip(net.eval().encode(batch.cond), teacher.eval().encode(batch.cond), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(net.W_out.weight, teacher.W_out.weight)


def test_a_start_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file(small().state_dict(), path)
    with pytest.raises(MultigenError, match=r"does not fit: the network has .* \(24,.*, the file of shape \(16,"):
        MPNN(width=24, start=str(path))
    with pytest.raises(MultigenError, match=r"has encoder_layers.2.\S* \(16.*, the file nowhere"):
        MPNN(width=16, encoder_layers=3, start=str(path))
    path.write_bytes(b"PK no weights")
    with pytest.raises(MultigenError, match=r"cannot read the weights .*encoder.safetensors"):
        MPNN(width=16, start=str(path))


def test_an_unprepared_variant_names_the_command(data_root):
    with pytest.raises(MultigenError, match=r"ProteinMPNN v_48_020 are not prepared .*run `multigen prepare"):
        MPNN(start="v_48_020")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MPNN(width=0), "width is at least 1, got 0"),
        (lambda: MPNN(decoder_layers=0), "decoder_layers is at least 1"),
        (lambda: MPNN(dropout=1.0), "dropout is a probability below 1, got 1.0"),
        (lambda: MPNN(noise=-1), "noise is a standard deviation in Angstrom, at least 0, got -1"),
        (lambda: MPNN(scale=0), "scale divides a sum of messages and is above 0, got 0"),
        (lambda: run(small(), batch_of(), taps=["edges3"]), "no tap 'edges3'"),
        (lambda: run(small(), batch_of(), {}), "reads 'backbone', which the batch lacks"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()
