"""The published setting of molecules, SemlaFlow on GEOM-Drugs without guidance and with REED, number by number."""

from __future__ import annotations

import pytest
import torch

from multigen.build import compose, make
from multigen.build.experiment import Experiment
from multigen.curriculum import weight_at
from multigen.interpolation import Never
from multigen.process import Gaussian, Masked, Uniform
from multigen.sampling import Grid
from multigen.times import Beta, Shared

NAMES = ("vanilla", "repa", "reed")
EPOCH = 13_000
"""Steps: batches of 4,096 atoms out of five conformers of 243,000 molecules."""


def made(name):
    with torch.device("meta"):
        experiment = Experiment(compose("train", [f"experiment=molecule/geom_{name}", "data.path=DIR"]))
        _ = experiment.diffusion
    return experiment


@pytest.mark.parametrize("name", NAMES)
def test_steps(name):
    experiment = made(name)
    optimizer, trainer = experiment.config["optimizer"], experiment.config["trainer"]
    assert (optimizer["lr"], optimizer["amsgrad"]) == (3e-4, True)
    assert optimizer["weight_decay"] == 0 and optimizer["_target_"] == "torch.optim.AdamW"  # without decay that is Adam
    assert (trainer["batch_tokens"], trainer["batch_size"], trainer["precision"]) == (4096, None, "no")
    assert (trainer["clip"], trainer["ema"], trainer["steps"]) == (1.0, [0.999], 200 * EPOCH)
    schedule = make(trainer["schedule"], "trainer.schedule")
    assert [schedule(n) for n in (0, 5_000, 10_000, 10**6)] == pytest.approx([0.01, 0.505, 1, 1], abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_network(name):
    """M2: 23.3 M parameters."""
    experiment = made(name)
    config = experiment.config["denoiser"]
    assert [config[k] for k in ("width", "sets", "edges", "message", "layers", "heads")] == [384, 64, 128, 128, 12, 32]
    assert sum(p.numel() for p in experiment.denoiser.parameters()) / 1e6 == pytest.approx(23.30, abs=0.1)
    assert experiment.config["modality"]["scale"] == pytest.approx(2.4070)


@pytest.mark.parametrize("name", NAMES)
def test_interpolant(name):
    """M3: Beta(2, 1), noise 0.2 on the coordinates, uniform elements and bonds; charges are predicted only."""
    experiment = made(name)
    diffusion, processes = experiment.diffusion, experiment.processes
    assert set(processes) == {"coords", "atoms", "bonds", "charges"}
    assert processes["coords"] == Gaussian("clean", jitter=0.2)
    assert isinstance(processes["atoms"], Uniform) and isinstance(processes["bonds"], Uniform)
    assert processes["bonds"].classes == 5 and processes["charges"] == Masked(7, Never())
    assert diffusion.times == Shared(Beta(2.0, 1.0))
    assert experiment.config["modality"]["couple"] and experiment.config["modality"]["rotate"]


@pytest.mark.parametrize("name", NAMES)
def test_losses(name):
    """M4: elements weigh 0.2, all else 1; half of the steps are self-conditioned."""
    diffusion = made(name).diffusion
    assert diffusion.objective.terms["denoise"].weights == {"atoms": 0.2}
    assert (diffusion.self_conditioning, diffusion.drop) == (0.5, 0)


@pytest.mark.parametrize("name", NAMES)
def test_sampler(name):
    """M6: 100 steps that end at 0.99, and what is returned is the last prediction."""
    experiment = made(name)
    sampler = experiment.sampler
    assert sampler.grid == Grid(100, spacing="log") and sampler.grid.times()[-1] == pytest.approx(0.99)
    assert (sampler.discrete.noise, sampler.self_conditioning, sampler.result) == (1.0, True, "prediction")
    assert experiment.config["evaluate"]["n"] == 1000


@pytest.mark.parametrize("name", ["repa", "reed"])
def test_the_whole_molecule_is_aligned_at_the_fifth_of_twelve_layers(name):
    """M5, A3."""
    objective = made(name).diffusion.objective
    assert set(objective.terms) == {"denoise", "graph"}
    term = objective.terms["graph"]
    assert (term.tap, term.target, term.pool, objective.weights["graph"]) == ("layer5", "graph", True, 0.2)
    linears = list(term.projector)[::2]
    assert [tuple(layer.weight.shape) for layer in linears] == [(384, 384), (384, 384), (512, 384)]
    assert all(isinstance(layer, torch.nn.SiLU) for layer in list(term.projector)[1::2])


def test_reed_phases_denoising_in_over_30_of_200_epochs():
    """Counted from one: the first step has weight 1 / N, not 0."""
    weight = made("reed").diffusion.objective.weights["denoise"]
    n = 30 * EPOCH
    assert [weight_at(weight, k) for k in (0, n // 2 - 1, n - 1, 10 * n)] == pytest.approx([1 / n, 0.5, 1, 1])
    assert [made(name).diffusion.objective.weights["denoise"] for name in ("vanilla", "repa")] == [1.0, 1.0]
