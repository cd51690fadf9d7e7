"""Weights in parts (FSDP2; Zhao et al. 2023): a process keeps its share of every parameter, of its averages and of what the
optimiser remembers of it, and gathers a block's parameters when it is that block's turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multigen import distributed
from multigen.state import MultigenError


def check(precision: str, compile: bool) -> None:
    """Refuse what has not been tried together with it."""
    for setting, given in (("precision=fp16", precision == "fp16"), ("compile=true", compile)):
        if given:
            raise MultigenError(f"shard=true does not go with {setting}; precision is bf16 or no, compile is false")


def share(module: nn.Module, device: torch.device) -> None:
    """Cut the parameters of a module on a device: those of each member of a `ModuleList` (a block) together, then the rest.

    Raises:
        MultigenError: a parameter that is trained is a single number, which cannot be cut.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    single = {p: name for name, p in module.named_parameters() if p.ndim == 0}
    if trained := [name for p, name in single.items() if p.requires_grad]:
        raise MultigenError(f"shard=true: parameter {trained[0]!r} has no dimension to be cut along; give it one, of size 1")
    mesh = init_device_mesh(device.type, (distributed.world(),))
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    for block in (block for blocks in reversed(lists) for block in blocks):
        fully_shard(block, mesh=mesh, ignored_params=set(single))
    fully_shard(module, mesh=mesh, ignored_params=set(single))


def synchronise(module: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass exchanges gradients."""
    module.set_requires_gradient_sync(wanted)  # type: ignore[operator]


@contextmanager
def gathered(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every process has all parameters meanwhile, so that each can call the networks as often as it likes."""
    from torch.distributed.fsdp import FSDPModule

    parts = [part for module in modules for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # the outermost keeps its own parameters for the backward pass, which needs them at once
            part.set_reshard_after_forward(part not in modules, recurse=False)
            part.reshard()


def whole(x: Tensor) -> Tensor:
    """The parts of all processes together; what is in no parts, as it is. Every process has to ask."""
    from torch.distributed.tensor import DTensor

    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    """This process's part."""
    from torch.distributed.tensor import DTensor

    return x.to_local() if isinstance(x, DTensor) else x


def alike(x: Tensor, like: Any) -> Tensor:
    """`x`, of which every process has all, cut as `like` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or like.shape != x.shape:
        return x
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)


def cut(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Tensors by name, cut as those of a module are."""
    own = module.state_dict()
    return {name: alike(x, own.get(name)) for name, x in tensors.items()}
