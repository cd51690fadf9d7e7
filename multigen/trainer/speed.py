"""How fast training is: examples a second, and the share of what the device can do at best."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from multigen.distributed import product_flops
from multigen.state import Batch

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_TERA = 1e12

_PEAKS = {  # words of the name -> (bfloat16 and float16, float32 matrix products), dense, as the manufacturer states them
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100": (989, 67),
    "A100": (312, 19.5),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "A10": (125, 31.2),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
    "RTX 4090": (165, 82.6),
    "RTX 3090": (71, 35.6),
}
"""TFLOP/s."""


def peak_flops(device: torch.device, precision: str = "no") -> float:
    """FLOP/s of matrix products at best: from a table of GPUs, else measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for known, (half, single) in _PEAKS.items():
        if re.search(rf"\b{known}\b", name):  # an L40 is no L4
            return (single if precision == "no" else half) * _TERA
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return product_flops(device, dtype, 512 if device.type == "cpu" else 4096)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts FLOPs. Attention is written out meanwhile: of the fused kernel for CPUs none would be counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def training_flops(diffusion: nn.Module, batch: Batch, step: int) -> float | None:
    """FLOPs of one example's forward and backward pass, frozen encoders apart; None where they cannot be counted.

    It trains a copy, so that nothing of the run (buffers, gradients, hooks) notices. What is computed twice to save memory
    counts once.

    Args:
        batch: encoded; its first two examples are looked at.
    """
    some = batch.map(lambda x: x[:2])
    try:
        with counting() as counter:
            losses = _once(copy.deepcopy(diffusion))(some, step)
            (losses.total + losses.probe).backward()
        return counter.get_total_flops() / len(some)
    except Exception:  # a statistic must not stop a run; what is really wrong, the step itself will say
        return None


def _once(model: nn.Module) -> nn.Module:
    """The same without activation checkpointing, see `multigen.nn.ModulatedBlock`."""
    for module in model.modules():
        if getattr(module, "recompute", False):
            module.recompute = False  # type: ignore[assignment]
    return model


class Stopwatch:
    """Time since the last reading, without what was spent in pauses.

    Args:
        elapsed: seconds that an earlier stopwatch had come to.
    """

    def __init__(self, elapsed: float = 0.0) -> None:
        self._start = time.perf_counter() - elapsed
        self._paused: float | None = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        self._paused = before = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - before
            self._paused = None

    @property
    def elapsed(self) -> float:
        """Seconds since the last reading."""
        return (self._paused or time.perf_counter()) - self._start

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        return max(elapsed, 1e-9)
