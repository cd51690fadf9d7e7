"""Heads that map hidden features to representations. They are trained with the objective and thrown away afterwards."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from multigen.state import MultigenError


class MLPProjector(nn.Sequential):
    """Linears with SiLU between them.

    Args:
        width: input width.
        out: the target's width.
        hidden: width between the linears. REED: 2,048 (images), 2 * out (proteins), the model's width (molecules).
        depth: number of linears. REED: 3 (images), 2 (proteins), 3 (molecules). 1 is a linear probe.
    """

    def __init__(self, width: int, out: int, hidden: int = 2048, depth: int = 3) -> None:
        if depth < 1:
            raise MultigenError(f"MLPProjector: depth is the number of linears, at least 1; got {depth}")
        widths = [width, *[hidden] * (depth - 1), out]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        super().__init__(*layers[:-1])


class ConvProjector(nn.Module):
    """A k x k convolution over the token grid (iREPA, arXiv 2512.10794): keeps the spatial contrast that an MLP forgets.

    Args:
        width: input width.
        out: the target's width.
        kernel: odd kernel size.
        grid: (rows, columns) of the tokens; by default a square.
    """

    def __init__(self, width: int, out: int, kernel: int = 3, grid: tuple[int, int] | None = None) -> None:
        if kernel % 2 == 0:
            raise MultigenError(f"ConvProjector: the kernel must be odd to keep the grid, got {kernel}")
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(width, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, out)."""
        side = math.isqrt(x.shape[1])
        rows, columns = self.grid or (side, side)
        if rows * columns != x.shape[1]:
            raise MultigenError(f"ConvProjector: {x.shape[1]} tokens do not fill a grid of {rows} x {columns}")
        planes = x.transpose(1, 2).unflatten(2, (rows, columns))  # (B, width, rows, columns)
        return self.conv(planes).flatten(2).transpose(1, 2)  # (B, T, out)
