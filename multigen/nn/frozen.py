"""Networks that are never trained: what teachers are made of."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn


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
