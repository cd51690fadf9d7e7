"""From a shipped configuration to measured samples, through the trainer, in seconds."""

from __future__ import annotations

import numpy as np
import torch

from multigen import checkpoint
from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.cli.main import run as main
from multigen.evaluate import evaluate
from multigen.run import Run

SMALL = [
    "denoiser.width=64", "optimizer.lr=8.0e-3", "trainer.steps=240", "trainer.log_to=[]", "trainer.ema=[0.95]",
    "trainer.observers.validation.every=120", "trainer.observers.samples.every=240", "trainer.observers.samples.n=50",
    "data.train.count=2048", "data.valid.count=500", "sampler.grid.steps=15", "trainer.progress=false",
]  # fmt: skip


def test_three_components_from_configuration_to_measures(tmp_path):
    experiment = Experiment(compose("train", ["experiment=points/joint", *SMALL]))
    run = Run(tmp_path / "run", experiment.config)
    experiment.trainer(run).fit()
    valid = [entry["valid"] for entry in run.history() if "valid" in entry]
    assert len(valid) == 2 and valid[-1] < valid[0]
    assert (run.samples / "step_00000240.png").is_file() and (run.samples / "real.png").is_file()

    again = Experiment(run.stored())
    checkpoint.load_denoiser(again.denoiser, checkpoint.latest(run.checkpoints), "ema_0.95")
    parts = again.sampler, again.denoiser, again.processes, again.modality, again.metrics
    result = evaluate(*parts, run.folder, n=400, batch_size=400, held_out=again.valid)
    assert result["samples"]["valid"] == 400
    assert result["metrics"]["label_accuracy"] > 0.8
    assert result["metrics"]["energy_distance"] < 0.1

    assert main(["sample", f"run={run.folder}", "n=100", "batch_size=100", "given=[label]", f"out={tmp_path}"]) == 0
    rows = np.loadtxt(tmp_path / "points.csv", delimiter=",", skiprows=1)  # (100, 3)
    found = again.metrics["truth"].classify(torch.from_numpy(rows[:, :2]))
    assert (found == torch.from_numpy(rows[:, 2]).long()).double().mean() > 0.85
