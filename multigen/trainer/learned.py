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
        """Tensors by file, and what is no tensor."""
        tensors, values = pack_optimizer(self.optimizer)
        averages = {average.name: average.module.state_dict() for average in self.averages}
        scale = None if self.scaler is None else self.scaler.state_dict()
        return {"model": self.diffusion.state_dict(), **averages, "optimizer": tensors}, {"optimizer": values, "scaler": scale}

    def load(self, found: Checkpoint) -> None:
        """The reverse of `pack`."""
        restore(self.diffusion, found.tensors("model"), found.path / "model.safetensors")
        for average in self.averages:
            restore(average.module, found.tensors(average.name), found.path / f"{average.name}.safetensors")
        unpack_optimizer(self.optimizer, found.tensors("optimizer"), found.state["optimizer"])
        if self.scaler is not None and found.state["scaler"]:
            self.scaler.load_state_dict(found.state["scaler"])

    def overflowed(self) -> str | None:
        """The name of a parameter that is not finite, or whose average or moments are not; None if all is well.

        Buffers are not looked at: they may hold infinities on purpose, as attention masks do.
        """
        names, tensors = zip(*self._trained(), strict=True)
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
