"""The published setting of inverse folding on the PDB, without guidance and with REED, number by number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.curriculum import weight_at
from multigen.process import Masked
from multigen.sampling import Grid
from multigen.times import Shared, Uniform

EPOCH = 175
"""Steps: batches of 20,000 residues out of 23,000 chains."""
TARGETS = {"single": 384, "pair": 128, "structure": 768}
NEEDED = {"vanilla": ["data.path=DIR"], "reed": ["data.path=DIR", "embeddings=DIR"]}


def made(name):
    with torch.device("meta"):
        experiment = Experiment(compose("train", [f"experiment=protein/pdb_{name}", *NEEDED[name]]))
        _ = experiment.diffusion
    return experiment


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", NEEDED)
def test_data_and_steps(name):
    config = made(name).config
    for split in ("train", "valid"):
        data = config["data"][split]
        assert (data["split"], data["max_length"], data["resolution"], data["member"]) == (split, 256, 3.5, "first")
    optimizer, trainer = config["optimizer"], config["trainer"]
    assert (optimizer["_target_"], optimizer["lr"], optimizer["betas"]) == ("torch.optim.Adam", 1e-3, [0.9, 0.999])
    assert (optimizer["weight_decay"], trainer["clip"], trainer["ema"], trainer["schedule"]) == (0.0, None, [], 1.0)
    assert (trainer["batch_tokens"], trainer["batch_size"], trainer["precision"]) == (20_000, None, "fp16")
    assert trainer["steps"] == 200 * EPOCH and config["evaluate"]["n"] == 1455


@pytest.mark.parametrize("name", NEEDED)
def test_network(name):
    """P2: 2.404 M parameters without heads; no time input."""
    experiment = made(name)
    net, config = experiment.denoiser, experiment.config["denoiser"]
    assert (config["width"], len(net.encoder_layers), len(net.decoder_layers), len(net.edge_updates)) == (128, 3, 3, 3)
    assert (config["dropout"], net.noise, config["scale"], net.start is not None) == (0.1, 0.1, 30, True)
    assert experiment.config["modality"]["neighbours"] == 30
    assert net.timeless and experiment.diffusion.self_conditioning == experiment.diffusion.drop == 0
    assert millions(net) == pytest.approx(2.404, abs=5e-4)


@pytest.mark.parametrize("name", NEEDED)
def test_corruption_and_loss(name):
    """P3, P4."""
    diffusion = made(name).diffusion
    assert diffusion.processes == {"sequence": Masked(21, score="all", smoothing=0.1, mask_logit=True, divisor=2000.0)}
    assert diffusion.times == Shared(Uniform(0.01, 0.99))


@pytest.mark.parametrize("name", NEEDED)
def test_sampler(name):
    """P7: 500 points, hence 499 calls; what is returned is the likeliest class of the last one."""
    sampler = made(name).sampler
    assert sampler.grid == Grid(499)
    assert (sampler.order, sampler.temperature, sampler.result) == ("grid", 0.1, "prediction")
    # the published grid begins at 0.01, all masked: a site is revealed in each of its steps with the same probability
    shares = [[(b - a) / (1 - a) for a, b in pairwise(times)] for times in (sampler.grid.times(), np.linspace(0.01, 1, 500))]
    assert shares[0] == pytest.approx(shares[1])


def test_reed_is_three_targets_of_alphafold_each_at_its_depth():
    """P5, A3, A4: the second of three decoder layers, the edges that it updated, and the encoder."""
    experiment = made("reed")
    terms = experiment.diffusion.objective.terms
    assert set(terms) == {"denoise", "recall", *TARGETS}
    assert {k: (terms[k].tap, terms[k].target, terms[k].pool) for k in TARGETS} == {
        "single": ("decoder2", "single", False),
        "pair": ("edges2", "pair", False),
        "structure": ("encoder", "structure", False),
    }
    for name, width in TARGETS.items():
        term, encoder = terms[name], experiment.config["encoders"][name]
        assert term.standardise and term.target_noise == 0 and not term.only_undecided
        first, act, last = term.projector
        assert isinstance(act, torch.nn.SiLU)
        assert (tuple(first.weight.shape), tuple(last.weight.shape)) == (
            (2 * width, 256 if name == "pair" else 128),
            (width, 2 * width),
        )
        assert (encoder["what"], encoder["width"]) == (name, width)
        assert experiment.config["cache"][name]["dtype"] == "float16"
    assert [millions(terms[k].projector) for k in TARGETS] == pytest.approx([0.394, 0.099, 1.379], abs=5e-4)


def test_reed_phases_denoising_in_over_50_epochs_and_alignment_out_over_200():
    weights = made("reed").diffusion.objective.weights
    at = {e: {k: weight_at(weight, e * EPOCH) for k, weight in weights.items()} for e in (0, 25, 50, 100, 200)}
    assert [at[e]["denoise"] for e in at] == pytest.approx([0, 0.5, 1, 1, 1])
    for name, coefficient in {"single": 0.5, "pair": 2.0, "structure": 1.0}.items():
        expected = [0.2 * coefficient * (1 + np.cos(np.pi * e / 200)) / 2 for e in at]
        assert [at[e][name] for e in at] == pytest.approx(expected, abs=1e-9)
    assert at[0]["recall"] == 0


def test_the_baseline_is_the_same_without_targets():
    objective = made("vanilla").diffusion.objective
    assert set(objective.terms) == {"denoise", "recall"} and objective.weights["denoise"] == 1.0
