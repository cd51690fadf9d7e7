"""How many processes there is room for on this machine."""

from __future__ import annotations

import os
from typing import NamedTuple


class Slot(NamedTuple):
    """Room for one process."""

    threads: int
    gpu: str | None = None
    """Its device, as ``CUDA_VISIBLE_DEVICES`` names it."""

    def environment(self) -> dict[str, str]:
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return {**os.environ, **threads, **({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})}


def slots(jobs: int | None, runs: int, device: str = "auto") -> list[Slot]:
    """How many processes run side by side, and what each may use.

    Args:
        jobs: so many; None takes one for each GPU, or one for each core.
        runs: more than these are of no use.
        device: of the runs; what begins with "cpu" needs no GPU. "cuda:1" is the only one used, and runs see the others too:
            hidden, it would have another number.
    """
    gpus: list[str | None] = [] if device.startswith("cpu") else [None] if device.startswith("cuda:") else [*_gpus()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(jobs or len(gpus) or cores, max(runs, 1))
    return [Slot(max(1, cores // count), gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] if visible else [str(i) for i in range(count)]
