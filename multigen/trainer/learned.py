"""All that training changes, on its way to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multigen.checkpoint import Checkpoint, pack_optimizer, restore, unpack_optimizer
from multigen.ema import Ema
from multigen.trainer import sharding


@dataclass(frozen=True)
class Learned:
    """The modules and what their optimiser remembers.

    Args:
        diffusion: with a ``denoiser``.
        averages: of the denoiser's weights.
        optimizer: of all parameters.
        scaler: of fp16 gradients, if they are scaled.
    """

    diffusion: nn.Module
    averages: Sequence[Ema]
    optimizer: Optimizer
    scaler: Any = None

    def pack(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Tensors by file, and what is no tensor. Every process has to ask if the weights lie in parts."""
        tensors, values = pack_optimizer(self.optimizer)
        averages = {average.name: average.module.state_dict() for average in self.averages}
        scale = None if self.scaler is None else self.scaler.state_dict()
        found = {"model": self.diffusion.state_dict(), **averages, "optimizer": tensors}
        files: dict[str, Mapping[str, Tensor]] = {
            name: {k: sharding.whole(x).cpu() for k, x in part.items()} for name, part in found.items()
        }
        return files, {"optimizer": values, "scaler": scale}

    def load(self, found: Checkpoint) -> None:
        """The reverse of `pack`."""
        restore(self.diffusion, sharding.cut(found.tensors("model"), self.diffusion), found.path / "model.safetensors")
        for average in self.averages:
            tensors = sharding.cut(found.tensors(average.name), average.module)
            restore(average.module, tensors, found.path / f"{average.name}.safetensors")
        unpack_optimizer(self.optimizer, self._moments(found.tensors("optimizer")), found.state["optimizer"])
        if self.scaler is not None and found.state["scaler"]:
            self.scaler.load_state_dict(found.state["scaler"])

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The optimiser's tensors, which are named by the number of their parameter, cut as that is."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        numbers = {name: int(name.partition(".")[0]) for name in tensors}
        known = {k: x for k, x in tensors.items() if numbers[k] < len(parameters)}
        return {**tensors, **{k: sharding.alike(x, parameters[numbers[k]]) for k, x in known.items()}}

    def overflowed(self) -> str | None:
        """The name of a parameter that is not finite, or whose average or moments are not; None if all is well. Of weights
        in parts, this process's part is looked at.

        Buffers are not looked at: they may hold infinities on purpose, as attention masks do.
        """
        names, tensors = zip(*((name, sharding.local(x)) for name, x in self._trained()), strict=True)
        names, tensors = zip(*((n, x) for n, x in zip(names, tensors, strict=True) if x.numel()), strict=True)
        norms = torch._foreach_norm(list(tensors), float("inf"))  # () each
        fine = torch.stack([norm.float().to(norms[0].device) for norm in norms]).isfinite().tolist()
        return next((name for name, ok in zip(names, fine, strict=True) if not ok), None)

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.diffusion.named_parameters():
            yield name, parameter.detach()
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"{slot} of {name}", value
        for average in self.averages:
            yield from ((f"{average.name} of {name}", x) for name, x in average.module.named_parameters())
