"""Assertions for one's own process, network or modality. Each raises `AssertionError` with a line that says what is wrong.

They need no test runner and no data but a few examples::

    from multigen import testing

    testing.check_process(MyProcess(), clean)             # clean (B, *sites, *features)
    testing.check_denoiser(MyNetwork(), batch, taps=["block2"])
    testing.check_modality(MyModality(), MyDataset())
    testing.learns_one_batch(Diffusion(...), batch)

A folder ``modalities/<name>`` whose ``example.py`` has a function ``contract() -> Contract`` is found and checked by the
library's own tests.
"""

from multigen.testing.comparing import close, same
from multigen.testing.denoiser import check_denoiser, learns_one_batch, predict
from multigen.testing.modality import Contract, check_batch, check_companions, check_modality, check_round_trip, examples
from multigen.testing.oracle import Oracle, exact
from multigen.testing.process import check_process

__all__ = [
    "Contract",
    "Oracle",
    "check_batch",
    "check_companions",
    "check_denoiser",
    "check_modality",
    "check_process",
    "check_round_trip",
    "close",
    "exact",
    "examples",
    "learns_one_batch",
    "predict",
    "same",
]
