"""The forward process of one component: how it is corrupted, scored and read."""

from multigen.process.base import Corrupted, Process, projected
from multigen.process.discrete import Discrete, Masked, Uniform
from multigen.process.gaussian import Gaussian
from multigen.process.geometry import symmetric, zero_com
from multigen.process.weighting import P2, MinSNR, SigmoidSNR

__all__ = [
    "P2",
    "Corrupted",
    "Discrete",
    "Gaussian",
    "Masked",
    "MinSNR",
    "Process",
    "SigmoidSNR",
    "Uniform",
    "projected",
    "symmetric",
    "zero_com",
]
