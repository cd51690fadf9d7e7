"""Embeddings, blocks and projectors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from multigen.nn import ConvProjector, MLPProjector, ModulatedBlock, TimeEmbedding, sincos_1d, sincos_2d
from multigen.nn import blocks as nn_blocks
from multigen.nn.blocks import Attention, rotary, rotate
from multigen.state import MultigenError


def test_time_embedding_starts_from_cosines_and_sines_of_geometric_frequencies():
    embed = TimeEmbedding(8, frequencies=6, period=1000.0, scale=3.0)

    class Passing(nn.Module):
        weight = torch.zeros(1)

        def forward(self, x):
            return x

    embed.mlp = nn.Sequential(Passing())
    t = torch.tensor([0.0, 0.25, 1.0])
    angles = [[3 * x * 1000 ** (-i / 3) for i in range(3)] for x in t.tolist()]
    expected = torch.tensor([[math.cos(a) for a in row] + [math.sin(a) for a in row] for row in angles])
    assert torch.allclose(embed(t), expected, atol=1e-6)


def test_time_embedding_is_initialised_small_and_without_bias():
    torch.manual_seed(0)
    embed = TimeEmbedding(64)
    assert [p.shape for p in embed.parameters()] == [(64, 256), (64,), (64, 64), (64,)]
    assert embed.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert embed.mlp[0].bias.abs().max() == embed.mlp[2].bias.abs().max() == 0


def test_position_tables():
    one = sincos_1d(8, torch.arange(5))
    assert one.shape == (5, 8)
    for p, i in ((3, 0), (4, 2)):
        assert one[p, i].item() == pytest.approx(math.sin(p * 10_000 ** (-i / 4)), abs=1e-6)
        assert one[p, 4 + i].item() == pytest.approx(math.cos(p * 10_000 ** (-i / 4)), abs=1e-6)
    two = sincos_2d(16, 3, 4).reshape(3, 4, 16)  # rows, columns
    assert torch.equal(two[:, 2, :8], sincos_1d(8, torch.tensor([2, 2, 2]))) and torch.equal(
        two[1, :, 8:], sincos_1d(8, torch.ones(4))
    )
    assert len(two.reshape(12, 16).unique(dim=0)) == 12
    assert sincos_1d(8, torch.arange(3, device="meta")).device.type == "meta"  # tables lie where their positions do


def test_products_of_turned_vectors_tell_their_distance():
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turn = rotary(8, torch.arange(40))
    assert turn.shape == (2, 40, 4) and torch.equal(turn[0, :, 0], torch.arange(40.0).cos())
    turned = [rotate(x.expand(40, 8), turn.double()) for x in (q, k)]
    products = turned[0] @ turned[1].T  # (40, 40), of places i and j
    for distance in (-7, 0, 3):
        along = products.diagonal(distance)
        assert torch.allclose(along, along[:1], atol=1e-5)
    assert products[0, 0].item() == pytest.approx((q @ k).item()) and products[0].std() > 0.1
    assert torch.allclose(turned[0].norm(dim=-1), q.norm())


def test_turned_attention_depends_on_distances_alone():
    torch.manual_seed(0)
    attention, x = Attention(16, 2), torch.randn(1, 10, 16)
    near, far = (attention(x, turn=rotary(8, torch.arange(10) + start)) for start in (0, 100))
    assert torch.allclose(near, far, atol=1e-4) and not torch.allclose(near, attention(x), atol=1e-2)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_block_hands_its_attention_what_turns_it(recompute):
    torch.manual_seed(0)
    kept, block = ModulatedBlock(16, 2), ModulatedBlock(16, 2, recompute=recompute)
    block.load_state_dict(kept.state_dict())
    x, c, turn = torch.randn(2, 6, 16), torch.randn(2, 16), rotary(8, torch.arange(6))
    assert torch.equal(block(x, c, None, turn), kept(x, c, None, turn))
    assert not torch.allclose(block(x, c, None, turn), block(x, c), atol=1e-3)


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_that_of_torch(written_out, qk_norm, monkeypatch):
    """Both ways of computing it, with and without a mask, against torch's own module with the same weights."""
    monkeypatch.setattr(nn_blocks, "_written_out", lambda q: written_out)
    torch.manual_seed(0)
    width, heads = 12, 3
    ours, theirs = Attention(width, heads, qk_norm), nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, width)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    if qk_norm:
        assert not torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-4)
        return
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)
    assert torch.allclose(ours(x, mask), theirs(x, x, x, key_padding_mask=~mask)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tokens", "training", "written"),
    [
        (torch.bfloat16, 256, True, True),
        (torch.bfloat16, 257, True, False),
        (torch.bfloat16, 64, False, False),
        (torch.float32, 64, True, False),
        (torch.float32, 64, False, False),
    ],
)
def test_attention_is_written_out_where_the_fused_backward_pass_is_slow(dtype, tokens, training, written, monkeypatch):
    fused = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *given, **named: fused.append(1) or kernel(*given, **named))
    q = torch.randn(1, 2, tokens, 4, dtype=dtype, requires_grad=True)
    with torch.set_grad_enabled(training):
        assert nn_blocks.attend(q, q, q).shape == q.shape
    assert (not fused) == written


@pytest.mark.parametrize("written_out", [True, False])
def test_masked_tokens_are_not_seen(written_out, monkeypatch):
    monkeypatch.setattr(nn_blocks, "_written_out", lambda q: written_out)
    torch.manual_seed(0)
    block = ModulatedBlock(8, 2, qk_norm=True)
    x, c = torch.randn(2, 6, 8), torch.randn(2, 8)
    mask = torch.arange(6).expand(2, 6) < 4
    other = torch.where(mask[..., None], x, 50.0)
    assert torch.allclose(block(x, c, mask)[:, :4], block(other, c, mask)[:, :4], atol=1e-6)
    assert torch.allclose(block(x, c, mask)[:, :4], block(x[:, :4], c), atol=1e-6)


def test_a_block_is_the_identity_after_init_zero():
    torch.manual_seed(0)
    block = ModulatedBlock(8, 2)
    x, c = torch.randn(2, 6, 8), torch.randn(2, 8)
    assert not torch.allclose(block(x, c), x)
    block.init_zero()
    assert torch.equal(block(x, c), x)
    (block(x, c) ** 2).sum().backward()
    assert block.modulation[1].weight.grad.abs().max() > 0  # and it can leave that


@pytest.mark.parametrize("depth, linears", [(1, [(6, 4)]), (2, [(6, 9), (9, 4)]), (3, [(6, 9), (9, 9), (9, 4)])])
def test_projector_depth_and_width(depth, linears):
    """A3."""
    projector = MLPProjector(6, 4, hidden=9, depth=depth)
    layers = list(projector)
    assert [(m.in_features, m.out_features) for m in layers if isinstance(m, nn.Linear)] == linears
    assert [type(m) for m in layers] == [nn.Linear, nn.SiLU] * (depth - 1) + [nn.Linear]
    assert projector(torch.zeros(2, 7, 3, 6)).shape == (2, 7, 3, 4)


def test_published_projectors_have_the_published_sizes():
    """REED's heads of SiT-XL: 8.13 M parameters for 768-d patches, 13.90 M for 3584-d text."""
    count = [sum(p.numel() for p in MLPProjector(1152, z, 2048, 3).parameters()) for z in (768, 3584)]
    assert [round(n / 1e6, 2) for n in count] == [8.13, 13.90]


def test_conv_projector_is_a_convolution_over_the_token_grid():
    torch.manual_seed(0)
    projector = ConvProjector(5, 3, grid=(2, 4))
    image = torch.randn(2, 5, 2, 4)
    tokens = image.flatten(2).transpose(1, 2)
    expected = nn.functional.conv2d(image, projector.conv.weight, projector.conv.bias, padding=1)
    assert torch.allclose(projector(tokens), expected.flatten(2).transpose(1, 2), atol=1e-6)
    assert ConvProjector(5, 3)(torch.zeros(2, 9, 5)).shape == (2, 9, 3)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MLPProjector(4, 4, depth=0), "at least 1; got 0"),
        (lambda: ConvProjector(4, 4, kernel=2), "kernel must be odd"),
        (lambda: ConvProjector(4, 4)(torch.zeros(1, 8, 4)), "8 tokens do not fill a grid of 2 x 2"),
        (lambda: Attention(6, 2)(torch.zeros(1, 5, 6), turn=rotary(3, torch.arange(5))), "1 angles turn 2 features, got 3"),
        (lambda: rotate(torch.zeros(5, 8), rotary(2, torch.arange(5))), "1 angles turn 2 features, got 8"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()
