"""Reading checkpoints that others wrote, without running what else is in the file, and writing such files."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multigen.files import atomic_write
from multigen.state import MultigenError
from multigen.stock import read_tensors

Tensors = dict[str, Tensor]

HARMLESS: list[Any] = [argparse.Namespace]
"""What published checkpoints hold besides tensors and plain values: the command line. It does nothing when it is made."""


class Found(NamedTuple):
    """The weights in a file."""

    model: Tensors | None
    """As they were trained."""
    ema: Tensors | None
    """Their moving average."""
    step: int
    """Updates made, as far as the file says."""


def read(path: Path) -> Found:
    """The weights of a whole checkpoint (``{"model": ..., "ema": ..., "steps": ...}``), or of a bare state dict.

    Args:
        path: ``.safetensors``, or what `torch.save` wrote. Of the latter nothing is made but tensors and plain values.

    Raises:
        MultigenError: there is no such file, it is damaged, or it is something else.
    """
    if path.suffix == ".safetensors":
        return Found(_bare(read_tensors(path)), None, 0)
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise MultigenError(f"{path} holds no checkpoint, but a {type(content).__name__}")
    whole = {name: _bare(content[name]) for name in ("model", "ema") if isinstance(content.get(name), Mapping)}
    if whole:
        step = content.get("steps", 0)
        return Found(whole.get("model"), whole.get("ema"), step if isinstance(step, int) else 0)
    if not content or not all(isinstance(x, Tensor) for x in content.values()):
        raise MultigenError(f"{path} holds no checkpoint: neither model nor ema, nor tensors alone, but {list(content)[:8]}")
    return Found(_bare(content), None, 0)


def _unpickled(path: Path) -> Any:
    if not path.is_file():
        raise MultigenError(f"{path} is no file")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it is no checkpoint of torch"
        raise MultigenError(f"{path} is not read: {what}, and a file's code is not run") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MultigenError(f"{path} is damaged or no checkpoint of torch: {reason}") from None


def _bare(content: Mapping[str, Any]) -> Tensors:
    """Tensors by name, less what data-parallel wrappers put before each name."""
    tensors = {str(name): x for name, x in content.items() if isinstance(x, Tensor)}
    wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module."): x for name, x in tensors.items()} if wrapped else tensors


def write(path: Path, trees: Mapping[str, Tensors]) -> Path:
    """Write ``{"model": ..., "ema": ...}`` as torch does, or one of them alone as safetensors (the average, if there is one).

    Raises:
        MultigenError: the file's ending is neither ``.pt`` nor ``.safetensors``, or it cannot be written.
    """
    from safetensors.torch import save

    if path.suffix not in (".pt", ".safetensors"):
        raise MultigenError(f"out={path} must end in .pt (model and ema) or .safetensors (one of them)")
    with atomic_write(path) as file:
        if path.suffix == ".pt":
            torch.save(dict(trees), file)
        else:
            file.write(save(trees.get("ema", trees["model"])))
    return path
