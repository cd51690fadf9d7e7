"""Published checkpoints of diffusion transformers as ours, and back: names, layouts of tensors, the direction of time.

Ma et al. 2024 (SiT, arXiv 2401.08740), Yu et al. 2024 (REPA), Wang et al. 2025 (REED) and Peebles and Xie 2023 (DiT) store the
same network under the same names. What differs is the time that it is told and the sign of what it says. With our t, from
noise at 0 to data at 1, theirs is ``begin + slope * t``:

======  ====================  ===============================  ========================================
layout  their time            their output                     ours
======  ====================  ===============================  ========================================
sit     t                     data - noise                     the velocity
repa    1 - t                 noise - data                     the velocity, with the sign turned
reed    1 - t                 noise - data                     the velocity, with the sign turned
dit     999 - 1000 t (steps)  the noise, and its variance      the noise, on the path `DDPM`
======  ====================  ===============================  ========================================

Time enters through sinusoids and a linear. Since cos(b - x) and sin(b - x) are linear in cos x and sin x, another direction of
time is another weight of that linear: the network that comes out is a plain `SiT`, with nothing left to turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modalities.image.denoiser import SIZES
from multigen.files import nearest
from multigen.nn import TimeEmbedding, sincos_2d
from multigen.state import MultigenError

Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

_NAMES = (
    (r"^embed\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder."),
    (r"^labels\.", "y_embedder.embedding_table."),
    (r"^(blocks\.\d+)\.attn\.out\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.modulation\.", r"\1.adaLN_modulation."),
    (r"^modulation\.", "final_layer.adaLN_modulation."),
    (r"^head\.", "final_layer.linear."),
)
"""Ours -> theirs; what no pattern meets has the same name."""
_OURS_ALONE = r"registers|companions\.|embed\.\d|blocks\.\d+\.attn\.[qk]_norm\."
"""Parts of our network that the published ones lack, or have in another form."""
_POSITION = "pos_embed"
_SHOWN = 8


@dataclass(frozen=True)
class Layout:
    """How one code base means what it stores.

    Args:
        experiment: ours of the same kind.
        begin, slope: their time is ``begin + slope * t``.
        sign: of their output over ours.
        terms: of our objective whose projectors are theirs, in their order.
    """

    experiment: str
    begin: float = 0.0
    slope: float = 1.0
    sign: float = 1.0
    terms: tuple[str, ...] = ()


LAYOUTS = {
    "sit": Layout("image/imagenet256_sit"),
    "repa": Layout("image/imagenet256_repa", begin=1, slope=-1, sign=-1, terms=("patches",)),
    "reed": Layout("image/imagenet256_reed", begin=1, slope=-1, sign=-1, terms=("patches", "captions")),
    "dit": Layout("image/imagenet256_dit", begin=999, slope=-1000),
}


def layout(name: str) -> Layout:
    """One of `LAYOUTS`; `MultigenError` naming the choices."""
    if name not in LAYOUTS:
        raise MultigenError(f"unknown kind of checkpoint {name!r}: {nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


# ------------------------------------------------------------------------------------------------------- sizes of a network


class Sizes(NamedTuple):
    """What the shapes of a published checkpoint say about its network."""

    width: int
    depth: int
    patch: int
    channels: int
    classes: int
    side: int
    """Of the latents."""
    hidden: int
    """Width of the MLPs."""
    variance: bool
    heads: int | None
    """Of the published network of this width; the tensors do not tell."""
    projectors: tuple[tuple[int, int], ...]
    """(hidden width, output width) of each."""


def sizes(tensors: Mapping[str, Tensor], origin: str) -> Sizes:
    """Read the sizes off a checkpoint.

    Raises:
        MultigenError: it is not one of such a network; names what it lacks, and what it has instead.
    """
    needed = {
        **{"x_embedder.proj.weight": 4, "final_layer.linear.weight": 2, "y_embedder.embedding_table.weight": 2},
        **{_POSITION: 3, "blocks.0.mlp.fc1.weight": 2},
    }
    wrong = [f"it has no {name}" for name in needed if name not in tensors]
    wrong += [f"{k} is {list(tensors[k].shape)}" for k, n in needed.items() if k in tensors and tensors[k].ndim != n]
    if wrong:
        raise MultigenError(
            f"{origin} is no checkpoint of a SiT or DiT: {_listed(wrong)}; it holds {_listed(sorted(tensors))}"
        )
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    return Sizes(
        width,
        1 + max(int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)),
        patch,
        channels,
        len(tensors["y_embedder.embedding_table.weight"]) - 1,
        patch * round(tensors[_POSITION].shape[1] ** 0.5),
        len(tensors["blocks.0.mlp.fc1.weight"]),
        len(tensors["final_layer.linear.weight"]) == 2 * channels * patch**2,
        next((size["heads"] for size in SIZES.values() if size["width"] == width), None),
        tuple(_projectors(tensors)),
    )


def _projectors(tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, int]]:
    number = 0
    while (first := tensors.get(f"projectors.{number}.0.weight")) is not None:
        last = tensors.get(f"projectors.{number}.4.weight", first)
        yield len(first), len(last)
        number += 1


def settings(found: Sizes, kind: Layout, heads: int | None = None) -> dict[str, Any]:
    """The keys of our configuration that make a network of these sizes.

    Raises:
        MultigenError: the number of heads is not that of a published size, and not given.
    """
    if (heads := heads or found.heads) is None:
        raise MultigenError(f"the number of attention heads cannot be read off a network of width {found.width}: give heads=N")
    own: dict[str, Any] = {
        "width": found.width,
        "depth": found.depth,
        "patch": found.patch,
        "heads": heads,
        "variance": found.variance,
    }
    own |= {"mlp_ratio": found.hidden / found.width, "time_scale": float(abs(kind.slope))}
    keys: dict[str, Any] = {f"denoiser.{name}": value for name, value in own.items()}
    keys |= {"modality.channels": found.channels, "modality.classes": found.classes, "data.train.size": found.side}
    for term, (hidden, out) in zip(kind.terms, found.projectors, strict=False):
        keys |= {f"objective.terms.{term}.projector.{name}": value for name, value in (("hidden", hidden), ("out", out))}
    return keys


# ----------------------------------------------------------------------------------------------------------------- mapping


def theirs(name: str, kind: Layout) -> str | None:
    """The published name of one of our tensors (of a `Diffusion`); None if there is none.

    >>> theirs("denoiser.blocks.3.mlp.0.bias", LAYOUTS["sit"])
    'blocks.3.mlp.fc1.bias'
    """
    if match := re.fullmatch(r"objective\.trained\.(\w+)\.projector\.(.+)", name):
        return f"projectors.{kind.terms.index(match[1])}.{match[2]}" if match[1] in kind.terms else None
    own = name.removeprefix("denoiser.")
    if own == name or re.match(_OURS_ALONE, own):
        return None
    for pattern, replacement in _NAMES:
        own = re.sub(pattern, replacement, own)
    return own


def to_ours(tensors: Mapping[str, Tensor], shapes: Shapes, kind: Layout, side: int, patch: int, origin: str) -> Tensors:
    """A published state dict as that of our `Diffusion`.

    Args:
        tensors: published name -> tensor.
        shapes: our name -> shape, all of them.
        side: of the latents.
        origin: for messages.

    Raises:
        MultigenError: a tensor is missing, unknown or of another shape; names all of them.
    """
    names = _paired(shapes, kind, origin)
    channels = _channels(shapes, patch)
    wanted = {names[own]: _published_shape(own, shape, patch) for own, shape in shapes.items()}
    width = shapes["denoiser.time.mlp.0.bias"][0]
    table = sincos_2d(width, side // patch, side // patch)  # (T, D)
    _check(tensors, wanted | {_POSITION: (1, *table.shape)}, origin)
    if not torch.allclose(tensors[_POSITION][0].float(), table, atol=1e-4):
        raise MultigenError(f"{origin}: {_POSITION} is not the table of sines and cosines that these networks are built with")
    return {
        own: _turned(own, tensors[name].double(), kind, channels, patch, True).reshape(shapes[own]).float().contiguous()
        for own, name in names.items()
    }


def to_theirs(tensors: Mapping[str, Tensor], kind: Layout, side: int, patch: int, origin: str) -> Tensors:
    """The reverse: our `Diffusion`'s state dict as a published one.

    Raises:
        MultigenError: a tensor of ours has no place there; names all of them.
    """
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    names = _paired(shapes, kind, origin)
    channels = _channels(shapes, patch)
    found: Tensors = {}
    for own, name in names.items():
        turned = _turned(own, tensors[own].double(), kind, channels, patch, False)
        found[name] = turned.reshape(_published_shape(own, shapes[own], patch)).float().contiguous()
    width = shapes["denoiser.time.mlp.0.bias"][0]
    return {**found, _POSITION: sincos_2d(width, side // patch, side // patch)[None]}  # (1, T, D)


def _paired(shapes: Shapes, kind: Layout, origin: str) -> dict[str, str]:
    """Our name -> theirs."""
    names = {own: theirs(own, kind) for own in shapes}
    if homeless := [own for own, name in names.items() if name is None]:
        raise MultigenError(f"{origin} has tensors that the published layout has no place for: {_listed(homeless)}")
    return {own: name for own, name in names.items() if name is not None}


def _channels(shapes: Shapes, patch: int) -> int:
    return shapes["denoiser.embed.weight"][1] // patch**2


def _published_shape(own: str, shape: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """Patches are embedded by a convolution there; all else has our shape."""
    if own != "denoiser.embed.weight":
        return shape
    return (shape[0], shape[1] // patch**2, patch, patch)


def _check(tensors: Mapping[str, Tensor], wanted: Shapes, origin: str) -> None:
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unknown {name}" for name in tensors if name not in wanted]
    faults += [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    if faults:
        raise MultigenError(f"{origin} does not fit the network, {len(faults)} tensors differ: {', '.join(faults)}")


def _turned(own: str, x: Tensor, kind: Layout, channels: int, patch: int, inwards: bool) -> Tensor:
    """What of a tensor means something else here than there; both ways but for the order of the head's rows."""
    if own == "denoiser.time.mlp.0.weight":
        return x @ _time_turn(kind, x.shape[1])  # (D, F)
    if own.startswith("denoiser.head."):
        return _head(x, kind.sign, channels, patch, inwards)
    return x


def _time_turn(kind: Layout, frequencies: int) -> Tensor:
    """R (F, F) with ``[cos, sin](omega (begin + slope t)) = R [cos, sin](omega |slope| t)``; its own inverse, or the identity.

    cos(b - x) = cos b cos x + sin b sin x and sin(b - x) = sin b cos x - cos b sin x.
    """
    if kind.slope > 0:
        return torch.eye(frequencies, dtype=torch.float64)
    angle = kind.begin * TimeEmbedding(1, frequencies).omega.double()  # (F/2,)
    cos, sin = angle.cos().diag(), angle.sin().diag()  # (F/2, F/2) each
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([sin, -cos], 1)])


def _head(x: Tensor, sign: float, channels: int, patch: int, inwards: bool) -> Tensor:
    """Rows of the last linear: (row, column, channel) of a patch there, (channel, row, column) here."""
    total = len(x) // patch**2
    rest = x.shape[1:]
    if inwards:
        x = x.reshape(patch, patch, total, *rest).movedim(2, 0).clone()  # (C, P, P, ...)
    else:
        x = x.reshape(total, patch, patch, *rest).clone()  # (C, P, P, ...)
    x[:channels] *= sign  # a variance has no direction
    return (x if inwards else x.movedim(0, 2)).reshape(-1, *rest)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
