"""Every shipped configuration is composed, made, trained for a step and sampled from."""

from __future__ import annotations

import pytest
import stand_in
import torch
import yaml

from multigen.build import compose, config_dir, make, options
from multigen.build.experiment import Experiment
from multigen.build.make import check
from multigen.cli.catalogue import comment, describe, experiments, help_text
from multigen.cli.evaluate import with_data
from multigen.cli.main import COMMANDS
from multigen.cli.prepare import prepare_targets
from multigen.random import keys
from multigen.run import Run
from multigen.state import MultigenError

FILES = sorted(config_dir().rglob("*.yaml"))
SMALL = [
    "trainer.steps=1", "trainer.workers=0", "trainer.progress=false", "trainer.log_to=[]", "device=cpu",
    "sampler.grid.steps=2", "trainer.observers.validation.limit=2",
]  # fmt: skip
BY_NUMBER = ["trainer.batch_size=4", "trainer.observers.samples.n=2"]
BY_TOKENS = ["trainer.batch_tokens=64", "trainer.precision=bf16"]  # fp16 needs an accelerator


def composed(name, *overrides):
    """A shipped experiment; a key that it wants a user to give is given."""
    needed = ["data.path=DIR"] if "/pdb_" in name or "/geom_" in name else []
    return compose("train", [f"experiment={name}", *needed, *(["embeddings=DIR"] if "pdb_reed" in name else []), *overrides])


SMALL_SIT = ["denoiser.width=16", "denoiser.depth=4", "denoiser.heads=2", "trainer.workers=0", "trainer.precision=no"]


def small(name):
    """Overrides for a run of one step."""
    if "imagenet256" in name:
        return [*SMALL, *BY_NUMBER, *SMALL_SIT]
    shallow = ["denoiser.layers=5"] if "/geom_" in name else []
    return [*SMALL, *shallow, *(BY_TOKENS if name.startswith(("protein/", "molecule/")) else BY_NUMBER)]


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """A data root with stand-ins; caches that one experiment makes are found by the next."""
    root = tmp_path_factory.mktemp("data")
    stand_in.emoji(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIGEN_DATA", str(root))
        yield root


def targets(node):
    if isinstance(node, dict):
        yield from [node] if "_target_" in node else []
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("name", options("experiment"))
def test_experiment_runs(name, small_data, tmp_path):
    config = stand_in.replaced(composed(name, *small(name)))
    experiment = Experiment(config)
    if config["targets"] == "cached":
        prepare_targets(experiment, {"batch_size": 8, "device": "cpu", "workers": 0, "jobs": 1})
    trainer = experiment.trainer(Run(tmp_path / "run", config))
    trainer.fit()
    logged = Run(tmp_path / "run").history()
    terms = {key.removeprefix("loss/").split("/")[0] for row in logged for key in row if key.startswith("loss/")}
    assert terms == set(config["objective"]["terms"])
    assert any("valid" in row for row in logged)
    template = experiment.modality.template([0, 1], seed=0)
    state = experiment.sampler(experiment.denoiser.eval(), experiment.processes, template)
    assert set(state) >= set(config["processes"])
    assert all(sample is not None for sample in experiment.modality.decode(state, template))


@pytest.mark.parametrize("name", options("experiment"))
def test_every_component_exists_and_takes_what_it_is_given(name):
    config = composed(name)
    found = list(targets(config))
    assert found
    for node in found:
        check(node, name)


SIDES = {"train": "train", "held_out": "valid"}
"""What metrics call the sides of the data."""


@pytest.mark.parametrize("name", options("metrics"))
def test_every_metric_exists_and_takes_what_it_is_given(name):
    config = compose("evaluate", [f"metrics={name}", "reference=FILE"])
    assert list(config["metrics"]) == [name]
    for node in [*targets(config["metrics"]), config["reader"]]:
        check(node, name)
    metric = config["metrics"][name]
    assert metric.get("reference", "FILE") == "FILE"
    for measure in make(metric.get("measures") or {}, name).values():
        assert measure.meaning and measure.published.keys() <= {*measure.meaning, *(f"{k}_std" for k in measure.meaning)}


def test_a_metric_compares_with_the_runs_own_data_unless_told_otherwise():
    data = {"train": {"split": "train"}, "valid": {"split": "valid"}}
    node = {"train": None, "held_out": None, "reference": None, "limit": None}
    found = with_data({"a": node, "b": {"held_out": "mine", "limit": 3}, "c": None}, None, data)
    assert found["a"] == {"train": data["train"], "held_out": data["valid"], "reference": data["train"], "limit": None}
    assert found["b"] == {"held_out": "mine", "limit": 3} and found["c"] is None
    assert with_data({"a": {**node, "reference": "old"}}, "FILE", data)["a"]["reference"] == "FILE"


@pytest.mark.parametrize("name", options("experiment"))
def test_experiment_says_what_it_is(name):
    assert describe(config_dir() / "experiment" / f"{name}.yaml") == experiments()[name] != ""
    assert composed(name)["name"] == name


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("sampler", "times", "objective") for name in options(group)]
)
def test_choice_goes_with_an_experiment(choice):
    fitting = {
        "sequence": "protein/sequence_reed",
        "protein": "protein/reed",
        "molecule": "molecule/reed",
        "objective": "image/emoji_reed",
    }
    experiment = next((name for word, name in fitting.items() if word in choice), "points/vanilla")
    config = compose("train", [f"experiment={experiment}", choice])
    group = choice.partition("=")[0]
    assert make(config[group], group) is not None


@pytest.mark.parametrize("given", ["denoiser=steerable denoiser.layers=6 denoiser.width=8", "denoiser=semla denoiser.width=8"])
def test_molecules_by_another_network(given, small_data, tmp_path):
    config = stand_in.replaced(composed("molecule/reed", *small("molecule/reed"), *given.split()))
    experiment = Experiment(config)
    prepare_targets(experiment, {"batch_size": 8, "device": "cpu", "workers": 0, "jobs": 1})
    experiment.trainer(Run(tmp_path / "run", config)).fit()
    (row,) = [row for row in Run(tmp_path / "run").history() if "loss" in row]
    assert all(row[f"loss/{term}"] == row[f"loss/{term}"] for term in ("graph", "atoms", "name", "denoise/coords"))


@pytest.mark.parametrize("name", ["vanilla", "reed"])
def test_sequences_may_come_from_the_smaller_set(name):
    config = compose("train", [f"experiment=protein/sequence_{name}", "data=cgdms"])
    metrics, data = config["metrics"].values(), config["data"]
    assert "cgdms" in data["train"]["_target_"] and config["modality"]["source"] == data["train"]
    assert all(metric[key] == data[split] for metric in metrics for key, split in SIDES.items() if key in metric)


@pytest.mark.parametrize("name", [name for name in options("sampler") if not name.startswith("unmasking")])
def test_sampler_samples(name):
    experiment = Experiment(compose("train", ["experiment=points/vanilla", f"sampler={name}"]))
    template = experiment.modality.template(range(3), seed=0)
    point = experiment.sampler(experiment.denoiser.eval(), experiment.processes, template)["point"]
    assert point.shape == (3, 2) and point.isfinite().all()


def test_the_seed_alone_decides_the_initial_weights():
    """Arms of a comparison that differ in their objective start from the same network."""
    names = [("points/vanilla", 0), ("points/repa", 0), ("points/vanilla", 1)]
    made = [Experiment(compose("train", [f"experiment={name}", f"seed={seed}"])) for name, seed in names]
    first, second, other = (torch.cat([p.flatten() for p in e.diffusion.denoiser.parameters()]) for e in made)
    assert torch.equal(first, second) and not torch.equal(first, other)
    before = torch.get_rng_state()
    _ = Experiment(made[1].config).diffusion
    assert torch.equal(before, torch.get_rng_state())


def test_cached_and_online_targets_agree(small_data):
    given = ["experiment=points/repa", "+cache.z.dtype=float32"]
    online = Experiment(compose("train", [*given, "targets=online"]))
    prepare_targets(online, {"batch_size": 512, "device": "cpu", "workers": 0, "jobs": 1})
    cached = Experiment(compose("train", [*given, "targets=cached"]))
    losses = []
    for experiment in (online, cached):
        key = keys(0, range(8))
        batch = experiment.modality.collate([experiment.train[i] for i in range(8)], key.tolist())
        losses.append(experiment.diffusion.eval()(experiment.modality.encode(batch), step=3))
    torch.testing.assert_close(losses[0].total, losses[1].total)
    assert set(losses[0].parts) == {"denoise/point", "z"}


def test_a_pairing_changes_targets_alone():
    given = ["experiment=points/repa", "data.train.count=40"]
    own, shuffled, noise = (
        Experiment(compose("train", [*given, f"pairing={pairing}"])) for pairing in ("own", "shuffled", "random")
    )
    key = keys(0, range(8))
    batches = [
        e.modality.encode(e.modality.collate([e.train[i] for i in range(8)], key.tolist())) for e in (own, shuffled, noise)
    ]
    for batch in batches[1:]:
        assert batch.clean["point"].equal(batches[0].clean["point"]) and batch.cond["label"].equal(batches[0].cond["label"])
        assert not torch.isclose(batch.target["z"].value, batches[0].target["z"].value).all(-1).any()
    assert len({e.train.fingerprint for e in (own, shuffled, noise)}) == 3
    with pytest.raises(MultigenError, match="the data have none"):
        _ = Experiment(compose("train", ["experiment=points/vanilla", "pairing=random"])).train


@pytest.mark.parametrize(("name", "pairing"), [("protein/reed", "shuffled"), ("image/emoji_reed", "random")])
def test_controls_of_cached_targets_train(name, pairing, small_data, tmp_path):
    config = stand_in.replaced(composed(name, *small(name), f"pairing={pairing}"))
    experiment = Experiment(config)
    prepare_targets(experiment, {"batch_size": 8, "device": "cpu", "workers": 0, "jobs": 1})
    experiment.trainer(Run(tmp_path / "run", config)).fit()
    (row,) = [row for row in Run(tmp_path / "run").history() if "loss" in row]
    assert all(row[f"loss/{term}"] is not None for term in config["objective"]["terms"] if term not in ("denoise", "recall"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(config_dir()).as_posix())
def test_file_is_yaml_that_begins_with_what_it_is(path):
    yaml.safe_load(path.read_text())
    assert comment(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_composed(command):
    compose(command)


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_help_names_every_sampler(command):
    assert f"{', '.join(options('sampler'))}; the run's own sampler if not given" in help_text(command)


def test_a_folder_of_pictures_trains_like_the_embedded_data(small_data, tmp_path):
    from PIL import Image

    for i in range(24):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (10 * i, 0, 255 - 10 * i)).save(path)
    choice = ["experiment=image/emoji_vanilla", "data=folder", "modality.classes=2", "metrics={}", *SMALL, *BY_NUMBER]
    with pytest.raises(MultigenError, match=r"data\.path is needed"):
        compose("train", choice)
    config = compose("train", [*choice, f"data.path={tmp_path / 'pictures'}"])
    experiment = Experiment(config)
    experiment.prepare_data()
    experiment.trainer(Run(tmp_path / "run", config)).fit()
    assert len(experiment.train) + len(experiment.valid) == 24 and list(experiment.train.classes) == ["a", "b"]
    (tmp_path / "pictures" / "a" / "broken.png").write_text("no picture")
    with pytest.raises(MultigenError, match=r"broken\.png is not a readable image"):
        _ = Experiment(config).train


def test_pictures_become_latents_that_are_trained_on(small_data, tmp_path):
    """The chain on a folder: an autoencoder of its own, latents, teachers, training, pictures; targets cached and online."""
    pytest.importorskip("diffusers")
    from PIL import Image

    for i in range(24):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (10 * i, 0, 255 - 10 * i)).save(path)
        path.with_suffix(".txt").write_text(f"number {i}")
    own = [f"data.path={tmp_path / 'pictures'}", "data.name=own", "data.pixels=16", "data.train.size=4", "data.raw_size=32"]
    vae = ["data.autoencoder.steps=2", "data.autoencoder.channels=[8,8,8]", "data.autoencoder.batch_size=4"]
    shape = [
        "modality.classes=2",
        "denoiser.width=16",
        "denoiser.heads=2",
        "encoders.tokens.size=32",
        "encoders.tokens.grid=2",
    ]
    given = [*own, *vae, *shape, "cache.tokens.whiten=2", "~metrics.features", *SMALL, *BY_NUMBER]
    config = composed("image/emoji_latents_reed", *given)
    config["encoders"] = stand_in.replaced(config["encoders"])
    experiment = Experiment(config)
    assert experiment.prepare_data() == small_data / "own"
    prepare_targets(experiment, {"batch_size": 8, "device": "cpu", "workers": 0, "jobs": 1})
    teachers = experiment.encoders
    for targets in ("cached", "online"):
        experiment = Experiment(config | {"targets": targets})
        experiment.encoders = teachers  # random weights are drawn anew
        run = Run(tmp_path / targets, experiment.config)
        experiment.trainer(run).fit()
        (row,) = [row for row in run.history() if "loss" in row]
        assert {"loss/denoise/image", "loss/patches", "loss/captions"} <= row.keys()
    template = experiment.modality.template([0, 1], seed=0)
    state = experiment.sampler(experiment.denoiser.eval(), experiment.processes, template)
    assert [sample.shape for sample in experiment.modality.decode(state, template)] == [(16, 16, 3)] * 2


def test_latents_of_ones_own_go_with_the_published_experiments():
    config = compose(
        "prepare", ["experiment=image/imagenet256_sit", "data=latents", "data.path=DIR", "data.name=mine", "jobs=4"]
    )
    assert (
        config["data"]["prepare"]["jobs"] == 4 and config["modality"]["latents"] == config["data"]["train"]["name"] == "mine"
    )
    check(config["data"]["prepare"], "data.prepare")
    teacher = "{_target_: modalities.image.encoders.Timm, model: vit_base_patch14_dinov2.lvd142m, size: 224, grid: 16}"
    config = compose("prepare", ["experiment=image/imagenet256_repa", "data.path=DIR", f"+encoders.tokens={teacher}"])
    check(config["encoders"]["tokens"], "encoders.tokens")
