"""The published setting of REED, REPA and SiT on ImageNet, number by number, and what the files say about themselves."""

from __future__ import annotations

import pytest
import torch

from multigen.build import compose, config_dir
from multigen.build.experiment import Experiment
from multigen.cli.catalogue import comment
from multigen.cli.diagnose import _taught
from multigen.curriculum import weight_at
from multigen.process import Gaussian
from multigen.sampling import EulerMaruyama
from multigen.state import MultigenError

NAMES = ("sit", "repa", "reed", "dit")


def made(name, *overrides):
    with torch.device("meta"):
        experiment = Experiment(compose("train", [f"experiment=image/imagenet256_{name}", *overrides]))
        _ = experiment.diffusion
    return experiment


@pytest.mark.parametrize("name", NAMES)
def test_what_the_arms_share(name):
    experiment = made(name)
    config, net = experiment.config, experiment.denoiser
    optimizer = config["optimizer"]
    assert (optimizer["_target_"], optimizer["lr"], optimizer["weight_decay"]) == ("torch.optim.AdamW", 1e-4, 0.0)
    trainer = config["trainer"]
    assert (trainer["batch_size"], trainer["clip"], trainer["steps"]) == (256, 1.0, 1_000_000)
    assert (trainer["ema"], trainer["ema_warmup"]) == ([0.9999], False)
    assert experiment.diffusion.drop == 0.1 and config["modality"]["scale"] == 0.18215
    assert config["modality"]["labels"] == "uniform"
    assert (net.size, net.channels, net.patch, net.classes, len(net.blocks)) == (32, 4, 2, 1000, 28)
    assert experiment.sampler.grid.steps == 250


@pytest.mark.parametrize("name", ["sit", "repa", "reed"])
def test_velocity_on_the_linear_path_sampled_by_the_sde(name):
    experiment = made(name)
    assert experiment.processes == {"image": Gaussian("velocity")}
    times = experiment.sampler.grid.times()
    assert (
        len(times) == 251
        and times[0] == 0
        and times[-2:] == [0.96, 1.0]
        and experiment.sampler.continuous == EulerMaruyama(1.0)
    )


def test_reed_is_two_targets_at_two_depths_and_a_curriculum():
    objective = made("reed").diffusion.objective
    terms, weights = objective.terms, objective.weights
    assert {k: (terms[k].tap, terms[k].target, terms[k].pool) for k in ("patches", "captions")} == {
        "patches": ("block8", "tokens", False),
        "captions": ("block16", "caption", True),
    }
    assert (weights["patches"], weights["captions"]) == (0.5 * 1.0, 0.5 * 0.5)
    assert [weight_at(weights["denoise"], n) for n in (0, 25_000, 50_000, 900_000)] == [0.0, 0.5, 1.0, 1.0]
    shapes = [[tuple(layer.weight.shape) for layer in list(terms[k].projector)[::2]] for k in ("patches", "captions")]
    assert shapes == [[(2048, 1152), (2048, 2048), (z, 2048)] for z in (768, 3584)]
    assert all(isinstance(layer, torch.nn.SiLU) for layer in list(terms["patches"].projector)[1::2])


@pytest.mark.parametrize(
    ("size", "taps"), [("s", ["block3", "block7"]), ("b", ["block3", "block7"]), ("l", ["block7", "block14"])]
)
def test_taps_lie_as_far_into_a_smaller_network(size, taps):
    experiment = made("reed", f"denoiser=sit_{size}", "denoiser.width=64", "denoiser.heads=2")
    terms = experiment.diffusion.objective.terms
    assert [terms[k].tap for k in ("patches", "captions")] == taps
    assert set(taps) <= set(experiment.denoiser.tap_names)


def test_a_tap_that_the_network_lacks_is_refused_before_the_first_step():
    with pytest.raises(MultigenError, match=r"^objective\.terms\.captions: the network has no tap 'block16'.*'?block12"):
        made("reed", "denoiser=sit_b", "objective.terms.captions.tap=block16")


@pytest.mark.parametrize("name", ["sit", "repa", "reed"])
def test_the_checkpoints_of_published_figures_are_kept(name):
    config = compose("train", [f"experiment=image/imagenet256_{name}"])
    published = compose("benchmark", ["domain=imagenet"])["domain"]["about"]["expected"]
    assert config["trainer"]["keep_every"] == 50_000 and 50_000 % config["trainer"]["checkpoint_every"] == 0
    assert all(n % 50_000 == 0 for arm in ("vanilla", "repa", "reed") for n in published[arm])


def test_a_diagnosis_of_the_baseline_reads_what_another_experiment_reads():
    sit, reed = (compose("train", [f"experiment=image/imagenet256_{name}"]) for name in ("sit", "reed"))
    assert sit["data"]["valid"]["targets"] == []
    assert _taught(sit, reed)["data"]["valid"] == {**sit["data"]["valid"], "targets": ["tokens", "caption"]}
    assert _taught(sit, compose("train", ["experiment=image/emoji_reed"]))["data"] == sit["data"]


def test_published_numbers_of_parameters_with_heads():
    """The published network of REED counts 697.14 M, its position table included."""
    diffusion = made("reed").diffusion
    count = sum(p.numel() for p in diffusion.parameters()) + diffusion.denoiser.position.numel()
    assert count / 1e6 == pytest.approx(697.14, abs=0.01)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size, millions", [("s", 32.96), ("b", 130.5), ("l", 458.1), ("xl", 675.1)])
def test_published_numbers_of_parameters(size, patch, millions):
    """I1. Published counts hold the position table, which is no parameter here."""
    net = made("sit", f"denoiser=sit_{size}", f"denoiser.patch={patch}").denoiser
    count = sum(p.numel() for p in net.parameters()) + net.position.numel()
    assert count / 1e6 == pytest.approx(millions, abs=0.3 if patch > 2 else 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_reads_as_a_lab_note(name):
    note = comment(config_dir() / "experiment" / "image" / f"imagenet256_{name}.yaml")
    begun = [line.split()[0] for line in note if line and not line.startswith(" ")]
    assert [word for word in ("command", "hardware", "hours", "expected", "measured") if word in begun] == [
        "command",
        "hardware",
        "hours",
        "expected",
        "measured",
    ]
