"""Networks of the transformers library, by name in its hub or from a local folder: loaded whole, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from multigen.state import MultigenError

T = TypeVar("T")


def settings(model: str | Path) -> Any:
    """The configuration of a model.

    Raises:
        MultigenError: there is no such folder, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    return asked(AutoConfig.from_pretrained, model)


def asked(load: Callable[..., T], model: str | Path, **options: Any) -> T:
    """`load` of what belongs to a model, or the reason in one line why there is none."""
    from safetensors import SafetensorError

    try:
        return load(str(model), **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MultigenError(f"cannot load {model} ({reason}); a local folder can be given in its place") from None


def network(
    kind: Any, model: str | Path, config: Any, pretrained: bool = True, seed: int = 0, needless: tuple[str, ...] = ()
) -> Any:
    """A network with its weights, which are read from safetensors alone; or with random ones.

    Args:
        kind: an automatic class, such as ``transformers.AutoModel``.
        config: what is built; a part of the model's own configuration builds that part.
        seed: of random weights.
        needless: what the names of weights begin with that the files may lack.

    Raises:
        MultigenError: the files lack weights, have them in another shape, or cannot be read.
    """
    if not pretrained:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return kind.from_config(config)
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # which are refused below, in one line
    net, found = asked(kind.from_pretrained, model, config=config, use_safetensors=True, **options)
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(needless))
    if wrong := [*missing, *sorted(name for name, *_ in found["mismatched_keys"])]:
        told = f"{len(wrong)} are missing or of another shape, such as {wrong[0]}"
        raise MultigenError(f"the weights of {model} do not fit {type(net).__name__}: {told}")
    return net
