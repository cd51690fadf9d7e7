"""Frozen networks that look at pictures: tokens on the student's grid, or their mean."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multigen.files import nearest
from multigen.nn.frozen import Frozen, fit
from multigen.state import Batch, Features, MultigenError
from multigen.stock import read_tensors
from multigen.teachers import weights as prepared

Grid = int | tuple[int, int] | None
"""Tokens a side, or (rows, columns), or as the network has it."""


class Pictures(Frozen):
    """From pictures to tokens: what all of them share. A network is given by `maps`, what it looks at by `pictures`."""

    version = 2
    mode = "bicubic"
    """How pictures are brought to the size that is looked at."""
    mean: Tensor
    std: Tensor

    def __init__(self, size: int, grid: Grid, pooled: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(size=size, grid=grid, pooled=pooled, mean=tuple(mean), std=tuple(std))
        self.size, self.grid, self.pooled = size, grid, pooled
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)  # (3, 1, 1)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)  # (3, 1, 1)

    @abstractmethod
    def pictures(self, batch: Batch) -> Tensor:
        """What of a batch is looked at: (B, 3, R, R), in 0 .. 255."""

    @abstractmethod
    def maps(self, x: Tensor) -> Tensor:
        """(B, 3, size, size), normalised -> (B, D, h, w)."""

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        """Tokens (B, T, D) on the grid, or their mean (B, D)."""
        x = self.seen(batch)  # (B, 3, size, size)
        # channels last: depthwise convolutions of large maps are twice as fast on a CPU, and no slower elsewhere
        maps = self.maps(x.contiguous(memory_format=torch.channels_last))  # (B, D, h, w)
        # (B, D) or (B, T, D)
        value = maps.mean((2, 3)) if self.pooled else to_grid(maps, self.grid).flatten(2).transpose(1, 2)
        return Features(value.float().contiguous(), torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device))

    def seen(self, batch: Batch) -> Tensor:
        """Pictures as the network looks at them: (B, 3, size, size), normalised."""
        picture = self.pictures(batch).float()  # (B, 3, R, R)
        return (resize(picture, self.size, self.mode) - self.mean) / self.std


def resize(picture: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """(B, C, R, R) in 0 .. 255 -> (B, C, size, size)."""
    if picture.shape[-2:] == (size, size):
        return picture
    return F.interpolate(picture, (size, size), mode=mode, antialias=True).clamp(0, 255)


def to_grid(maps: Tensor, grid: Grid) -> Tensor:
    """(B, D, h, w) -> (B, D, *grid): means of areas where the grid is coarser, linear interpolation where it is finer."""
    if grid is None:
        return maps
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    if rows <= maps.shape[-2] and columns <= maps.shape[-1]:
        return F.adaptive_avg_pool2d(maps, (rows, columns))
    return F.interpolate(maps, (rows, columns), mode="bilinear", antialias=True)


class EfficientNetLite0(Pictures):
    """EfficientNet-Lite0 (Tan and Le 2019; Liu 2020), trained on ImageNet: 4.65 M parameters.

    Args:
        size: pixels of the side at which it looks; its last map has size / 32 tokens a side.
        grid: tokens a side of the student (or (rows, columns)); None keeps the network's own.
        pooled: the mean over all tokens instead.
        stage: 0 .. 6 for the map after that stage, of width 16, 24, 40, 80, 112, 192, 320 and stride 2, 4, 8, 16, 16, 32, 32;
            None for the last map, of width 1280 and stride 32.
        pretrained: False leaves the weights random (a control, and for tests).
        root: the data root in which the weights were prepared.
    """

    def __init__(
        self,
        size: int = 128,
        grid: Grid = 4,
        pooled: bool = False,
        stage: int | None = None,
        pretrained: bool = True,
        root: str | Path | None = None,
    ) -> None:
        # the weights expect (255 x - 127) / 128
        super().__init__(size, grid, pooled, [127 / 255] * 3, [128 / 255] * 3)
        if stage is not None and not 0 <= stage <= 6:
            raise MultigenError(f"EfficientNetLite0 has stages 0 .. 6, not {stage}")
        self.net, self.stage = build("tf_efficientnet_lite0"), stage
        if pretrained:
            self.net.load_state_dict(prepared.efficientnet(Path(root) if root else None))
        self.freeze(stage=stage)

    @staticmethod
    def prepare(root: str | Path | None = None, pretrained: bool = True) -> None:
        """Fetch the weights, unless they are to be random."""
        if pretrained:
            prepared.EFFICIENTNET_STOCK.prepare(Path(root) if root else None)

    def maps(self, x: Tensor) -> Tensor:
        if self.stage is None:
            return self.net.forward_features(x)  # (B, 1280, h, w)
        x = self.net.bn1(self.net.conv_stem(x))
        return self.net.blocks[: self.stage + 1](x)  # (B, D, h, w)

    def logits(self, batch: Batch) -> Tensor:
        """ImageNet class logits (B, 1000), for checks of the weights."""
        picture = resize(self.pictures(batch).float(), self.size)  # (B, 3, size, size)
        return self.net((picture - self.mean) / self.std)


class Timm(Pictures):
    """Any network of timm as a teacher: convolutional maps or a transformer's patch tokens, normalised as it was trained.

    Args:
        model: timm's name, such as ``vit_small_patch14_dinov2.lvd142m``.
        size: pixels of the side at which it looks; None takes what the network was trained at.
        grid: tokens a side of the student (or (rows, columns)); None keeps the network's own.
        pooled: the mean over all tokens instead.
        layer: which of the network's intermediate features, counted from 0 as timm does; -1 is the last.
        pretrained: download the weights from timm's hub (the client's own cache and offline switch apply).
        weights: a local safetensors file with them instead.
        seed: of the random weights when there are no others.

    Raises:
        MultigenError: timm has no such network, the hub cannot be reached, or the file does not fit.
    """

    def __init__(
        self,
        model: str,
        size: int | None = None,
        grid: Grid = None,
        pooled: bool = False,
        layer: int = -1,
        pretrained: bool = True,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        known = known_to_timm(model)
        size = size or int(known.input_size[-1])
        super().__init__(size, grid, pooled, known.mean, known.std)
        self.layer = layer
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.net = headless(model, size, pretrained, weights)
        self.freeze(model=model, layer=layer)

    def maps(self, x: Tensor) -> Tensor:
        wanted = 1 if self.layer == -1 else [self.layer]  # timm reads a number as "the last so many"
        options = {"norm": True, "output_fmt": "NCHW", "intermediates_only": True}
        try:
            return self.net.forward_intermediates(x, wanted, **options)[-1]  # (B, D, h, w)
        except (AssertionError, AttributeError, IndexError) as error:
            raise MultigenError(f"{self.options['model']} offers no features of layer {self.layer}: {error}") from None


def headless(model: str, size: int, pretrained: bool, weights: str | Path | None) -> Any:
    """A network of timm without its classifier, for pictures of `size` pixels; weights as in `Timm`.

    A table of positions that was learned at another size is resampled, as timm does with the weights of its hub.
    """
    options = {"img_size": size} if known_to_timm(model).fixed_input_size else {}
    net = build(model, pretrained and weights is None, num_classes=0, **options)
    if weights is not None:
        fit(net, _adapted(net, read_tensors(Path(weights)), Path(weights)), Path(weights))
    return net


def _adapted(net: nn.Module, found: dict[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Weights as the network's own module in timm makes them fit: names, tables of positions."""
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return found
    try:
        return adapt(found, net)
    except Exception as error:  # each module has an adapter of its own, and fails on other weights in its own way
        raise MultigenError(f"{path} does not fit: {type(error).__name__}: {error}") from None


def known_to_timm(model: str) -> Any:
    """What timm knows about a network: sizes, normalisation."""
    import timm

    name = model.partition(".")[0]
    if not timm.is_model(name):
        raise MultigenError(f"timm has no network {model!r}: {nearest_short(name, timm.list_models())}")
    try:
        return timm.models.get_pretrained_cfg(model)
    except RuntimeError as error:
        raise MultigenError(f"timm has no weights {model!r}: {error}") from None


def nearest_short(name: str, choices: Sequence[str]) -> str:
    """Like `multigen.files.nearest`, for too many choices to name them all."""
    import difflib

    return nearest(name, difflib.get_close_matches(name, choices, n=5, cutoff=0.3))


def build(model: str, pretrained: bool = False, **options: Any) -> Any:
    """A network of timm."""
    import timm

    try:
        return timm.create_model(model, pretrained=pretrained, **options)
    except Exception as error:  # the hub's client has dozens of ways to say that it is not reached
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0]
        advice = "a local file can be given as `weights`"
        raise MultigenError(f"cannot download the weights of {model} ({reason}); {advice}") from None
