"""Gaussian and categorical corruption, its losses, and what a prediction implies."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from oracles import correlated
from scipy import stats

from multigen.interpolation import Linear, Never, Shifted, Trigonometric
from multigen.process import P2, Corrupted, Discrete, Gaussian, Masked, MinSNR, SigmoidSNR, Uniform, symmetric, zero_com
from multigen.random import Noise, keys
from multigen.state import MultigenError, expand, masked_mean

QUANTITIES = ["velocity", "clean", "noise"]
PATHS = [Linear(), Trigonometric(), Shifted(2.0)]
PAIRS = list(itertools.product(QUANTITIES, PATHS))


def noise_of(n: int, stream: str = "process") -> Noise:
    return Noise(keys(0, range(n), stream))


def points(n: int = 6, sites: int = 5, width: int = 3) -> torch.Tensor:
    return noise_of(n, "data").normal([sites, width]).double()  # (B, N, D)


def everywhere(x: torch.Tensor, sites: int = 1) -> torch.Tensor:
    return torch.ones(x.shape[: 1 + sites], dtype=torch.bool)


# --------------------------------------------------------------------------------------------------------- Gaussian


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_corruption_mixes_data_and_noise(path):
    clean, t = points(), torch.tensor([0.0, 0.2, 0.5, 0.7, 0.95, 1.0], dtype=torch.float64)
    corrupted = Gaussian(path=path).corrupt(clean, t, everywhere(clean), noise_of(6))
    c = path(t)
    for i in range(6):
        assert torch.allclose(corrupted.noisy[i], c.alpha[i] * clean[i] + c.sigma[i] * corrupted.noise[i])
    assert torch.allclose(corrupted.noisy[0], corrupted.noise[0]) and torch.allclose(corrupted.noisy[5], clean[5])


@pytest.mark.parametrize("predict, path", PAIRS)
def test_a_perfect_prediction_gives_back_data_noise_velocity_and_score(predict, path):
    process, clean = Gaussian(predict, path), points()
    t = torch.tensor([0.03, 0.2, 0.5, 0.7, 0.95, 0.99], dtype=torch.float64)
    corrupted = process.corrupt(clean, t, everywhere(clean), noise_of(6))
    target = process.target(corrupted, t)
    split = process.split(target, corrupted.noisy, t)
    assert torch.allclose(split.clean, clean) and torch.allclose(split.noise, corrupted.noise)
    c = path(t)
    velocity = expand(c.d_alpha, clean) * clean + expand(c.d_sigma, clean) * corrupted.noise
    assert torch.allclose(process.velocity(target, corrupted.noisy, t), velocity)
    assert torch.allclose(process.score(target, corrupted.noisy, t), -corrupted.noise / expand(c.sigma, clean))
    assert process.loss(target, corrupted, t).abs().max() == 0


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_is_the_time_derivative_of_the_path(path):
    process, clean, t, h = Gaussian(path=path), points(), torch.full((6,), 0.4).double(), 1e-6
    at = [process.corrupt(clean, t + d, everywhere(clean), noise_of(6)).noisy for d in (-h, h)]
    target = process.target(process.corrupt(clean, t, everywhere(clean), noise_of(6)), t)
    assert torch.allclose((at[1] - at[0]) / (2 * h), target, atol=1e-6)


@pytest.mark.parametrize("predict, path", PAIRS)
@pytest.mark.parametrize("on", QUANTITIES)
def test_the_loss_on_another_quantity_is_its_own_squared_error(predict, path, on):
    """Computed directly: what the prediction implies for that quantity against its true value, at every t."""
    clean = points(8)
    t = torch.tensor([0.06, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 0.94], dtype=torch.float64)
    process = Gaussian(predict, path, loss_on=on, floor=1e-3)
    corrupted = process.corrupt(clean, t, everywhere(clean), noise_of(8))
    pred = process.target(corrupted, t) + 0.3 * noise_of(8, "error").normal([5, 3]).double()
    split = process.split(pred, corrupted.noisy, t)
    implied = {"clean": split.clean, "noise": split.noise, "velocity": process.velocity(pred, corrupted.noisy, t)}[on]
    true = Gaussian(on, path).target(corrupted, t)
    assert torch.allclose(process.loss(pred, corrupted, t), ((implied - true) ** 2).mean((1, 2)), rtol=1e-5)


def test_the_loss_weight_is_bounded_by_the_floor_and_exact_without_division():
    ends = torch.tensor([0.0, 1e-4, 1 - 1e-4, 1.0], dtype=torch.float64)
    assert torch.allclose(
        Gaussian("clean", loss_on="velocity", floor=0.1).loss_weight(ends)[2:], torch.full((2,), 100.0).double()
    )
    assert torch.allclose(Gaussian("noise", loss_on="clean", floor=0.1).loss_weight(ends)[:1], torch.tensor([100.0]).double())
    # the noise implied by a velocity needs no division, so nothing is cut: noise = alpha v - alpha' noisy
    assert torch.allclose(Gaussian("velocity", loss_on="noise").loss_weight(ends), ends**2)
    assert torch.allclose(Gaussian("velocity", loss_on="clean").loss_weight(ends), (1 - ends) ** 2)


@pytest.mark.parametrize("predict, path", PAIRS)
@pytest.mark.parametrize(
    "weight, formula",
    [
        (MinSNR(5.0), lambda snr: snr.clamp(max=5) / snr),
        (P2(0.7, 2.0), lambda snr: 1 / (2 + snr) ** 0.7),
        (SigmoidSNR(-1.0), lambda snr: 1 / (1 + torch.exp(1 + torch.log(snr)))),
    ],
    ids=["min-snr", "p2", "sigmoid"],
)
def test_weights_multiply_the_error_of_the_noise(predict, path, weight, formula):
    clean, t = points(5), torch.tensor([0.1, 0.3, 0.5, 0.8, 0.93], dtype=torch.float64)
    process = Gaussian(predict, path, weight=weight, floor=1e-3)
    corrupted = process.corrupt(clean, t, everywhere(clean), noise_of(5))
    pred = process.target(corrupted, t) + 0.3
    error = ((process.split(pred, corrupted.noisy, t).noise - corrupted.noise) ** 2).mean((1, 2))
    c = path(t)
    assert torch.allclose(process.loss(pred, corrupted, t), formula((c.alpha / c.sigma) ** 2) * error, rtol=1e-5)


def test_weights_are_finite_at_the_ends():
    for weight in (MinSNR(), P2(), SigmoidSNR()):
        for predict, path in PAIRS:
            w = Gaussian(predict, path, weight=weight).loss_weight(torch.tensor([0.0, 1e-7, 0.5, 1 - 1e-7, 1.0]))
            assert torch.isfinite(w).all() and (w >= 0).all()


def test_frozen_sites_keep_their_value_and_are_not_scored():
    clean, t = points(), torch.full((6,), 0.3)
    free = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    free[0] = False
    process = Gaussian("clean")
    corrupted = process.corrupt(clean, t, free, noise_of(6))
    assert torch.equal(corrupted.noisy[~free], clean[~free])
    assert not torch.isclose(corrupted.noisy[free], clean[free]).any()
    assert torch.equal(process.prior(clean, free, noise_of(6))[~free], clean[~free])
    pred = clean + expand(torch.where(free, 1.0, 1000.0), clean)
    assert process.loss(pred, corrupted, t).tolist() == pytest.approx([0] + [1] * 5)


@pytest.mark.parametrize("filling", [float("nan"), float("inf")])
def test_whatever_stands_in_padding_leaks_neither_into_loss_nor_gradient(filling):
    free = torch.tensor([[True, True, False]] * 2)
    clean = torch.where(free[..., None], points(2, 3), filling)
    process, t = Gaussian("clean"), torch.tensor([0.2, 0.8])
    pred = torch.zeros(2, 3, 3, requires_grad=True)
    loss = process.loss(pred, process.corrupt(clean, t, free, noise_of(2)), t)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(pred.grad).all() and (pred.grad[:, 2] == 0).all()


def test_data_in_half_precision_is_corrupted_in_single():
    clean, t = points().half(), torch.full((6,), 0.9997)
    corrupted = Gaussian().corrupt(clean, t, everywhere(clean), noise_of(6))
    assert corrupted.noisy.dtype == torch.float32
    assert torch.allclose(corrupted.noisy, 0.9997 * clean.float() + 0.0003 * corrupted.noise, atol=1e-7)


def test_projection_reaches_prior_noise_and_jitter():
    clean, t = zero_com(points().float(), everywhere(points())), torch.full((6,), 0.4)
    free = torch.ones(6, 5, dtype=torch.bool)
    free[:, 4] = False
    process = Gaussian("clean", project=zero_com, jitter=0.2)
    corrupted = process.corrupt(zero_com(clean, free), t, free, noise_of(6))
    for x in (process.prior(clean, free, noise_of(6)), corrupted.noisy, corrupted.noise):
        assert x[:, :4].mean(1).abs().max() < 1e-6


def test_zero_com_and_symmetric():
    x, mask = points(2).float(), torch.tensor([[True, True, True, False, False], [True] * 5])
    y = zero_com(x, mask)
    assert torch.equal(y[0, 3:], x[0, 3:]) and y[0, :3].mean(0).abs().max() < 1e-6
    assert torch.allclose(zero_com(y, mask), y, atol=1e-6)
    bonds = noise_of(2).integers(5, [4, 4])
    square = symmetric(bonds, bonds == bonds)
    assert torch.equal(square, square.mT) and torch.equal(square.triu(), bonds.triu())
    wide = symmetric(points(2, 4).unsqueeze(2).expand(2, 4, 4, 3), bonds == bonds)
    assert torch.equal(wide, wide.transpose(1, 2))


def test_coupling_pairs_noise_with_data():
    """A coupling that flips the noise towards the data shortens every path; the noise keeps its law."""
    clean = points()

    def couple(noise, clean, free):
        sign = torch.sign((noise * clean).sum((1, 2), keepdim=True))
        return noise * sign

    t = torch.full((6,), 0.5).double()
    plain = Gaussian().corrupt(clean, t, everywhere(clean), noise_of(6))
    coupled = Gaussian(couple=couple).corrupt(clean, t, everywhere(clean), noise_of(6))
    assert torch.equal(coupled.noise.abs(), plain.noise.abs())
    assert ((coupled.noise - clean) ** 2).sum() < ((plain.noise - clean) ** 2).sum()
    assert torch.allclose(coupled.noisy, (clean + coupled.noise) / 2)


def test_jitter_has_its_deviation_at_every_time_and_leaves_the_target_alone():
    clean, t = torch.zeros(4000, 3), torch.ones(4000)
    corrupted = Gaussian("clean", jitter=0.2).corrupt(clean, t, torch.ones(4000, dtype=torch.bool), noise_of(4000))
    assert corrupted.noisy.std() == pytest.approx(0.2, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([corrupted.noisy.flatten(), corrupted.noise.flatten()]))[0, 1]) < 0.03
    assert torch.equal(Gaussian("clean", jitter=0.2).target(corrupted, t), clean)


def test_an_example_is_corrupted_alike_in_any_batch_and_padding():
    clean, t = points(6, 4), torch.rand(6).double()
    process = Gaussian(jitter=0.1)
    whole = process.corrupt(clean, t, everywhere(clean), noise_of(6)).noisy
    padded = torch.cat([clean, torch.zeros(6, 3, 3)], 1)
    some = process.corrupt(padded[[4, 1]], t[[4, 1]], everywhere(padded)[[4, 1]], noise_of(6).rows(torch.tensor([4, 1])))
    assert torch.equal(some.noisy[:, :4], whole[[4, 1]])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Gaussian("score"), "predict is 'score'; choices are velocity, clean, noise"),
        (lambda: Gaussian(loss_on="x"), "loss_on is 'x'"),
        (lambda: Gaussian(loss_on="clean", weight=P2()), "a weight applies to the noise loss"),
        (lambda: Gaussian(path=Never()), "carries no signal"),
        (lambda: Masked(1), "at least 2 classes"),
        (lambda: Masked(4, score="some"), "score is 'some'; choices are undecided, all"),
        (lambda: Masked(4, elbo=True, score="all"), "masked sites only"),
        (lambda: Masked(4, elbo=True, divisor=2000.0), "neither mask_logit, smoothing nor divisor"),
        (lambda: Masked(4, elbo=True, smoothing=0.1), "neither mask_logit, smoothing nor divisor"),
        (lambda: Masked(4, divisor=0.0), "divisor must be positive, got 0.0"),
        (lambda: Masked(4).logits(torch.zeros(2, 6)), "the network outputs 6 classes"),
        (lambda: Uniform(4).logits(torch.zeros(2, 5)), "the network outputs 5 classes"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()


def test_a_prediction_of_another_shape_is_named():
    clean, t = points(), torch.rand(6)
    corrupted = Gaussian().corrupt(clean, t, everywhere(clean), noise_of(6))
    with pytest.raises(MultigenError, match=r"\(6, 5, 4\) for a component of shape \(6, 5, 3\)"):
        Gaussian().loss(torch.zeros(6, 5, 4), corrupted, t)


# ------------------------------------------------------------------------------------------------------- categorical


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_masked_sites_keep_their_class_with_probability_alpha(path):
    clean = noise_of(300).integers(5, [60])  # (B, N)
    t = torch.linspace(0, 1, 300)
    process = Masked(5, path)
    noisy = process.corrupt(clean, t, everywhere(clean), noise_of(300)).noisy
    kept = noisy == clean
    assert (noisy[~kept] == 5).all()
    for rows in torch.arange(300).chunk(5):  # 3,600 sites of much the same time
        assert kept[rows].double().mean() == pytest.approx(path(t[rows]).alpha.mean().item(), abs=0.035)
    assert kept[-1].all() and not kept[0].any()


def test_uniform_sites_show_any_class_alike():
    clean, t = torch.zeros(400, 50, dtype=torch.long), torch.full((400,), 0.6)
    noisy = Uniform(4).corrupt(clean, t, everywhere(clean), noise_of(400)).noisy
    expected = 20_000 * torch.tensor([0.6 + 0.1, 0.1, 0.1, 0.1]).double()
    assert stats.chisquare(noisy.flatten().bincount(minlength=4).numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("process", [Masked(4), Uniform(4), Masked(4, Never()), Uniform(4, Never())], ids=repr)
def test_categorical_processes_freeze_and_follow_the_protocol(process):
    assert isinstance(process, Discrete) and not isinstance(Gaussian(), Discrete)
    clean = noise_of(20).integers(4, [30])
    free = noise_of(20, "free").uniform([30]) < 0.5
    noisy = process.corrupt(clean, torch.full((20,), 0.1), free, noise_of(20)).noisy
    assert torch.equal(noisy[~free], clean[~free])
    assert (noisy[free] != clean[free]).double().mean() > 0.5
    assert not process.undecided(noisy, free)[~free].any()
    if isinstance(process.path, Never):
        again = process.corrupt(clean, torch.ones(20), free, noise_of(20)).noisy
        assert torch.equal(again, noisy)  # time does not matter


@pytest.mark.parametrize("process", [Masked(5, project=symmetric), Uniform(5, project=symmetric)], ids=["masked", "uniform"])
def test_symmetric_components_stay_symmetric(process):
    clean = symmetric(noise_of(50).integers(5, [6, 6]), torch.ones(1))
    free = torch.ones(50, 6, 6, dtype=torch.bool)
    corrupted = process.corrupt(clean, torch.linspace(0, 1, 50), free, noise_of(50))
    assert torch.equal(corrupted.noisy, corrupted.noisy.mT)
    prior = process.prior(clean, free, noise_of(50))
    assert torch.equal(prior, prior.mT)


def cross_entropy_by_hand(logits, clean, smoothing=0.0):
    log = torch.log_softmax(logits.double(), -1)
    own = log.gather(-1, clean[..., None])[..., 0]
    return -(1 - smoothing) * own - smoothing * log.mean(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("score", ["undecided", "all"])
def test_cross_entropy_is_the_mean_over_the_scored_sites(smoothing, score):
    clean = noise_of(9).integers(6, [12])
    free = noise_of(9, "free").uniform([12]) < 0.8
    free[0] = False
    t = torch.linspace(0.05, 0.95, 9)
    process = Masked(6, score=score, smoothing=smoothing)
    corrupted = process.corrupt(clean, t, free, noise_of(9))
    logits = noise_of(9, "logits").normal([12, 7])
    scored = free if score == "all" else free & (corrupted.noisy == 6)
    expected = masked_mean(cross_entropy_by_hand(logits[..., :6], clean, smoothing), scored)
    assert torch.allclose(process.loss(logits, corrupted, t).double(), expected, atol=1e-6)
    assert process.loss(logits, corrupted, t)[0] == 0  # an example without a free site


def test_uniform_scores_every_free_site():
    clean, free = noise_of(5).integers(6, [12]), noise_of(5, "free").uniform([12]) < 0.8
    t = torch.rand(5)
    corrupted = Uniform(6).corrupt(clean, t, free, noise_of(5))
    logits = noise_of(5, "logits").normal([12, 6])
    expected = masked_mean(cross_entropy_by_hand(logits, clean), free)
    assert torch.allclose(Uniform(6).loss(logits, corrupted, t).double(), expected, atol=1e-6)


@pytest.mark.parametrize("process", [Masked(6), Uniform(6)], ids=["masked", "uniform"])
def test_padding_may_hold_any_index(process):
    clean = noise_of(3).integers(6, [8])
    free = torch.arange(8).expand(3, 8) < 5
    logits = noise_of(3, "logits").normal([8, 6]).requires_grad_(True)
    t = torch.full((3,), 0.3)
    losses = []
    for filling in (0, -100, 10**6):
        corrupted = process.corrupt(torch.where(free, clean, filling), t, free, noise_of(3))
        losses.append(process.loss(logits, corrupted, t))
    losses[-1].sum().backward()
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    assert (logits.grad[:, 5:] == 0).all()


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_the_masked_bound_equals_the_likelihood_where_the_denoiser_is_exact(path):
    """One site, then two correlated ones whose posterior is known: E_t of the bound is -log p, per site (MDLM eq. 11)."""
    n = 40_000
    t = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]  # (n,)
    one = torch.tensor([0.2, 0.5, 0.3]).double()
    joint = correlated(3, 2)  # (3, 3)
    process = Masked(3, path, elbo=True, max_weight=math.inf)
    for word in ((0,), (2,), (0, 1), (2, 2)):
        clean = torch.tensor(word).expand(n, len(word))
        free = torch.ones_like(clean, dtype=torch.bool)
        corrupted = process.corrupt(clean, t, free, noise_of(n, str(word)))
        if len(word) == 1:
            logits, exact = one.log().expand(n, 1, 3), -math.log(one[word])
        else:
            masked = corrupted.noisy == 3
            left = torch.where(masked[:, 1:], joint.sum(1), joint[:, word[1]])  # (n, 3)
            right = torch.where(masked[:, :1], joint.sum(0), joint[word[0], :])  # (n, 3)
            logits, exact = torch.stack([left, right], 1).log(), -math.log(joint[word]) / 2
        loss = process.loss(logits, corrupted, t).double()
        assert abs(loss.mean() - exact) < 4 * loss.std() / math.sqrt(n)


def test_the_bounds_weight_is_clamped():
    clean = torch.zeros(2, 1, dtype=torch.long)
    corrupted = Corrupted(torch.full((2, 1), 3), clean, clean, clean == 0)
    loss = Masked(3, elbo=True, max_weight=20.0).loss(torch.zeros(2, 1, 3), corrupted, torch.tensor([0.5, 1 - 1e-9]))
    assert loss.tolist() == pytest.approx([2 * math.log(3), 20 * math.log(3)])


def test_published_protein_loss():
    """REED sums the smoothed cross-entropy over 22 classes and all designable residues, and divides by 2,000."""
    process = Masked(21, score="all", smoothing=0.1, mask_logit=True, divisor=2000.0)
    clean, free = torch.randint(21, (3, 7)), torch.rand(3, 7) < 0.7  # (B, L) each
    pred, t = torch.randn(3, 7, 22), torch.full((3,), 0.5)  # (B, L, 22), (B,)
    loss = process.loss(pred, process.corrupt(clean, t, free, Noise(torch.arange(3))), t)
    log_p = pred.log_softmax(-1)  # (B, L, 22)
    each = -0.9 * log_p.gather(-1, clean[..., None])[..., 0] - 0.1 * log_p.mean(-1)  # (B, L)
    torch.testing.assert_close(loss.mean(), each[free].sum() / 2000)
    with pytest.raises(MultigenError, match="mask_logit=true needs 22 logits, got 21"):
        process.loss(pred[..., :21], process.corrupt(clean, t, free, Noise(torch.arange(3))), t)
