"""Grids, steppers and the loop, against data whose exact denoiser is known (I3, I4)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from oracles import DEVIATION, MEAN, GaussianOracle, TableOracle, blank, correlated, fits, frequencies
from scipy import stats

from multigen.denoiser import Output
from multigen.guidance import Guidance
from multigen.interpolation import Linear, Never, Shifted, Trigonometric
from multigen.process import Gaussian, Masked, Uniform, symmetric, zero_com
from multigen.random import Noise, keys
from multigen.sampling import Euler, EulerMaruyama, Grid, Heun, Hold, Jump, Sampler, Staged
from multigen.state import Batch, MultigenError

PATHS = [Linear(), Trigonometric()]

# ------------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize(
    "settings", [{}, {"spacing": "cosine"}, {"last": 0.04}, {"start": 0.3}, {"start": 0.3, "last": 0.1}], ids=str
)
def test_grids_increase_from_start_to_one(settings, steps):
    times = Grid(steps, **settings).times()
    assert len(times) == steps + 1
    assert times[0] == settings.get("start", 0) and times[-1] == 1.0
    assert all(a < b for a, b in itertools.pairwise(times))
    if "last" in settings and steps > 1:
        assert times[-1] - times[-2] == pytest.approx(settings["last"])


def test_the_published_sde_grid_is_uniform_to_its_last_step():
    times = Grid(250, last=0.04).times()
    assert times[:250] == pytest.approx([0.96 * i / 249 for i in range(250)])


def test_the_log_grid_falls_geometrically_to_its_last_time():
    left = [1 - t for t in Grid(20, "log").times()]
    ratios = [b / a for a, b in itertools.pairwise(left)]
    assert left[0] == 1 and left[-1] == pytest.approx(0.01) and ratios == pytest.approx([0.01 ** (1 / 20)] * 20)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Grid(0), "at least 1 step"),
        (lambda: Grid(spacing="exp"), "spacing is 'exp'; choices are uniform, log, cosine"),
        (lambda: Grid(start=1.0), "start must be at least 0 and below 1"),
        (lambda: Grid(start=-0.1), "start must be at least 0 and below 1"),
        (lambda: Grid(last=0.0), "0 < last < 1 - start"),
        (lambda: Grid(start=0.9, last=0.2), "0 < last < 1 - start"),
        (lambda: Grid(spacing="cosine", last=0.1), "needs spacing uniform or log"),
        (lambda: Hold(1.2), "between 0 and 1"),
        (lambda: Sampler(result="x"), "result is 'x'; choices are state, prediction"),
        (lambda: Sampler(Grid(spacing="log")), "ask for result=prediction"),
        (lambda: Sampler(grids={"x": Staged(Grid(spacing="log"))}), "ask for result=prediction"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()


# ---------------------------------------------------------------------------------------------------------- Gaussian


def draw(sampler: Sampler, process: Gaussian, n: int = 4000, **settings) -> torch.Tensor:
    return sampler(GaussianOracle(process, **settings), {"x": process}, blank(n, 1))["x"]


STEPPERS = {
    "euler": Sampler(Grid(100)),
    "heun": Sampler(Grid(25), continuous=Heun()),
    "sde": Sampler(Grid(100, last=0.04), continuous=EulerMaruyama()),
}


@pytest.mark.parametrize("predict", ["velocity", "clean", "noise"])
@pytest.mark.parametrize("path", [*PATHS, Shifted(2.0)], ids=repr)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_gaussian_data_keep_their_mean_and_deviation(stepper, path, predict):
    x = draw(STEPPERS[stepper], Gaussian(predict, path))
    assert x.dtype == torch.float64
    assert x.mean() == pytest.approx(MEAN, abs=4 * DEVIATION / math.sqrt(4000) + 0.03)
    assert x.std() == pytest.approx(DEVIATION, rel=0.05)
    assert stats.kstest(((x - x.mean()) / x.std()).flatten().numpy(), "norm").pvalue > 1e-3


def exact_flow(process: Gaussian, n: int) -> torch.Tensor:
    """Where the probability-flow ODE carries each prior draw: mean + deviation * x_0 for Gaussian data."""
    template = blank(n, 1)
    prior = Noise(template.key).fold("sample").fold("prior").fold("x").normal([1], torch.float64)  # (B, 1)
    return MEAN + DEVIATION * prior


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("stepper, order", [(Euler(), 1), (Heun(), 2)])
def test_solvers_converge_with_their_order(stepper, order, path):
    """Against the exact flow map, sample by sample: halving the step divides the error by 2^order."""
    process = Gaussian("velocity", path)
    exact = exact_flow(process, 200)
    steps = [20, 40, 80]
    errors = [(draw(Sampler(Grid(n), continuous=stepper), process, 200) - exact).abs().mean().item() for n in steps]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    # the last step of Heun is Euler's, whose local error is of second order too
    assert orders == pytest.approx([order] * 2, abs=0.25)
    assert errors[-1] < (0.02 if order == 1 else 0.001)


@pytest.mark.parametrize("predict", ["velocity", "clean", "noise"])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_score_of_gaussian_data_is_exact(path, predict):
    """I3: grad log N(x; alpha m, alpha^2 d^2 + sigma^2) from each kind of prediction."""
    process = Gaussian(predict, path)
    oracle = GaussianOracle(process)
    x = torch.linspace(-3, 3, 11, dtype=torch.float64)[:, None]
    for time in (0.05, 0.4, 0.96):
        t = torch.full((11,), time, dtype=torch.float64)
        c = path(t[:1])
        exact = -(x - c.alpha * MEAN) / (c.alpha**2 * DEVIATION**2 + c.sigma**2)
        assert torch.allclose(process.score(oracle.predict(x, t, {}), x, t), exact)


def test_the_published_form_of_the_score_agrees():
    """SiT's formula for the linear path, in its own time s = 1 - t and velocity -v: -(x + (1 - s) u) / s."""
    process = Gaussian()
    x, t = torch.linspace(-3, 3, 11, dtype=torch.float64)[:, None], torch.linspace(0.1, 0.9, 11, dtype=torch.float64)
    v = GaussianOracle(process).predict(x, t, {})
    s = (1 - t)[:, None]
    assert torch.allclose(process.score(v, x, t), -(x + (1 - s) * -v) / s)


def test_the_sde_step_is_the_mirrored_formula_with_a_last_step_without_noise():
    """I4: dx = (v + w / 2 score) dt + sqrt(w dt) noise with w = 2 (1 - t); at s = 1 only the drift."""
    process, noise = Gaussian(path=Trigonometric()), Noise(keys(0, range(4000)))
    x, free = torch.full((4000, 1), 0.8, dtype=torch.float64), torch.ones(4000, dtype=torch.bool)
    pred = torch.full_like(x, 0.3)
    for t, s in ((0.25, 0.3), (0.96, 1.0)):
        times = [torch.full((4000,), u, dtype=torch.float64) for u in (t, s)]
        moved = EulerMaruyama()(process, x, pred, *times, free, noise)
        score = process.score(pred, x, times[0])[0].item()
        drift, w = 0.3 + (1 - t) * score, 2 * (1 - t)
        if s == 1:
            assert len(moved.unique()) == 1 and moved[0].item() == pytest.approx(0.8 + (s - t) * drift)
        else:
            assert moved.mean().item() == pytest.approx(0.8 + (s - t) * drift, abs=4 * math.sqrt(w * (s - t) / 4000))
            assert moved.std().item() == pytest.approx(math.sqrt(w * (s - t)), rel=0.05)


def test_an_sde_without_noise_is_the_ode():
    process = Gaussian()
    ode, sde = Sampler(Grid(20)), Sampler(Grid(20), continuous=EulerMaruyama(scale=0))
    assert torch.equal(draw(ode, process, 50), draw(sde, process, 50))


@pytest.mark.parametrize(
    "sampler, calls",
    [
        (Sampler(Grid(17)), 17),
        (Sampler(Grid(17, last=0.04), continuous=EulerMaruyama()), 17),
        (Sampler(Grid(17), continuous=Heun()), 33),
        (Sampler(Grid(17, "log"), result="prediction"), 17),
    ],
)
def test_numbers_of_evaluations(sampler, calls):
    """I4: N steps, N evaluations; Heun looks twice but in its last step."""
    process = Gaussian()
    oracle = GaussianOracle(process)
    sampler(oracle, {"x": process}, blank(3, 1))
    assert oracle.calls == calls


@pytest.mark.parametrize("scale, label", [(1.0, 0), (1.0, 1), (2.0, 1)])
def test_the_published_sde_samples_classes_of_a_gaussian_in_250_evaluations(scale, label):
    """I4, as configs/sampler/sde.yaml has it. Classes N(-1, d^2) and N(1, d^2) against N(0, d^2): guided to scale * mean."""
    process = Gaussian()
    oracle = GaussianOracle(process, torch.tensor([-1.0, 1.0]))
    sampler = Sampler(Grid(250, last=0.04), continuous=EulerMaruyama(), guide=Guidance(scale))
    cond = {"label": torch.full((3000,), label)}
    x = sampler(oracle, {"x": process}, blank(3000, 1, cond=cond))["x"]
    assert oracle.calls == 250 * (2 if scale != 1 else 1)
    assert x.mean() == pytest.approx(scale * (2 * label - 1), abs=0.05)
    assert x.std() == pytest.approx(DEVIATION, rel=0.05)


def test_a_careless_noise_prediction_does_not_throw_samples_off_at_the_start():
    """At t = 0 the clean data is (noisy - noise) / 0: an error of 0.03 there must not become one of thousands."""
    process = Gaussian("noise")
    oracle = GaussianOracle(process)
    exact = oracle.predict
    oracle.predict = lambda x, t, cond: exact(x, t, cond) + 0.03 * torch.sin(3 * x)
    for sampler in (Sampler(Grid(50)), Sampler(Grid(25), continuous=Heun())):
        x = sampler(oracle, {"x": process}, blank(2000, 1))["x"]
        assert x.mean() == pytest.approx(MEAN, abs=0.1) and x.std() == pytest.approx(DEVIATION, abs=0.05)


def test_the_network_is_given_single_precision_and_the_true_times():
    process, seen = Gaussian(), []

    class Watcher(GaussianOracle):
        def predict(self, x, t, cond):
            seen.append((x.dtype, t.dtype, t.shape, t[0].item()))
            return super().predict(x, t, cond)

    Sampler(Grid(4))(Watcher(process), {"x": process}, blank(3, 1))
    assert seen == [(torch.float32, torch.float32, (3,), i / 4) for i in range(4)]


def test_self_conditioning_feeds_each_prediction_to_the_next_call():
    process = Gaussian()
    for switched in (True, False):
        prevs = []

        class Watcher(GaussianOracle):
            def __call__(self, noisy, t, cond, mask, prev=None, taps=(), prevs=prevs):
                output = super().__call__(noisy, t, cond, mask, prev, taps)
                prevs.append((prev, output.pred))
                return output

        Sampler(Grid(3), self_conditioning=switched)(Watcher(process), {"x": process}, blank(3, 1))
        assert [p is not None for p, _ in prevs] == [False, switched, switched]
        assert not switched or prevs[1][0]["x"] is prevs[0][1]["x"]


@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_sample_is_the_same_in_any_batch(stepper):
    process, sampler = Gaussian(), STEPPERS[stepper]
    whole, template = draw(sampler, process, 12), blank(12, 1)
    for rows in ([5], [11, 2, 3]):
        some = sampler(GaussianOracle(process), {"x": process}, template.map(lambda x, rows=rows: x[rows]))["x"]
        assert torch.equal(some, whole[rows])
    other = sampler(GaussianOracle(process), {"x": process}, blank(12, 1, seed=1))["x"]
    assert not torch.isclose(other, whole).any()


@pytest.mark.parametrize("stepper", STEPPERS)
def test_frozen_sites_stay_and_projections_hold(stepper):
    """In-painting: half of the sites are given; the others are made, and stay centred where a projection says so."""
    process = Gaussian(project=zero_com)
    n, sites = 6, 8
    clean = Noise(keys(3, range(n))).normal([sites, 3])
    free = torch.zeros(n, sites, dtype=torch.bool)
    free[:, :5] = True
    template = Batch({"x": clean}, {"x": torch.ones_like(free)}, {"x": free}, keys(0, range(n)))
    x = STEPPERS[stepper](GaussianOracle(process, mean=0.0), {"x": process}, template)["x"]
    assert torch.equal(x[:, 5:].float(), clean[:, 5:])
    assert x[:, :5].mean(1).abs().max() < 1e-9
    assert not torch.isclose(x[:, :5].float(), clean[:, :5]).any()


def test_a_late_start_makes_anew_from_a_corrupted_template():
    """At t = 0.9 of the linear path little is left to decide: the samples stay near the template they began from."""
    process, n = Gaussian(), 2000
    template = replace(blank(n, 1), clean={"x": torch.full((n, 1), 2.0)})
    oracle = GaussianOracle(process)
    x = Sampler(Grid(20, start=0.9))(oracle, {"x": process}, template)["x"]
    # exact: noisy ~ N(0.9 * 2, 0.1^2), carried on by the affine flow from N(0.9 m, 0.81 d^2 + 0.01) to N(m, d^2)
    slope = DEVIATION / math.sqrt(0.81 * DEVIATION**2 + 0.01)
    assert x.mean().item() == pytest.approx(MEAN + slope * 0.9 * (2.0 - MEAN), abs=0.01)
    assert x.std().item() == pytest.approx(slope * 0.1, rel=0.06)
    assert oracle.calls == 20


def test_the_last_prediction_can_be_the_result():
    process = Gaussian("clean")
    grid = Grid(30, "log")
    x = Sampler(grid, result="prediction")(GaussianOracle(process), {"x": process}, blank(4000, 1))["x"]
    assert x.mean() == pytest.approx(MEAN, abs=0.05) and x.std() == pytest.approx(DEVIATION, rel=0.1)


def test_watch_sees_every_step():
    process, seen = Gaussian(), []
    x = Sampler(Grid(5))(
        GaussianOracle(process), {"x": process}, blank(2, 1), watch=lambda i, noisy, pred: seen.append((i, noisy, pred))
    )["x"]
    assert [i for i, _, _ in seen] == [1, 2, 3, 4, 5] and torch.equal(seen[-1][1]["x"], x) and "x" in seen[0][2]


# ------------------------------------------------------------------------------------------------------- categorical

KINDS = {"masked": Masked, "uniform": Uniform}


def words(
    process, joint: torch.Tensor, steps: int, n: int = 4000, careless: bool = False, result: str = "state", **jump
) -> torch.Tensor:
    oracle = TableOracle(joint, process, careless)
    sampler = Sampler(Grid(steps), discrete=Jump(**jump), result=result)
    return sampler(oracle, {"x": process}, blank(n, joint.ndim, dtype=torch.long))["x"]


def distance(x: torch.Tensor, joint: torch.Tensor) -> float:
    """Total variation between the frequencies of words and their probabilities."""
    return float((frequencies(x, len(joint)) - joint).abs().sum() / 2)


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("path", [*PATHS, Shifted(3.0)], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_one_site_is_exact_in_any_number_of_steps(kind, path, noise):
    """The chance (alpha_s - alpha_t) / (1 - alpha_t) has no step-size error, and neither has the corrector."""
    probs = torch.tensor([0.1, 0.6, 0.3]).double()
    for steps in (1, 3, 7):
        x = words(KINDS[kind](3, path), probs, steps, noise=noise)
        assert fits(x, probs)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_correlated_sites_reproduce_their_joint_distribution(kind, path, noise):
    """27 words of 3 sites; sampling noise alone gives a distance of about 0.03 at n = 4,000, independent sites one of 0.3."""
    joint = correlated()
    x = words(KINDS[kind](3, path), joint, 60, noise=noise)
    assert distance(x, joint) < 0.06
    # one step draws every site for itself: the joint distribution is lost, the marginals are not
    hasty = words(KINDS[kind](3, path), joint, 1)
    assert distance(hasty, joint) > 0.15
    assert (frequencies(hasty[:, :1], 3) - joint.sum((1, 2))).abs().max() < 0.03


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_a_network_is_not_asked_about_sites_that_are_decided(noise):
    """A masked network is scored on masked sites only: what it says elsewhere must not reach a sample, corrector or not."""
    joint = correlated()
    x = words(Masked(3), joint, 60, careless=True, noise=noise)
    assert distance(x, joint) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_time_in_between_shows_the_forward_process(kind):
    """Half way through, the states are those of the forward process at that time."""
    process, probs, seen = KINDS[kind](3, Trigonometric()), torch.tensor([0.1, 0.6, 0.3]).double(), {}
    template = blank(8000, 1, dtype=torch.long)
    Sampler(Grid(4), discrete=Jump(noise=1.0))(
        TableOracle(probs, process), {"x": process}, template, lambda i, noisy, pred: seen.update({i: noisy["x"]})
    )
    alpha = process.path(torch.tensor(0.5)).alpha.item()
    shown = alpha * probs
    expected = torch.cat([shown, torch.tensor([1 - alpha])]) if kind == "masked" else shown + (1 - alpha) / 3
    assert fits(seen[2], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_sharpens_and_zero_takes_the_likeliest(kind):
    probs = torch.tensor([0.1, 0.6, 0.3]).double()
    cold = (probs**2) / (probs**2).sum()
    x = words(KINDS[kind](3), probs, 1, temperature=0.5)
    assert fits(x, cold)
    assert (words(KINDS[kind](3), probs, 1, temperature=0) == 1).all()
    assert (words(Masked(3), probs, 5, temperature=0) == 1).all()


@pytest.mark.parametrize("process", [Masked(3, Never()), Uniform(3, Never())], ids=["masked", "uniform"])
def test_a_component_that_never_shows_is_read_out_at_the_end(process):
    probs, seen = torch.tensor([0.1, 0.6, 0.3]).double(), {}
    x = Sampler(Grid(6), discrete=Jump(noise=0.5))(
        TableOracle(probs, process),
        {"x": process},
        blank(4000, 1, dtype=torch.long),
        lambda i, noisy, pred: seen.update({i: noisy["x"]}),
    )["x"]
    before = seen[5].flatten().bincount(minlength=4).double()
    assert (before[3] == 4000) if isinstance(process, Masked) else (before[:3] - 4000 / 3).abs().max() < 150
    assert fits(x, probs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("result", ["state", "prediction"])
def test_the_result_holds_no_mask_token_and_keeps_frozen_sites(kind, result):
    joint, n = correlated(), 50
    process = KINDS[kind](3)
    free = Noise(keys(1, range(n))).uniform([3]) < 0.6
    clean = torch.where(free, 99, Noise(keys(2, range(n))).integers(3, [3]))
    template = Batch({"x": clean}, {"x": free | ~free}, {"x": free}, keys(0, range(n)))
    grid = Grid(10) if result == "state" else Grid(10, "log")
    x = Sampler(grid, discrete=Jump(noise=0.5), result=result)(TableOracle(joint, process), {"x": process}, template)["x"]
    assert x.min() >= 0 and x.max() < 3 and torch.equal(x[~free], clean[~free])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump", [Jump(), Jump(noise=1.0), Jump(temperature=0)], ids=repr)
@pytest.mark.parametrize("result", ["state", "prediction"])
def test_symmetric_components_are_made_symmetric_by_any_network(kind, jump, result):
    process, n, size = KINDS[kind](4, project=symmetric), 30, 5

    class Lopsided(TableOracle):
        def __init__(self):
            pass

        def predict(self, x, t, cond):
            return Noise(keys(0, range(n))).fold(int(1000 * t[0])).normal([size, size, 4])

    free = torch.ones(n, size, size, dtype=torch.bool)
    template = Batch({"x": torch.zeros(n, size, size, dtype=torch.long)}, {"x": free}, {"x": free}, keys(0, range(n)))
    seen = []
    x = Sampler(Grid(8), discrete=jump, result=result)(
        Lopsided(), {"x": process}, template, lambda i, noisy, pred: seen.append(noisy["x"])
    )["x"]
    assert all(torch.equal(y, y.mT) for y in [*seen, x])
    assert len(x.unique()) == 4


# ------------------------------------------------------------------------------------------- several components


class Joint:
    """Two components: x ~ N(0, 1) and y = x + N(0, 0.1^2), both of the linear path with velocity prediction, times apart."""

    def null(self, cond):
        return cond

    def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
        a, b = (t[k].double()[:, None] for k in "xy")
        cov = torch.tensor([[1.0, 1.0], [1.0, 1.01]], dtype=torch.float64)
        scale = torch.cat([a, b], 1)  # (B, 2)
        z = torch.cat([noisy["x"], noisy["y"]], 1).double()  # (B, 2)
        noise = torch.diag_embed((1 - scale) ** 2)  # (B, 2, 2)
        covariance = scale[:, :, None] * cov * scale[:, None, :] + noise
        solved = torch.linalg.solve(covariance + 1e-12 * torch.eye(2).double(), z[..., None])  # (B, 2, 1)
        clean = (cov @ (scale[..., None] * solved))[..., 0]  # (B, 2)
        eps = ((1 - scale)[..., None] * solved)[..., 0]  # (B, 2)
        velocity = clean - eps
        return Output({"x": velocity[:, :1], "y": velocity[:, 1:]}, {})


def two(n: int, given: str = "") -> Batch:
    ones = torch.ones(n, dtype=torch.bool)
    clean = {k: torch.full((n, 1), 0.7) for k in "xy"}
    return Batch(clean, dict.fromkeys("xy", ones), {k: ones if k != given else ~ones for k in "xy"}, keys(0, range(n)))


PAIR = {"x": Gaussian(), "y": Gaussian()}


@pytest.mark.parametrize(
    "grids",
    [{}, {"x": Staged(Grid(50), after=50), "y": Staged(Grid(50), before=50)}],
    ids=["together", "one after the other"],
)
@pytest.mark.parametrize("stepper", [Euler(), Heun()], ids=repr)
def test_components_are_made_together_or_one_after_the_other(grids, stepper):
    state = Sampler(Grid(100), grids=grids, continuous=stepper)(Joint(), PAIR, two(3000))
    cov = torch.cov(torch.cat([state["x"], state["y"]], 1).T)
    assert torch.allclose(cov, torch.tensor([[1.0, 1.0], [1.0, 1.01]]).double(), atol=0.12)
    assert (state["y"] - state["x"]).std().item() == pytest.approx(0.1, abs=0.03)


def test_a_component_is_made_given_another_or_without_it():
    n = 3000
    given = Sampler(Grid(60), grids={"x": Hold(1.0)})(Joint(), PAIR, two(n, given="x"))
    assert (given["x"] == torch.tensor(0.7).double()).all()
    assert given["y"].mean().item() == pytest.approx(0.7, abs=0.02) and given["y"].std().item() == pytest.approx(0.1, abs=0.02)
    hidden = Sampler(Grid(60), grids={"x": Hold(0.0)})(Joint(), PAIR, two(n))
    assert hidden["y"].mean().item() == pytest.approx(0, abs=0.08) and hidden["y"].std().item() == pytest.approx(1, abs=0.08)


def test_a_finished_uniform_component_rests():
    """After its stage a uniform component must not be drawn anew while another is still being made."""
    probs, seen = torch.tensor([0.2, 0.5, 0.3]).double(), []
    process = Uniform(3)
    sampler = Sampler(grids={"x": Staged(Grid(5), after=4)}, grid=Grid(9))
    sampler(
        TableOracle(probs, process),
        {"x": process},
        blank(200, 1, dtype=torch.long),
        lambda i, noisy, pred: seen.append(noisy["x"]),
    )
    assert len(seen) == 9 and all(torch.equal(x, seen[4]) for x in seen[5:]) and not torch.equal(seen[3], seen[4])


@pytest.mark.parametrize(
    "sampler, words",
    [
        (Sampler(steppers={"z": Euler()}), r"steppers for unknown components \['z'\]; components are \['x', 'y'\]"),
        (Sampler(grids={"z": Grid()}), r"grids for unknown components \['z'\]"),
        (Sampler(grids={"x": Grid(3), "y": Grid(4)}), "differ in their number of steps: {'x': 3, 'y': 4}"),
        (Sampler(grids={"x": Hold(1.0)}), "'x' is held at t = 1 as given, but the template leaves it to be made"),
    ],
)
def test_mismatched_components_are_named(sampler, words):
    with pytest.raises(MultigenError, match=words):
        sampler(Joint(), PAIR, two(2))


def test_each_component_draws_its_own_noise():
    first = []
    Sampler(Grid(1), grids=dict.fromkeys("xy", Hold(0.0)))(Joint(), PAIR, two(400), lambda i, noisy, pred: first.append(noisy))
    assert abs(torch.corrcoef(torch.cat([first[0]["x"], first[0]["y"]], 1).T)[0, 1]) < 0.2
