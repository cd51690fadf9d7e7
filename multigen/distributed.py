"""One process or several: who am I, which part is mine, and bring the parts together.

Everything here also works, and costs nothing, when there is only one process.
"""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from multigen.state import MultigenError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

PRECISIONS = ("auto", "no", "bf16", "fp16")


def rank() -> int:
    """The number of this process, 0 if it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        dist.barrier()


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's contiguous part of `items`; `gather` puts the parts back in order.

    The parts differ in length by one at most, and are empty where there are more processes than items.
    """
    return items[len(items) * rank() // world() : len(items) * (rank() + 1) // world()]


def gather(part: Sequence[T]) -> list[T]:
    """The parts of all processes in order, on process 0; an empty list elsewhere.

    Every process has to call it. Tensors travel on the CPU.
    """
    if world() == 1:
        return list(part)
    parts: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object([x.cpu() if isinstance(x, torch.Tensor) else x for x in part], parts)
    return [item for some in parts or [] for item in some]


def first(value: T) -> T:
    """Process 0's value, in every process."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over the processes of a tensor of any shape, in every process."""
    if world() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def highest(number: int) -> int:
    """The largest of the processes' numbers, in every process. Waits for them."""
    if world() == 1:
        return number
    numbers: list[Any] = [None] * world()
    dist.all_gather_object(numbers, number)
    return int(max(numbers))


def resolve(device: str) -> torch.device:
    """The device that a name stands for; "auto" is the accelerator if there is one that computes in float64, as samplers do.

    Raises:
        MultigenError: there is no such device here.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if best is not None and best.type == "mps":  # it has no float64
        best = None
    if device == "auto":
        return best or torch.device("cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or (wanted.type != "cpu" and (best is None or wanted.type != best.type)):
        choices = ["auto", "cpu", *([best.type] if best else [])]
        raise MultigenError(f"device {device!r} is not available; choices are {choices}")
    if wanted.index is not None and wanted.type != "cpu" and wanted.index >= torch.accelerator.device_count():
        raise MultigenError(f"device {device!r} is not available; there are {torch.accelerator.device_count()}")
    return wanted


def chosen(precision: str, device: torch.device) -> str:
    """The precision that a name stands for on a device: "auto" is "bf16" where that is fast, else "no".

    Raises:
        MultigenError: there is no such precision, or not on this device.
    """
    if precision not in PRECISIONS:
        raise MultigenError(f"precision is {precision!r}; choices are {list(PRECISIONS)}")
    if device.type == "cpu" and precision == "fp16":
        raise MultigenError("precision 'fp16' needs an accelerator; choices on a CPU are ['auto', 'no', 'bf16']")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type != "cpu" or _fast_in_bfloat16()
    return "bf16" if fast else "no"


@cache
def _fast_in_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 clearly faster than those of float32.

    Without instructions for it that takes tens of times as long; with those of AVX-512, a half on some processors and up to
    twice on others, so that it is measured.
    """
    cpu = torch.device("cpu")
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return has and product_flops(cpu, torch.bfloat16) > 1.25 * product_flops(cpu, torch.float32)


def product_flops(device: torch.device, dtype: torch.dtype, size: int = 512) -> float:
    """FLOP/s of the fastest of a few products of square matrices."""
    x = torch.ones(size, size, device=device, dtype=dtype)  # (size, size)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        (x @ x)[0, 0].item()  # reading a number waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def accelerator(precision: str = "no", device: str = "auto") -> Accelerator:
    """Join the other processes, if a launcher started several, and take over device, precision and gradient exchange.

    It replaces any `Accelerator` that this process made before: accelerate keeps one shared state a process.

    Args:
        precision: "no" (float32), "bf16" or "fp16" autocast, or "auto", see `chosen`.
        device: see `resolve`. With several processes each takes the device of its local rank.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
    from accelerate.state import AcceleratorState

    where = resolve(device)
    precision = chosen(precision, where)
    if where.index is not None and where.type != "cpu" and "LOCAL_RANK" not in os.environ:
        torch.accelerator.set_device_index(where.index)
    # imported when the group is there, its functions' defaults would hold the group for good, and `_leave` could not end it
    if dist.is_available():
        import_module("torch.distributed.nn.functional")
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=where.type == "cpu")  # joins the others, who are to compute in one precision, measured or not
    # a network of the user's may own parameters that no loss reaches; telling the wrapper costs one walk of the graph
    exchange = DistributedDataParallelKwargs(find_unused_parameters=True)
    made = Accelerator(mixed_precision=first(precision), cpu=where.type == "cpu", kwargs_handlers=[exchange])
    atexit.register(_leave)
    return made


def _leave() -> None:
    """Leave the group before the process ends: its threads would now and then be cut off, which aborts the process.

    They end with the last reference to the group. Wrapped networks hold some, often in cycles; torch's caches of weights that
    are held in parts hold some for good.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def release(module: nn.Module) -> nn.Module:
    """Undo what an earlier `Accelerator.prepare` left on a module, so that it can be prepared anew."""
    if not vars(module).pop("_is_accelerate_prepared", False):
        return module
    from accelerate.utils import extract_model_from_parallel

    bare: nn.Module = extract_model_from_parallel(module, keep_fp32_wrapper=False)
    return bare
