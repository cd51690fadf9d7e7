"""Similarities, pooling, gates and masks of the alignment term (T4, T5, A1, A2)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from multigen.alignment import SIMILARITIES, Alignment, Cutoff, NTXent, standardised
from multigen.denoiser import Output
from multigen.nn import MLPProjector
from multigen.objective import Context
from multigen.process import Masked
from multigen.random import Noise, keys
from multigen.state import Features

B, D, Z = 6, 8, 5
SITES = {"tokens": (7,), "pairs": (4, 3), "pooled": ()}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(*shape: int, share: float = 0.7, seed: int = 0) -> torch.Tensor:
    """A random mask whose first site of every example is real."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    mask.view(shape[0], -1)[:, 0] = True
    return mask


def context(hidden: Features, target: Features, t: torch.Tensor | None = None) -> Context:
    from multigen.state import Batch

    n = len(hidden.value)
    key = keys(0, range(n))
    batch = Batch({}, {}, {}, key, target={"z": target})
    times = {"x": torch.linspace(0.1, 0.9, n) if t is None else t}
    return Context(batch, {}, times, {}, Output({}, {"h": hidden}), Noise(key))


def align(hidden: Features, target: Features, t: torch.Tensor | None = None, **settings) -> torch.Tensor:
    settings.setdefault("projector", nn.Identity())
    return Alignment("h", "z", **settings)(context(hidden, target, t))[""]


def features(sites: tuple[int, ...], width: int = Z, seed: int = 0, share: float = 0.7) -> Features:
    return Features(randn(B, *sites, width, seed=seed), some(B, *sites, share=share))


# ------------------------------------------------------------------------------------------------------------- REPA


def test_one_constant_term_is_the_loss_of_repa():
    """T4, A1, from the formula: -mean over examples and tokens of <h / |h|, z / |z|>, h through a 3-linear SiLU projector."""
    torch.manual_seed(0)
    projector = MLPProjector(D, Z, hidden=16)
    h, z = randn(B, 7, D), randn(B, 7, Z, seed=1)
    ones = torch.ones(B, 7, dtype=torch.bool)
    first, _, second, _, third = projector
    y = F.silu(F.silu(h @ first.weight.T + first.bias) @ second.weight.T + second.bias) @ third.weight.T + third.bias
    y, x = y / y.norm(dim=-1, keepdim=True), z / z.norm(dim=-1, keepdim=True)
    expected = -(x * y).sum(-1).mean()
    loss = align(Features(h, ones), Features(z, ones), projector=projector)
    assert loss.shape == (B,)
    assert torch.allclose(loss.mean(), expected, atol=1e-6)


def test_text_head_pools_the_tokens_before_it_projects_them():
    torch.manual_seed(0)
    projector = MLPProjector(D, Z, hidden=16)
    h, z = features((7,), D), Features(randn(B, Z, seed=1), torch.ones(B, dtype=torch.bool))
    loss = align(h, z, projector=projector, pool=True)
    for i in range(B):
        pooled = projector(h.value[i][h.mask[i]].mean(0))
        assert torch.allclose(loss[i], -F.cosine_similarity(pooled, z.value[i], dim=0), atol=1e-6)


def test_a_target_with_sites_is_pooled_too():
    h, z = features((7,)), features((4, 3), seed=1)
    pooled = Features(torch.stack([v[m].mean(0) for v, m in zip(*z, strict=True)]), torch.ones(B, dtype=torch.bool))
    assert torch.allclose(align(h, z, pool=True), align(h, pooled, pool=True), atol=1e-6)


# ----------------------------------------------------------------------------------------------------- similarities


def test_cosine_is_minus_one_for_a_multiple_and_ignores_scale():
    z = features((7,), seed=1, share=1.0)
    assert torch.allclose(align(Features(3.7 * z.value, z.mask), z), torch.full((B,), -1.0))
    h = features((7,), share=1.0)
    for scale in (1e-3, 0.5, 1e6):
        assert torch.allclose(align(h, Features(scale * z.value, z.mask)), align(h, z), atol=1e-5)


def by_hand(name: str, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One example's loss over its real sites (S, D), in float64, from the formula."""
    p, z = pred.double(), target.double()
    if name == "cosine":
        return -((p * z).sum(-1) / (p.norm(dim=-1) * z.norm(dim=-1))).mean()
    if name == "l2":
        return ((p - z) ** 2).mean()
    if name == "smooth_l1":
        d = (p - z).abs()
        return torch.where(d < 1, d**2 / 2, d - 0.5).mean()
    p, z = p / p.norm(dim=-1, keepdim=True), z / z.norm(dim=-1, keepdim=True)
    return ((p @ p.T - z @ z.T) ** 2).mean()


@pytest.mark.parametrize("name", ["cosine", "l2", "smooth_l1", "relational"])
@pytest.mark.parametrize("sites", [SITES["tokens"], SITES["pairs"]])
def test_similarities_of_sites_against_their_formulas(name, sites):
    h, z = features(sites), features(sites, seed=1)
    loss = align(h, z, similarity=name)
    for i in range(B):
        assert loss[i].item() == pytest.approx(by_hand(name, h.value[i][h.mask[i]], z.value[i][z.mask[i]]).item(), abs=1e-5)


@pytest.mark.parametrize("name", ["cosine", "l2", "smooth_l1"])
def test_similarities_of_whole_examples(name):
    h, z = features((), share=1.0), features((), seed=1, share=1.0)
    loss = align(h, z, similarity=name)
    for i in range(B):
        assert loss[i].item() == pytest.approx(by_hand(name, h.value[i : i + 1], z.value[i : i + 1]).item(), abs=1e-5)


def test_relational_of_whole_examples_compares_them_with_one_another():
    h, z = features((), share=1.0), features((), width=3, seed=1, share=1.0)
    assert align(h, z, similarity="relational").mean().item() == pytest.approx(
        by_hand("relational", h.value, z.value).item(), abs=1e-5
    )


def test_relational_needs_no_equal_widths_and_ignores_rotations():
    z = features((7,), width=3, seed=1)
    rotation, _ = torch.linalg.qr(randn(D, D, seed=5))
    turned = Features(z.value @ rotation[:3], z.mask)  # (B, 7, D)
    assert align(turned, z, similarity="relational").abs().max() < 1e-10


def test_nt_xent_against_its_formula():
    h, z = features((), share=1.0), features((), seed=1, share=1.0)
    p, q = F.normalize(h.value, dim=-1), F.normalize(z.value, dim=-1)
    for temperature in (0.1, 0.5):
        loss = align(h, z, similarity=NTXent(temperature))
        for i in range(B):
            terms = [math.exp((p[i] @ q[j]).item() / temperature) for j in range(B)]
            assert loss[i].item() == pytest.approx(-math.log(terms[i] / sum(terms)), abs=1e-4)


def test_nt_xent_neither_scores_an_absent_example_nor_scores_against_it():
    h, z = features((), share=1.0), features((), seed=1, share=1.0)
    mask = torch.tensor([True, True, False, True, False, True])
    loss = align(h, Features(z.value, mask), similarity="nt_xent")
    left = align(Features(h.value[mask], mask[mask]), Features(z.value[mask], mask[mask]), torch.rand(4), similarity="nt_xent")
    assert torch.allclose(loss[mask], left, atol=1e-6) and (loss[~mask] == 0).all()


# ------------------------------------------------------------------------------------------------------------- gates

GATES = {
    "constant": lambda t: 1.0,
    "linear": lambda t: t,
    "cosine": lambda t: (1 + math.cos(math.pi * (1 - t))) / 2,
    "sigmoid": lambda t: 1 / (1 + math.exp(10 * ((1 - t) - 0.5))),
    "loglinear": lambda t: 1 - math.log(1 + (1 - t)),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates_multiply_example_by_example(gate):
    """T5. The formulas are REED's, with 1 - t for its time, which runs from the data to the noise."""
    h, z, t = features((7,)), features((7,), seed=1), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    weights = torch.tensor([GATES[gate](x) for x in t.tolist()])
    assert torch.allclose(align(h, z, t, gate=gate), weights * align(h, z, t), atol=1e-6)


def test_a_cut_off_window_and_a_callable_gate():
    h, z, t = features((7,)), features((7,), seed=1), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    plain = align(h, z, t)
    assert torch.equal(align(h, z, t, gate=Cutoff(0.3, 0.8)), plain * torch.tensor([0, 0, 1, 1, 1, 0]))
    assert torch.allclose(align(h, z, t, gate=lambda t: t**2), plain * t**2)


def test_the_gate_is_no_product_of_means_and_follows_permutations():
    """T5: the published code multiplies (B, 1, 1, 1) by (B,), whose mean is the product of the two means."""
    h, z, t = features((7,)), features((7,), seed=1), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    gated, plain = align(h, z, t, gate="linear"), align(h, z, t)
    assert abs(gated.mean() - plain.mean() * t.mean()) > 1e-3
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    mixed = align(Features(h.value[order], h.mask[order]), Features(z.value[order], z.mask[order]), t[order], gate="linear")
    assert torch.allclose(mixed, gated[order])


def test_the_gate_reads_the_time_of_its_component():
    h, z = features((7,)), features((7,), seed=1)
    ctx = context(h, z)
    ctx = replace(ctx, t={"x": torch.ones(B), "y": torch.full((B,), 0.25)})
    first = Alignment("h", "z", gate="linear")(ctx)[""]
    second = Alignment("h", "z", gate="linear", component="y")(ctx)[""]
    assert torch.allclose(second, 0.25 * first)


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("filling", [0.0, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("sites", ["tokens", "pairs"])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("similarity", list(SIMILARITIES))
@pytest.mark.parametrize("projector", [nn.Identity, lambda: MLPProjector(Z, Z, hidden=16)], ids=["plain", "projected"])
def test_padding_changes_neither_loss_nor_gradient(projector, similarity, pool, sites, filling):
    """A2: the same examples padded further, with anything in the padding of tap and target."""
    torch.manual_seed(0)
    first = projector()
    second = copy.deepcopy(first)
    h, z = features(SITES[sites]), features(SITES[sites], seed=1)
    value = h.value.clone().requires_grad_(True)
    small = align(Features(value, h.mask), z, projector=first, similarity=similarity, pool=pool)
    small.sum().backward()
    wide = [size + 2 for size in SITES[sites]]
    box = (slice(None), *(slice(size) for size in SITES[sites]))

    def pad(f: Features) -> Features:
        x, m = torch.full((B, *wide, Z), filling), torch.zeros(B, *wide, dtype=torch.bool)
        x[box], m[box] = torch.where(f.mask[..., None], f.value, filling), f.mask
        return Features(x, m)

    padded = pad(h)
    hidden = padded.value.requires_grad_(True)
    large = align(Features(hidden, padded.mask), pad(z), projector=second, similarity=similarity, pool=pool)
    large.sum().backward()
    assert torch.allclose(small, large, atol=1e-6)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    assert torch.allclose(hidden.grad[box][h.mask], value.grad[h.mask], atol=1e-6)
    assert (hidden.grad[~padded.mask] == 0).all()


@pytest.mark.parametrize("similarity", list(SIMILARITIES))
def test_an_example_without_a_target_costs_nothing(similarity):
    h, z = features((7,)), features((7,), seed=1)
    mask = z.mask.clone()
    mask[2] = False
    value = h.value.clone().requires_grad_(True)
    loss = align(Features(value, h.mask), Features(z.value, mask), similarity=similarity)
    loss.sum().backward()
    assert loss[2] == 0 and torch.isfinite(value.grad).all() and (value.grad[2] == 0).all()


def test_only_undecided_sites_are_aligned():
    h, z = features((7,), share=1.0), features((7,), seed=1, share=1.0)
    process = Masked(4)
    clean = Noise(keys(0, range(B))).integers(4, [7])
    free = some(B, 7, seed=3)
    t = torch.full((B,), 0.4)
    corrupted = process.corrupt(clean, t, free, Noise(keys(0, range(B))))
    ctx = replace(context(h, z, t), processes={"x": process}, corrupted={"x": corrupted})
    loss = Alignment("h", "z", component="x", only_undecided=True)(ctx)[""]
    assert torch.allclose(loss, align(h, Features(z.value, process.undecided(corrupted.noisy, free))))


# --------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("similarity", ["cosine", "nt_xent", "relational"])
def test_half_precision_features_are_compared_in_single(similarity):
    """Under autocast the projector runs in bfloat16, the cosine does not: its loss is that of the same numbers in float32."""
    torch.manual_seed(0)
    projector = MLPProjector(D, Z, hidden=16)
    h, z = features((7,), D), features((7,), seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = align(h, z, projector=projector, similarity=similarity)
        pred = projector(h.value)
    assert pred.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert torch.equal(loss, align(Features(pred.float(), h.mask), z, similarity=similarity))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_features_do_not_overflow(dtype):
    """300^2 summed over 768 features is past float16; a teacher with such features is an ordinary one."""
    ones = torch.ones(2, 300, dtype=torch.bool)
    h = torch.full((2, 300, 768), 300.0, dtype=dtype)
    for pool in (False, True):
        assert torch.allclose(align(Features(h, ones), Features(h, ones), pool=pool), torch.full((2,), -1.0), atol=1e-3)


@pytest.mark.parametrize("similarity", list(SIMILARITIES))
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e8])
def test_gradients_are_finite_for_vanishing_and_huge_features(similarity, scale):
    h = (scale * features((7,)).value).requires_grad_(True)
    ones = torch.ones(B, 7, dtype=torch.bool)
    for target in (randn(B, 7, Z, seed=1), torch.zeros(B, 7, Z)):
        h.grad = None
        align(Features(h, ones), Features(target, ones), similarity=similarity).sum().backward()
        assert torch.isfinite(h.grad).all()


# ---------------------------------------------------------------------------------------------------------- variants


def test_standardised_targets_have_mean_zero_and_deviation_one_over_real_sites():
    z = features((7,), seed=1)
    scaled = standardised(3 + 5 * z.value, z.mask)[z.mask]  # (S, Z)
    assert scaled.mean(0).abs().max() < 1e-5 and (scaled.std(0, correction=0) - 1).abs().max() < 1e-4
    h = features((7,))
    loss = align(h, Features(3 + 5 * z.value, z.mask), standardise=True)
    assert torch.allclose(loss, align(h, z, standardise=True), atol=1e-4)
    assert not torch.allclose(loss, align(h, Features(3 + 5 * z.value, z.mask)), atol=1e-2)


def test_noise_on_the_target_belongs_to_the_example_and_to_training():
    z = features((7,), seed=1, share=1.0)
    term = Alignment("h", "z", similarity="l2", target_noise=0.5)
    ctx = context(z, z)
    noisy = term(ctx)[""]
    assert noisy.mean() == pytest.approx(0.25, rel=0.3)
    assert torch.equal(term(ctx)[""], noisy)
    first = ctx.batch.map(lambda x: x[3:4])
    part = replace(
        ctx,
        batch=first,
        t={"x": ctx.t["x"][3:4]},
        output=Output({}, {"h": first.target["z"]}),
        noise=Noise(first.key),
    )
    assert torch.allclose(term(part)[""], noisy[3:4])
    assert term.eval()(ctx)[""].abs().max() == 0
