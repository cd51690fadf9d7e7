"""Classifier-free guidance and autoguidance as wrappers of a denoiser (I5)."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import Counted, GaussianOracle, TableOracle, blank, fits

from multigen.denoiser import Denoiser, Output
from multigen.guidance import Guidance, Guided
from multigen.interpolation import Linear, Trigonometric
from multigen.process import Gaussian, Masked, Uniform
from multigen.random import Noise, keys
from multigen.sampling import Grid, Heun, Jump, Sampler
from multigen.state import Batch, MultigenError

MEANS = torch.tensor([-1.0, 1.0])  # of two classes; without a label the mean is 0


def call(denoiser, x: torch.Tensor, t: torch.Tensor | float, cond=None):
    t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
    mask = torch.ones(len(x), dtype=torch.bool) if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    return denoiser({"x": x}, {"x": t}, cond or {}, {"x": mask}).pred["x"]


def labels(n: int, label: int = 1) -> dict[str, torch.Tensor]:
    return {"label": torch.full((n,), label)}


def states(n: int = 7) -> torch.Tensor:
    return torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("predict", ["velocity", "clean", "noise"])
@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_guidance_combines_the_drift_whatever_the_network_predicts(predict, path):
    process = Gaussian(predict, path)
    oracle = GaussianOracle(process, MEANS)
    x, t = states(), torch.full((7,), 0.4, dtype=torch.float64)
    strong, weak = call(oracle, x, 0.4, labels(7)), call(oracle, x, 0.4, labels(7, -1))
    guided = call(Guidance(2.5)(oracle), x, 0.4, labels(7))
    velocity = [process.velocity(p, x, t) for p in (strong, weak, guided)]
    assert torch.allclose(velocity[2], velocity[1] + 2.5 * (velocity[0] - velocity[1]))


def test_scale_one_is_the_plain_network_in_one_evaluation():
    oracle = GaussianOracle(Gaussian(), MEANS)
    assert Guidance(1.0)(oracle) is oracle
    Sampler(Grid(9), guide=Guidance(1.0))(oracle, {"x": oracle.process}, blank(3, 1, cond=labels(3)))
    assert oracle.calls == 9
    oracle.calls = 0
    Sampler(Grid(9), guide=Guidance(1.5))(oracle, {"x": oracle.process}, blank(3, 1, cond=labels(3)))
    assert oracle.calls == 18


def test_the_interval_is_read_at_the_time_of_the_evaluation_and_saves_the_second_one():
    oracle = GaussianOracle(Gaussian(), MEANS)
    guided = Guidance(3.0, interval=(0.3, 0.6))(oracle)
    for time, inside in ((0.0, False), (0.29, False), (0.3, True), (0.6, True), (0.61, False), (1.0, False)):
        oracle.calls = 0
        changed = not torch.allclose(call(guided, states(), time, labels(7)), call(oracle, states(), time, labels(7)))
        assert (changed, oracle.calls) == (inside, 3 if inside else 2)
    oracle.calls = 0
    Sampler(Grid(10), guide=Guidance(3.0, (0.25, 0.65)), continuous=Heun())(
        oracle, {"x": oracle.process}, blank(2, 1, cond=labels(2))
    )
    assert oracle.calls == 19 + 4 + 4  # t = 0.3 ... 0.6 as first and as second stage


def test_rows_inside_and_outside_the_interval_are_told_apart():
    oracle = GaussianOracle(Gaussian(), MEANS)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = states(3)
    guided, plain = call(Guidance(3.0, (0.3, 0.6))(oracle), x, t, labels(3)), call(oracle, x, t, labels(3))
    full = call(Guidance(3.0)(oracle), x, t, labels(3))
    assert torch.equal(guided[[0, 2]], plain[[0, 2]]) and torch.equal(guided[1], full[1]) and not torch.equal(full, plain)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.5])
def test_guided_samples_of_a_gaussian_land_where_the_formula_says(scale):
    """Classes N(-1, d^2) and N(1, d^2) against N(0, d^2): all drifts share their slope, so the mean moves to +-scale."""
    process = Gaussian()
    oracle = GaussianOracle(process, MEANS)
    for label in (0, 1):
        x = Sampler(Grid(60), guide=Guidance(scale))(oracle, {"x": process}, blank(3000, 1, cond=labels(3000, label)))["x"]
        assert x.mean().item() == pytest.approx(scale * MEANS[label].item(), abs=0.05)
        assert x.std().item() == pytest.approx(0.4, rel=0.06)


def test_guidance_of_a_mixture_matches_the_guided_ode():
    """Class 1 against the mixture of both classes, whose drift is not affine: the sampler follows weak + w (strong - weak)."""
    process = Gaussian()

    class Mixture(GaussianOracle):
        def predict(self, x, t, cond):
            if (cond["label"] >= 0).all():
                return super().predict(x, t, cond)
            each = torch.stack([super(Mixture, self).predict(x, t, labels(len(x), k)) for k in (0, 1)])  # (2, B, 1)
            variance = (t**2 * self.deviation**2 + (1 - t) ** 2)[:, None]
            logits = torch.stack([-((x - t[:, None] * m) ** 2) / (2 * variance) for m in MEANS])  # (2, B, 1)
            return (logits.softmax(0) * each).sum(0)

    oracle, steps, scale = Mixture(process, MEANS), 200, 2.0
    template = blank(500, 1, cond=labels(500))
    x = Sampler(Grid(steps), guide=Guidance(scale))(oracle, {"x": process}, template)["x"]
    y = Noise(template.key).fold("sample").fold("prior").fold("x").normal([1], torch.float64)
    for i in range(steps):
        t = torch.full((500,), i / steps, dtype=torch.float64)
        strong, weak = oracle.predict(y, t, labels(500)), oracle.predict(y, t, labels(500, -1))
        y = y + (weak + scale * (strong - weak)) / steps
    assert torch.allclose(x, y, atol=1e-5)
    plain = Sampler(Grid(steps))(oracle, {"x": process}, template)["x"]
    assert x.mean() > plain.mean() + 0.1  # away from the other class


def test_rescale_gives_back_the_deviation_of_the_unguided_prediction():
    class Fixed(Counted):
        def predict(self, x, t, cond):
            return pictures * (3.0 if (cond["label"] >= 0).all() else 1.0)

    pictures = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    strong, guided = 3 * pictures, 5 * pictures  # 1 + 2 (3 - 1)
    for share in (0.25, 0.7, 1.0):
        x = call(Guidance(2.0, rescale=share)(Fixed()), pictures, 0.5, labels(4))
        deviations = [y.flatten(1).std(1) for y in (x, strong, guided)]
        assert torch.allclose(deviations[0], share * deviations[1] + (1 - share) * deviations[2])


def test_rescale_looks_at_real_sites_only():
    oracle = GaussianOracle(Gaussian(), MEANS)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    t, guided = torch.full((2,), 0.4), Guidance(3.0, rescale=0.7)(oracle)
    small = guided({"x": x[:, :4]}, {"x": t}, labels(2), {"x": mask[:, :4]}).pred["x"]
    x[:, 4:] = 100.0
    assert torch.allclose(guided({"x": x}, {"x": t}, labels(2), {"x": mask}).pred["x"][:, :4], small, atol=1e-6)


class Latents(Counted):
    """A prediction of four channels that the label scales."""

    pictures = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def predict(self, x, t, cond):
        return self.pictures * (3.0 if (cond["label"] >= 0).all() else 1.0) + x


def test_guidance_of_the_first_channels_leaves_the_rest_to_the_plain_network():
    """DiT and SiT guide 3 of the 4 channels of a latent: the fourth follows the network with its condition."""
    x, network = torch.ones(2, 4, 3, 3), Latents()
    strong, weak = call(network, x, 0.5, labels(2)), call(network, x, 0.5, labels(2, -1))
    guided = call(Guidance(2.5, channels=3)(network), x, 0.5, labels(2))
    torch.testing.assert_close(guided[:, :3], weak[:, :3] + 2.5 * (strong[:, :3] - weak[:, :3]))
    assert torch.equal(guided[:, 3], strong[:, 3])
    everything = call(Guidance(2.5, channels=4)(network), x, 0.5, labels(2))
    assert torch.equal(everything, call(Guidance(2.5)(network), x, 0.5, labels(2)))
    assert not torch.equal(everything[:, 3], strong[:, 3])


def test_rescale_of_guided_channels_looks_at_these_alone():
    x, network = torch.ones(2, 4, 3, 3), Latents()
    strong = call(network, x, 0.5, labels(2))
    guided = call(Guidance(2.5, rescale=1.0, channels=3)(network), x, 0.5, labels(2))
    assert torch.equal(guided[:, 3], strong[:, 3])
    torch.testing.assert_close(guided[:, :3].flatten(1).std(1), strong[:, :3].flatten(1).std(1))


def test_more_channels_than_there_are_is_an_error():
    with pytest.raises(MultigenError, match="guidance of 5 channels: there are 4 in 'x'"):
        call(Guidance(2.0, channels=5)(Latents()), torch.ones(2, 4, 3, 3), 0.5, labels(2))
    with pytest.raises(MultigenError, match="channels"):
        Guidance(2.0, channels=0)
    with pytest.raises(MultigenError, match="image is at least 1, got 0"):
        Guidance(2.0, channels={"image": 0})


def several(guidance, **noisy):
    """Predictions of components under guidance, without it, and of the network without conditions."""

    class Shifted:
        def null(self, cond):
            return {"label": cond["label"] * 0}

        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            by = cond["label"].float()
            return Output({k: x + by.view(-1, *[1] * (x.ndim - 1)) for k, x in noisy.items()}, {})

    mask = {k: torch.ones(x.shape[: 2 if k == "tokens" else 1], dtype=torch.bool) for k, x in noisy.items()}
    time = {k: torch.full((2,), 0.5) for k in noisy}
    return guidance(Shifted())(noisy, time, labels(2), mask).pred


def test_channels_of_joint_components_are_given_by_name():
    """A representation that is denoised beside the picture is guided whole, however many numbers it has."""
    noisy = {"image": torch.zeros(2, 4, 3, 3), "tokens": torch.zeros(2, 9, 8), "scalar": torch.zeros(2)}
    pred = several(Guidance(3.0, channels={"image": 3}), **noisy)
    assert pred["image"][:, :3].unique().tolist() == [3] and pred["image"][:, 3].unique().tolist() == [1]
    assert pred["tokens"].unique().tolist() == [3] == pred["scalar"].unique().tolist()
    both = several(Guidance(3.0, channels={"image": 3, "tokens": 2}), **noisy)["tokens"]
    assert both[..., :2].unique().tolist() == [3] and both[..., 2:].unique().tolist() == [1]


def test_a_number_of_channels_is_for_the_only_component_that_has_them():
    image, scalar = torch.zeros(2, 4, 3, 3), torch.zeros(2)
    pred = several(Guidance(3.0, channels=3), image=image, scalar=scalar)
    assert pred["image"][:, 3].unique().tolist() == [1] and pred["scalar"].tolist() == [3, 3]
    for channels, noisy, message in (
        (
            3,
            {"image": image, "tokens": torch.zeros(2, 9, 8)},
            r"do are \['image', 'tokens'\]: name it, as in channels={image: 3}",
        ),
        (3, {"scalar": scalar}, r"3 channels needs one component that has any; those that do are \[\]$"),
        (
            {"scalar": 1},
            {"image": image, "scalar": scalar},
            r"1 channels of 'scalar', which has none: choices are \['image'\]",
        ),
        ({"picture": 3}, {"image": image}, r"3 channels of 'picture', which has none: choices are \['image'\]"),
    ):
        with pytest.raises(MultigenError, match=message):
            several(Guidance(3.0, channels=channels), **noisy)


def test_autoguidance_moves_away_from_a_weaker_network_under_the_same_condition():
    strong, weak = GaussianOracle(Gaussian(), MEANS), GaussianOracle(Gaussian(), MEANS, deviation=0.8)
    guided = call(Guidance(2.0, weak=weak)(strong), states(), 0.5, labels(7))
    expected = 2 * call(strong, states(), 0.5, labels(7)) - call(weak, states(), 0.5, labels(7))
    assert torch.allclose(guided, expected)
    assert (weak.seen[2]["label"] == 1).all()


@pytest.mark.parametrize("process", [Masked(3), Uniform(3)], ids=["masked", "uniform"])
def test_categorical_predictions_are_combined_as_log_probabilities(process):
    """p_guided ~ p_weak (p_strong / p_weak)^scale, sampled."""
    strong = torch.tensor([0.2, 0.5, 0.3]).double()
    weak = torch.tensor([0.4, 0.3, 0.3]).double()
    expected = weak * (strong / weak) ** 2
    guide = Guidance(2.0, weak=TableOracle(weak, process))
    sampler = Sampler(Grid(1), guide=guide, discrete=Jump())
    x = sampler(TableOracle(strong, process), {"x": process}, blank(4000, 1, dtype=torch.long))["x"]
    assert fits(x, expected)


def test_a_spare_logit_for_the_mask_does_not_matter():
    process = Masked(3)
    with_spare = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))

    class Fixed(Counted):
        def predict(self, x, t, cond):
            return with_spare[..., : self.width] * (2.0 if cond["label"][0] >= 0 else 1.0)

    probs = []
    for width in (3, 4):
        network = Fixed()
        network.width = width
        pred = call(Guidance(1.7)(network), torch.full((5, 2), 3), 0.5, labels(5))
        probs.append(process.logits(pred).softmax(-1))
    assert torch.allclose(*probs, atol=1e-6)


def test_a_guided_network_is_a_denoiser_and_keeps_the_taps_of_the_strong_one():
    class Tapped(GaussianOracle):
        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            output = super().__call__(noisy, t, cond, mask, prev, taps)
            return Output(output.pred, dict.fromkeys(taps, "strong" if cond["label"][0] >= 0 else "weak"))

    guided = Guidance(2.0)(Tapped(Gaussian(), MEANS))
    assert isinstance(guided, Guided) and isinstance(guided, Denoiser)
    ones = torch.ones(2, dtype=torch.bool)
    output = guided({"x": states(2)}, {"x": torch.full((2,), 0.5)}, labels(2), {"x": ones}, taps=["h"])
    assert output.taps == {"h": "strong"}
    assert guided.null(labels(2))["label"].tolist() == [-1, -1]


def test_components_are_guided_each_at_its_own_time():
    class Two:
        def null(self, cond):
            return {"label": cond["label"] * 0}

        def __call__(self, noisy, t, cond, mask, prev=None, taps=()):
            return Output({k: x + cond["label"][:, None] for k, x in noisy.items()}, {})

    ones = torch.ones(2, dtype=torch.bool)
    template = Batch({}, dict.fromkeys("ab", ones), {}, keys(0, [0, 1]), labels(2))
    noisy = {k: torch.zeros(2, 1) for k in "ab"}
    t = {"a": torch.tensor([0.2, 0.8]), "b": torch.tensor([0.8, 0.8])}
    pred = Guidance(3.0, (0.0, 0.5))(Two())(noisy, t, template.cond, template.mask).pred
    assert pred["a"].flatten().tolist() == [3, 1] and pred["b"].flatten().tolist() == [1, 1]


@pytest.mark.parametrize(
    "settings", [{"interval": (0.7, 0.2)}, {"interval": (-1, 1)}, {"rescale": 1.5}, {"rescale": -math.pi}]
)
def test_bad_settings_are_named(settings):
    with pytest.raises(MultigenError, match=r"guidance (interval|rescale)"):
        Guidance(2.0, **settings)
