"""One contract for every folder in modalities/: its ``example.py`` says what to try it on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from multigen import testing
from multigen.diffusion import Diffusion
from multigen.objective import Denoising, Objective

FOLDERS = sorted(p.parent.name for p in (Path(__file__).parents[2] / "modalities").glob("*/modality.py"))


@pytest.fixture(params=FOLDERS)
def contract(request):
    torch.manual_seed(0)
    return import_module(f"modalities.{request.param}.example").contract()


def test_modality(contract):
    testing.check_modality(contract.modality, contract.dataset)


def test_processes(contract):
    batch = contract.batch()
    for name, process in contract.processes.items():
        testing.check_process(process, batch.clean[name], batch.mask[name])


def test_denoiser(contract):
    testing.check_denoiser(contract.denoiser, contract.batch(), contract.taps)
    testing.check_companions(contract)


def test_round_trip(contract):
    testing.check_round_trip(contract.modality, contract.dataset, contract.processes)


def test_learns_one_batch(contract):
    objective = Objective({"denoise": Denoising()})
    testing.learns_one_batch(Diffusion(contract.denoiser, contract.processes, objective), contract.batch(8))
