"""Frozen networks of the transformers library that look at pictures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multigen.files import read_json
from multigen.state import Batch, Features, MultigenError
from multigen.teachers import hub
from multigen.teachers.vision import Grid, Pictures

_RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's number -> torch's name."""


class Transformers(Pictures):
    """Any vision model of the transformers library as a teacher: DINOv2, DINOv3, MAE, CLIP, SigLIP 2, I-JEPA, ...

    Patch tokens alone: class and register tokens, which these networks put first, are left out. Mean, deviation, scale and
    size come from the model's own preprocessing; at another size its table of positions is resampled. Pictures are squares
    and are looked at whole, without the margin that some models crop away.

    Args:
        model: name in the hub, such as ``facebook/dinov2-base``, or a folder with configuration and safetensors. Of a model
            of pictures and text, such as CLIP, the part that sees.
        size: pixels of the side at which it looks, a multiple of its patches; None takes that of its preprocessing.
        grid: tokens a side of the student (or (rows, columns)); None keeps the network's own.
        pooled: "mean" (or True) is the mean over the patch tokens; "own" what the network itself sums a picture up in: a
            class token, or a head of its own. False gives the tokens.
        layer: the tokens after that block, counted from 0, as the block leaves them; -1 is the network's last output.
        pretrained: False leaves the weights random; only the configuration is read.
        seed: of random weights.

    Raises:
        MultigenError: the model cannot be loaded, does not see pictures, or the size is no multiple of its patches.
    """

    def __init__(
        self,
        model: str | Path,
        size: int | None = None,
        grid: Grid = None,
        pooled: bool | str = False,
        layer: int = -1,
        pretrained: bool = True,
        seed: int = 0,
    ) -> None:
        if pooled not in (False, True, "mean", "own"):
            raise MultigenError(f"pooled is {pooled!r}; choices are false, 'mean', 'own'")
        if pooled == "own" and layer != -1:
            raise MultigenError(f"pooled='own' is made of the network's last output; got layer {layer}")
        seen = preprocessing(model)
        super().__init__(size or seen.size, grid, bool(pooled), seen.mean, seen.std)
        self.mode, self.own, self.layer = seen.mode, pooled == "own", layer
        config = hub.settings(model)
        self.net = _network(model, getattr(config, "vision_config", config), pretrained, seed, self.own)
        self.side = self.size // _patch(self.net, model, self.size)
        self.freeze(model=Path(model).name, layer=layer, mode=self.mode, own=self.own)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        if not self.own:
            return super().forward(batch)
        value = getattr(self._look(self.seen(batch)), "pooler_output", None)  # (B, D)
        if value is None:
            raise MultigenError(f"{self.options['model']} sums up no picture by itself: pooled='mean' takes the mean")
        return Features(value.float(), torch.ones(len(value), dtype=torch.bool, device=value.device))

    def maps(self, x: Tensor) -> Tensor:
        found = self._look(x, output_hidden_states=self.layer != -1)
        if self.layer == -1:
            return _maps(found.last_hidden_state, self.side)  # (B, D, h, w)
        if not 0 <= self.layer < (count := len(found.hidden_states) - 1):
            raise MultigenError(f"{self.options['model']} has layers 0 .. {count - 1} and -1, not {self.layer}")
        return _maps(found.hidden_states[self.layer + 1], self.side)  # (B, D, h, w)

    def _look(self, x: Tensor, **options: Any) -> Any:
        known = inspect.signature(self.net.forward).parameters
        if "interpolate_pos_encoding" in known:
            options["interpolate_pos_encoding"] = True
        if hasattr(self.net.config, "mask_ratio"):  # MAE puts tokens in the order of this noise, and then drops some
            options["noise"] = torch.arange(self.side**2, device=x.device).expand(len(x), -1).float()  # (B, T)
        return self.net(pixel_values=x.to(self.net.dtype), **options)  # weights come in the type that they are stored in


class Preprocessing(NamedTuple):
    """How a model expects its pictures."""

    size: int
    mean: list[float]
    """Of pictures in 0 .. 1, by channel."""
    std: list[float]
    mode: str
    """How pictures are brought to the size."""


def preprocessing(model: str | Path) -> Preprocessing:
    """What the configuration of a model's preprocessing says.

    Raises:
        MultigenError: it has none, or one without a size.
    """
    from transformers.utils import cached_file

    given = read_json(str(hub.asked(cached_file, model, filename="preprocessor_config.json")))
    crop = given.get("crop_size") if given.get("do_center_crop") else None
    factor = 255 * float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 255.0
    wanted = given.get("do_normalize", True) and given.get("image_mean") and given.get("image_std")
    mean, std = (given["image_mean"], given["image_std"]) if wanted else ([0.0] * 3, [1.0] * 3)
    mode = _RESAMPLING.get(int(given.get("resample") or 3), "bicubic")
    return Preprocessing(_side(crop or given.get("size"), model), [m / factor for m in mean], [s / factor for s in std], mode)


def _side(size: int | Mapping[str, int] | None, model: str | Path) -> int:
    """Pixels, of the ways in which configurations write them."""
    found = next(iter(size.values()), None) if isinstance(size, Mapping) else size
    if found is None:
        raise MultigenError(f"the preprocessing of {model} has no size; give one")
    return int(found)


def _network(model: str | Path, config: Any, pretrained: bool, seed: int, own: bool) -> Any:
    from transformers import AutoModel

    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # all patches are seen
    net = hub.network(AutoModel, model, config, pretrained, seed, needless=() if own else ("pooler.",))
    known = inspect.signature(net.forward).parameters
    if "pixel_values" not in known or "spatial_shapes" in known:
        raise MultigenError(f"{model} ({type(net).__name__}) takes no pictures of one size")
    return net


def _patch(net: Any, model: str | Path, size: int) -> int:
    """Pixels of the side of a patch."""
    patch = getattr(net.config, "patch_size", 1)
    side = int(patch if isinstance(patch, int) else patch[0])
    if size % side:
        raise MultigenError(f"{model} looks at patches of {side} pixels, which do not divide size {size}")
    return side


def _maps(x: Tensor, side: int) -> Tensor:
    """(B, prefix + h w, D) in row-major order, or maps as they are -> (B, D, h, w)."""
    if x.ndim == 4:
        return x
    count = x.shape[1]
    side = side if count >= side**2 else math.isqrt(count)  # networks that merge patches have fewer
    return x[:, count - side**2 :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
