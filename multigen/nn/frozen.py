"""Networks that are never trained: what teachers are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from multigen.state import MultigenError
from multigen.stock import read_tensors


class Frozen(nn.Module):
    """A network that is never trained: no gradient, no dropout, no running statistics.

    Args:
        options: what the features depend on besides the weights.
    """

    version: ClassVar[int] = 1
    """Raise it when the same weights give other features."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def freeze(self, **options: Any) -> None:
        """Called at the end of a constructor; `options` are added to those given there."""
        self.options |= options
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    @cached_property
    def fingerprint(self) -> str:
        """Of the code's version, the options and every weight."""
        digest = hashlib.sha256(f"{self.version} {sorted(self.options.items())}".encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return f"{type(self).__name__}-{digest.hexdigest()[:16]}"


def load_weights(net: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network; see `fit`."""
    fit(net, read_tensors(path), path)


def fit(net: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a network, which may lack their classifier or pooling layer; they may lack counters of batches.

    Args:
        path: where the tensors come from, for messages.

    Raises:
        MultigenError: a weight is missing, or of another shape.
    """
    missing, unexpected = _mismatch(net.state_dict(), found)
    if missing:
        raise MultigenError(f"{path} does not fit: it lacks {missing[:3]}, and has {unexpected[:3]} which the network lacks")
    net.load_state_dict({name: found[name] for name in net.state_dict() if name in found}, strict=False)


def _mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    needed = {name: x for name, x in wanted.items() if name in found or not name.endswith("num_batches_tracked")}
    missing = [name for name, x in needed.items() if name not in found or found[name].shape != x.shape]
    return missing, [name for name in found if name not in wanted]
