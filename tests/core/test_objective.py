"""Terms and weights: what is added up, what is logged, and where gradients go."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from multigen.alignment import Alignment
from multigen.curriculum import Ramp
from multigen.denoiser import Output
from multigen.interpolation import Interpolation, Linear, Trigonometric
from multigen.nn import MLPProjector
from multigen.objective import Context, Denoising, Objective, Recall
from multigen.process import Gaussian, Masked
from multigen.random import Noise, keys
from multigen.state import Batch, Features, MultigenError

B, T, D, Z = 5, 4, 6, 3


def context(n: int = B) -> Context:
    """Two components, one tap with a gradient, two targets."""
    noise = Noise(keys(0, range(n)))
    ones, sites = torch.ones(n, dtype=torch.bool), torch.ones(n, T, dtype=torch.bool)
    clean = {k: noise.fold(k).normal([2]) for k in "ab"}
    target = {"tokens": Features(noise.fold("z").normal([T, Z]), sites), "whole": Features(noise.fold("y").normal([Z]), ones)}
    batch = Batch(clean, dict.fromkeys("ab", ones), dict.fromkeys("ab", ones), noise.key, target=target)
    t = dict.fromkeys("ab", noise.fold("t").uniform())
    processes = {"a": Gaussian(), "b": Gaussian("clean")}
    corrupted = {k: p.corrupt(clean[k], t[k], ones, noise.fold(k)) for k, p in processes.items()}
    pred = {k: noise.fold("pred").fold(k).normal([2]).requires_grad_(True) for k in "ab"}
    hidden = noise.fold("hidden").normal([T, D]).requires_grad_(True)
    return Context(batch, processes, t, corrupted, Output(pred, {"block2": Features(hidden, sites)}), noise)


def alignment(target: str = "tokens", **settings) -> Alignment:
    torch.manual_seed(0)
    return Alignment("block2", target, MLPProjector(D, Z, hidden=8), pool=target == "whole", **settings)


def test_denoising_sums_the_components_by_their_shares():
    ctx = context()
    losses = Objective({"denoise": Denoising({"b": 0.25})})(ctx, 0)
    own = {k: ctx.processes[k].loss(ctx.output.pred[k], ctx.corrupted[k], ctx.t[k]).mean() for k in "ab"}
    assert torch.allclose(losses.total, own["a"] + 0.25 * own["b"])
    assert set(losses.parts) == {"denoise", "denoise/a", "denoise/b"}
    assert losses.parts["denoise"] == losses.total and not losses.parts["denoise"].requires_grad


def test_total_is_the_weighted_sum_and_parts_are_unweighted():
    ctx = context()
    terms = {"denoise": Denoising(), "tokens": alignment(), "whole": alignment("whole")}
    alone = {name: Objective({name: term})(ctx, 0).total.item() for name, term in terms.items()}
    losses = Objective(terms, {"denoise": Ramp(warmup=10), "tokens": 0.5})(ctx, 4)
    assert losses.total.item() == pytest.approx(0.4 * alone["denoise"] + 0.5 * alone["tokens"] + alone["whole"])
    assert losses.parts["tokens"].item() == pytest.approx(alone["tokens"])
    assert losses.parts["whole"].item() == pytest.approx(alone["whole"])
    assert not any(part.requires_grad for part in losses.parts.values())
    assert losses.total.dtype == torch.float32 and losses.total.shape == ()


def test_the_order_of_the_terms_does_not_matter():
    """T4."""
    ctx = context()
    terms = {"denoise": Denoising(), "tokens": alignment(), "whole": alignment("whole")}
    weights = {"denoise": 0.3, "tokens": 0.5, "whole": 0.25}
    forwards = Objective(terms, weights)(ctx, 7)
    backwards = Objective(dict(reversed(terms.items())), weights)(ctx, 7)
    assert torch.allclose(forwards.total, backwards.total)
    assert {k: v.item() for k, v in forwards.parts.items()} == {k: v.item() for k, v in backwards.parts.items()}


def gradients(weight) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    ctx, term = context(), alignment()
    objective = Objective({"denoise": Denoising(), "tokens": term}, {"tokens": weight})
    losses = objective(ctx, 0)
    (losses.total + losses.probe).backward()
    return ctx.output.taps["block2"].value.grad, [p.grad for p in term.parameters()]


@pytest.mark.parametrize("weight", [0, 0.0, Ramp(warmup=100), Ramp(start=5)], ids=repr)
def test_weight_zero_trains_the_projector_and_nothing_else(weight):
    """C4: exactly no gradient on the backbone, a full one on the projector."""
    hidden, projector = gradients(weight)
    assert hidden is None
    assert all(g is not None and g.abs().max() > 0 for g in projector)
    _, full = gradients(1.0)
    assert all(torch.equal(a, b) for a, b in zip(projector, full, strict=True))


def test_a_term_that_probes_is_no_part_of_the_total():
    """So neither the logged loss nor the held-out one jumps when an alignment has faded out."""
    terms = {"denoise": Denoising(), "tokens": alignment()}
    fading = Objective(terms, {"tokens": Ramp(fall="linear", horizon=10)})
    alone = Objective({"denoise": Denoising()})(context(), 0)
    losses = fading(context(), 10)
    assert torch.equal(losses.total, alone.total) and alone.probe == 0
    assert losses.probe == losses.parts["tokens"] != 0
    before = fading(context(), 9)
    assert before.probe == 0 and before.total.item() == pytest.approx(alone.total.item() + 0.1 * before.parts["tokens"].item())


def test_weight_zero_cuts_predictions_too():
    """A term with parameters may score what the network predicts, not only what it holds in between."""

    class Scored(nn.Linear):
        taps: frozenset[str] = frozenset()

        def forward(self, ctx):
            return {"": super().forward(ctx.output.pred["a"])[:, 0]}

    ctx = context()
    losses = Objective({"scored": Scored(2, 1)}, {"scored": 0.0})(ctx, 0)
    losses.probe.backward()
    assert ctx.output.pred["a"].grad is None


def test_a_positive_weight_scales_the_gradient_of_the_backbone():
    half, _ = gradients(0.5)
    full, _ = gradients(1.0)
    assert half.abs().max() > 0 and torch.allclose(2 * half, full)


def test_weight_zero_keeps_a_term_without_parameters_in_the_graph():
    """So the set of parameters that receive gradients, and a data-parallel wrapper's buckets, never change."""
    ctx = context()
    losses = Objective({"denoise": Denoising(), "tokens": alignment()}, {"denoise": 0.0})(ctx, 0)
    losses.total.backward()
    assert all(ctx.output.pred[k].grad.abs().max() == 0 for k in "ab")
    assert losses.parts["denoise/a"] > 0


def test_projectors_belong_to_the_objective():
    objective = Objective({"denoise": Denoising(), "tokens": alignment()})
    assert objective.taps == {"block2"}
    assert isinstance(objective, nn.Module)
    assert sum(p.numel() for p in objective.parameters()) == sum(p.numel() for p in MLPProjector(D, Z, 8).parameters())


def test_the_mean_is_over_examples_so_a_batch_may_be_split():
    terms = {"denoise": Denoising(), "tokens": alignment(), "whole": alignment("whole", gate="linear")}
    objective, whole = Objective(terms), context(6)

    def rows(i: slice) -> Context:
        batch = whole.batch.map(lambda x: x[i])
        taps = {k: Features(f.value[i], f.mask[i]) for k, f in whole.output.taps.items()}
        output = Output({k: v[i] for k, v in whole.output.pred.items()}, taps)
        corrupted = {k: type(c)(*(x[i] for x in c)) for k, c in whole.corrupted.items()}
        return Context(batch, whole.processes, {k: v[i] for k, v in whole.t.items()}, corrupted, output, whole.noise)

    halves = [objective(rows(slice(0, 3)), 0), objective(rows(slice(3, 6)), 0)]
    assert torch.allclose((halves[0].total + halves[1].total) / 2, objective(whole, 0).total)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda ctx: Objective({"denoise": Denoising()}, {"x": 1.0}), r"unknown terms \['x'\]; terms are \['denoise'\]"),
        (lambda ctx: Objective({"a.b": Denoising(), "keys": Denoising()}), "terms cannot be called 'a.b', 'keys'"),
        (lambda ctx: Denoising({"c": 1.0})(ctx), r"unknown components \['c'\]; components are \['a', 'b'\]"),
        (lambda ctx: Denoising()(with_pred(ctx, "a")), r"no component \['b'\]; it predicts \['a'\]"),
        (lambda ctx: Alignment("block2", "dino")(ctx), r"lacks target 'dino'; it has \['tokens', 'whole'\]"),
        (lambda ctx: Alignment("block9", "tokens")(ctx), r"no tap 'block9'; it returned \['block2'\]"),
        (lambda ctx: Alignment("block2", "tokens")(ctx), r"projects to shape \(5, 4, 6\), target 'tokens' has \(5, 4, 3\)"),
        (lambda ctx: Alignment("block2", "whole")(ctx), "needs pool=true"),
        (
            lambda ctx: Alignment("block2", "tokens", nn.Linear(D, Z), component="c")(ctx),
            r"component 'c'; components are \['a', 'b'\]",
        ),
        (lambda ctx: Alignment("block2", "tokens", component="a", only_undecided=True)(ctx), "'a' is not categorical"),
        (lambda ctx: Alignment("block2", "tokens", only_undecided=True), "only_undecided needs a component"),
        (lambda ctx: Alignment("block2", "tokens", similarity="dot"), "similarity 'dot'; choices are cosine, l2"),
        (lambda ctx: Alignment("block2", "tokens", gate="square"), "time gate 'square'; choices are constant, linear"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make(context())


def with_pred(ctx: Context, *names: str) -> Context:
    output = ctx.output._replace(pred={k: ctx.output.pred[k] for k in names})
    return Context(ctx.batch, ctx.processes, ctx.t, ctx.corrupted, output, ctx.noise)


def masked_context(pred: torch.Tensor, t: torch.Tensor, path: Interpolation = Linear()) -> Context:
    key = keys(0, range(len(t)))
    free = torch.ones(pred.shape[:2], dtype=torch.bool)  # (B, L)
    clean = {"x": Noise(key).integers(3, pred.shape[1:2])}  # (B, L)
    batch, process = Batch(clean, {"x": free}, {"x": free}, key), Masked(3, path)
    corrupted = {"x": process.corrupt(clean["x"], t, free, Noise(key))}
    return Context(batch, {"x": process}, {"x": t}, corrupted, Output({"x": pred}, {}), Noise(key))


def test_recall_is_unbiased_and_free_of_smoothing():
    """A prediction that knows nothing has -log p = log K at every time, and accuracy 1 / K, however many sites are masked."""
    times = torch.linspace(0.01, 0.99, 4000)  # (B,)
    parts = Recall("x")(masked_context(torch.zeros(4000, 8, 3), times))
    assert parts["nll"].mean().item() == pytest.approx(math.log(3), rel=0.03)
    assert parts["accuracy"].mean().item() == pytest.approx(1 / 3, rel=0.1)
    ctx = masked_context(torch.zeros(4000, 8, 3), times)
    perfect = nn.functional.one_hot(ctx.batch.clean["x"], 3) * 50.0
    sure = Recall("x")(masked_context(perfect, times))
    assert sure["nll"].max() < 1e-4 and sure["accuracy"].mean().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])
def test_recall_does_not_depend_on_the_path(path):
    """It counts all numbers of masked sites alike, also for a prediction that is right where few are masked."""
    times = (torch.arange(8000) + 0.5) / 8000  # (B,)
    ctx = masked_context(torch.zeros(8000, 20, 3), times, path)
    few = (ctx.corrupted["x"].noisy == 3).float().mean(1) <= 0.5  # (B,)
    knowing = nn.functional.one_hot(ctx.batch.clean["x"], 3) * 50.0 * few[:, None, None]
    parts = Recall("x")(masked_context(knowing, times, path))
    assert parts["nll"].mean().item() == pytest.approx(math.log(3) / 2, rel=0.06)
    assert parts["accuracy"].mean().item() == pytest.approx(1 / 2 + 1 / 6, rel=0.06)


def test_recall_weighs_nothing_and_wants_a_masked_component():
    ctx = masked_context(torch.randn(5, 8, 3, requires_grad=True), torch.full((5,), 0.4))
    losses = Objective({"denoise": Denoising(), "recall": Recall("x")}, {"recall": 0.0})(ctx, 0)
    assert torch.equal(losses.total, Objective({"denoise": Denoising()})(ctx, 0).total)
    assert set(losses.parts) == {"denoise/x", "recall/nll", "recall/accuracy"}
    with pytest.raises(MultigenError, match=r"Recall needs a masked component, not 'a'; masked are \[\]"):
        Recall("a")(context())
