"""The smallest modality: its data, its parts, and a representation as target, as component and as condition."""

from __future__ import annotations

import copy
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch

from modalities.points.data import SHAPES, Mixture
from modalities.points.denoiser import MLP
from modalities.points.encoders import RandomFeatures
from modalities.points.metrics import Truth, energy_distance
from modalities.points.modality import Points, Sample
from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.random import keys
from multigen.sampling import Grid, Hold, Sampler
from multigen.state import Batch, MultigenError

# ------------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("shape", SHAPES)
def test_example_is_a_function_of_its_index(shape):
    few, many = Mixture(shape, count=10), Mixture(shape, count=1000)
    assert torch.equal(few.points, many.points[:10])
    assert torch.equal(few.labels, many.labels[:10])
    assert not torch.equal(few.points, Mixture(shape, "valid", count=10).points)
    assert not torch.equal(few.points, Mixture(shape, count=10, seed=1).points)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_unit_scale_and_classes_of_equal_size(shape):
    data = Mixture(shape, count=4000)
    assert data.points.mean(0).abs().max() < 0.1
    assert 0.5 < data.points.std(0).min() <= data.points.std(0).max() < 1.3
    assert (torch.bincount(data.labels) / len(data) - 1 / data.classes).abs().max() < 0.03


@pytest.mark.parametrize("shape", SHAPES)
def test_classes_lie_apart(shape):
    """The nearest neighbour in another set tells the class."""
    truth, data = Truth(Mixture(shape, "valid", count=2000)), Mixture(shape, count=500)
    assert (truth.classify(data.points) == data.labels).double().mean() > 0.98


def test_fingerprints():
    prints = [Mixture(*args, count=4).fingerprint for args in [("ring",), ("moons",), ("ring", "valid")]]
    prints += [Mixture(count=5).fingerprint, Mixture(count=4, seed=1).fingerprint]
    prints += [RandomFeatures(*args).fingerprint for args in [(8,), (4,), (8, 2.0), (8, 1.0, 1)]]
    assert len(set(prints)) == len(prints)


def test_unknown_shape():
    with pytest.raises(MultigenError, match="'rings': did you mean 'ring'"):
        Mixture("rings")


# ------------------------------------------------------------------------------------------------------------------ parts


def test_random_features_are_a_kernel():
    """Products of features estimate exp(-|x - y|^2 / 2) (Rahimi and Recht 2007, section 3.1)."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    z = RandomFeatures(20_000).features(x)
    assert torch.allclose(z @ z.T / z.shape[1], torch.exp(-(torch.cdist(x, x) ** 2) / 2), atol=0.02)


def _points(**settings):
    return Points(Mixture(count=32), encoders={"z": RandomFeatures(4)}, **settings)


def _batch(modality, index=range(5)):
    data = modality.source
    return modality.encode(modality.collate([data[i] for i in index], list(index)))


@pytest.mark.parametrize(
    ("components", "conditions", "target"),
    [
        (["point"], [], ["z"]),
        (["point"], ["label"], ["z"]),
        (["point", "z"], ["label"], []),
        (["point", "label", "z"], [], []),
        (["point", "label"], ["z"], []),
    ],
)
def test_configuration_says_where_things_lie(components, conditions, target):
    modality = _points(components=components, conditions=conditions)
    for batch in (_batch(modality), modality.template([0, 4], 1)):
        assert list(batch.clean) == list(batch.mask) == list(batch.free) == components
        assert list(batch.cond) == conditions
    assert list(_batch(modality).target) == target


def test_template_gives_what_is_given_and_shows_nothing_else():
    modality = _points(components=["point", "label", "z"], given=["label"])
    batch = modality.template(range(20), 0)
    assert batch.free["point"].all() and batch.free["z"].all() and not batch.free["label"].any()
    assert not batch.clean["point"].any() and not batch.clean["z"].any() and batch.clean["label"].any()


def test_representation_from_nowhere():
    with pytest.raises(MultigenError, match="component 'z' comes from neither"):
        _batch(Points(Mixture(count=8), ["point", "z"]))


def test_decode_keeps_labels_and_drops_what_is_not_finite():
    modality = _points(conditions=["label"])
    batch = modality.template([0, 1], 0)
    samples = modality.decode({"point": torch.tensor([[0.5, 1.0], [math.nan, 0.0]])}, batch)
    assert samples[0].label == batch.cond["label"][0] and samples[0].point.tolist() == [0.5, 1.0]
    assert samples[1] is None


def test_network_names_what_it_lacks():
    with pytest.raises(MultigenError, match="component 'z' is neither"):
        MLP(["point", "z"])
    with pytest.raises(MultigenError, match="reads 'label', which the batch lacks"):
        MLP(classes={"label": 8})({"point": torch.zeros(1, 2)}, {"point": torch.zeros(1)}, {}, {})


def test_energy_distance():
    normal = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[:, None]  # (N, 1), quantiles of N(0, 1)
    assert energy_distance(torch.zeros(5, 2), torch.full((7, 2), 3.0)) == pytest.approx(2 * math.hypot(3, 3))
    assert energy_distance(normal, normal) == pytest.approx(0, abs=5e-3)
    m = 1.0  # E|N(m, 2)| in closed form
    across = 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    assert energy_distance(normal, normal + m) == pytest.approx(2 * (across - 2 / math.sqrt(math.pi)), rel=0.01)


def test_truth_sees_wrong_labels_and_lost_classes():
    valid, data = Mixture(split="valid", count=1000), Mixture(count=1000)
    template = Batch({}, {}, {}, keys(0, range(1000)))

    def measured(points, labels):
        truth = Truth(valid)
        truth.update([Sample(p.double().numpy(), int(y)) for p, y in zip(points, labels, strict=True)], template)
        return truth.compute()

    good = measured(data.points, data.labels)
    assert good["label_accuracy"] > 0.99 and good["frequency_error"] < 0.06 and good["energy_distance"] < 0.01
    assert measured(data.points, (data.labels + 1) % 8)["label_accuracy"] < 0.01
    half = data.labels < 4
    lost = measured(data.points[half], data.labels[half])
    assert lost["frequency_error"] == pytest.approx(0.5, abs=0.05) and lost["energy_distance"] > 0.1


# ------------------------------------------------------------------------------------- a representation in its three places

COUNT = 600


def trained(name: str, steps: int, *overrides: str) -> Experiment:
    """A shipped experiment, trained for a few seconds."""
    settings = ["denoiser.width=64", "optimizer.lr=8.0e-3", "data.train.count=4096", "data.valid.count=1000", *overrides]
    experiment = Experiment(compose("train", [f"experiment=points/{name}", *settings]))
    diffusion, modality, data = experiment.diffusion, experiment.modality, experiment.train
    everything = modality.encode(modality.collate([data[i] for i in range(len(data))], range(len(data))))
    optimizer = torch.optim.AdamW(diffusion.parameters(), lr=8e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / steps)))
    for step in range(steps):
        positions = torch.arange(step * 256, (step + 1) * 256)
        batch = everything.map(lambda x, p=positions: x[p % len(data)]).replace(key=keys(0, positions))
        losses = diffusion(batch, step)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        schedule.step()
    experiment.last = {k: float(x) for k, x in losses.parts.items()}  # type: ignore[attr-defined]
    diffusion.eval()
    return experiment


def measured(experiment: Experiment, state, template) -> dict[str, float]:
    truth = experiment.metrics["truth"]
    truth.samples.clear()
    truth.update(experiment.modality.decode(state, template), template)
    return truth.compute()


def z_error(experiment: Experiment, point, z) -> float:
    """Root mean square between a representation and that of a point; two that are unrelated differ by about 1.4."""
    return float((experiment.encoders["z"].features(point.float()) - z.float()).pow(2).mean().sqrt())


def test_z_as_target():
    """The hidden feature learns to predict it, and the objective reaches the denoiser's first block."""
    experiment = trained("repa", 80)
    assert experiment.last["z"] < -0.9
    weights = experiment.diffusion.objective.weights
    assert weights["z"] == 0.5 and experiment.diffusion.objective.taps == {"block1"}


def test_z_as_condition():
    """Samples are of the z that they were given, and of no other."""
    experiment = trained("conditioned", 250)
    template = experiment.modality.template(range(COUNT), 0)
    state = Sampler(Grid(20))(experiment.denoiser, experiment.processes, template)
    given = template.cond["z"]
    assert z_error(experiment, state["point"], given) < 0.4
    assert z_error(experiment, state["point"], given.roll(1, 0)) > 1
    assert measured(experiment, state, template)["frequency_error"] < 0.1


@pytest.fixture(scope="module")
def joint() -> Experiment:
    return trained("joint", 400)


def drawn(experiment: Experiment, given=(), hidden=(), sampler: Sampler | None = None):
    """Samples of a joint model with some components given and some hidden: (state, template)."""
    grids = {**{k: Hold(1) for k in given}, **{k: Hold(0) for k in hidden}}
    modality = copy.copy(experiment.modality)
    modality.given = given  # type: ignore[attr-defined]
    template = modality.template(range(COUNT), 0)
    sampler = sampler or Sampler(Grid(20), grids)
    return sampler(experiment.denoiser, experiment.processes, template), template


EVERY = [[], ["label"], ["point"], ["z"], ["label", "z"], ["point", "z"], ["point", "label"]]


@pytest.mark.parametrize("given", EVERY, ids="-".join)
def test_one_model_makes_everything_and_everything_given_anything(joint, given):
    state, template = drawn(joint, given)
    assert all(torch.equal(state[k].to(template.clean[k].dtype), template.clean[k]) for k in given)
    measures = measured(joint, state, template)
    assert measures["label_accuracy"] > 0.85  # p(point | label), p(label | point), ...: chance is 1/8
    assert measures["frequency_error"] < 0.15
    assert measures["energy_distance"] < 0.05
    assert z_error(joint, state["point"], state["z"]) < 0.6


@pytest.mark.parametrize("given", ["label", "point"])
def test_a_component_may_be_hidden(joint, given):
    """p(point | label) and p(label | point) without z, which stays the noise that it was."""
    state, template = drawn(joint, [given], ["z"])
    assert measured(joint, state, template)["label_accuracy"] > 0.8
    assert z_error(joint, state["point"], state["z"]) > 1
    assert state["z"].std() == pytest.approx(1, abs=0.05)


def test_z_first_and_then_what_it_stands_for(joint):
    """Of the same weights: z is made while point and label are hidden, then they are made from it."""
    config = compose("train", ["experiment=points/representation_first", "sampler.grid.steps=15"])
    sampler = Experiment(config).sampler
    seen, states = [], []

    class Watched(torch.nn.Module):
        def forward(self, noisy, t, *rest, **options):
            seen.append({k: float(x[0]) for k, x in t.items()})
            states.append(noisy)
            return joint.denoiser(noisy, t, *rest, **options)

    template = joint.modality.template(range(COUNT), 0)
    state = sampler(Watched(), joint.processes, template)
    assert len(seen) == 30
    assert all(t["point"] == t["label"] == 0 for t in seen[:15]) and all(t["z"] == 1 for t in seen[15:])
    assert torch.equal(states[0]["point"], states[15]["point"]) and torch.equal(states[15]["z"], state["z"].float())
    measures = measured(joint, state, template)
    assert measures["label_accuracy"] > 0.85 and measures["frequency_error"] < 0.2
    assert z_error(joint, state["point"], state["z"]) < 0.6


def test_readme(capsys):
    text = (Path(import_module("modalities.points").__file__).parent / "README.md").read_text()
    exec(text.split("```python")[1].split("```")[0], {})
    assert "Sample(point=array(" in capsys.readouterr().out
