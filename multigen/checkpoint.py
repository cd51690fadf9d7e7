"""Checkpoints: folders of safetensors and JSON that are whole or not there, and that can be read without running code.

::

    checkpoints/step_00001000/
        state.json              format, step, what is no tensor, and size and SHA-256 of the other files
        model.safetensors       denoiser and projectors
        ema_0.999.safetensors   the averaged denoiser, one file per decay
        optimizer.safetensors

A checkpoint is written under a temporary name, flushed to the disk and renamed; only then older ones are removed. Reading
checks every file. What a `kill -9` leaves is therefore the previous checkpoint and rubbish that `files.remove_temporaries`
recognises.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from multigen.files import nearest, read_json, sha256, sync_file, sync_folder, temporary, write_json, writing
from multigen.state import MultigenError

FORMAT = 1
"""Version of the folder's layout."""

_NAME = re.compile(r"step_(\d+)")
_log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


class Checkpoint(NamedTuple):
    """A checkpoint on the disk whose files were found whole."""

    path: Path
    step: int
    state: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Names of its tensor files, without the ending."""
        return [Path(name).stem if name.endswith(".safetensors") else name for name in self.state["files"]]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The content of one file, ``model`` for instance, on the CPU."""
        if f"{name}.safetensors" not in self.state["files"]:
            raise MultigenError(f"{self.path} has no weights {name!r}: {nearest(name, self.names)}")
        try:
            return load_file(self.path / f"{name}.safetensors")
        except (SafetensorError, OSError) as error:
            raise MultigenError(f"{self.path / name}.safetensors is damaged: {error}") from None


# ------------------------------------------------------------------------------------------------------------------ writing


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    keep: int = 3,
    keep_every: int | None = None,
) -> Path:
    """Write the checkpoint of a step and remove the oldest ones beyond `keep`.

    Args:
        folder: the run's folder of checkpoints. Only one process may write to it.
        step: number of optimiser updates made. A checkpoint of the same step is replaced.
        tensors: file name without ending -> name -> tensor.
        state: what is no tensor, as JSON values.
        keep: number of checkpoints to keep, at least 1.
        keep_every: those of its multiples are never removed.

    Raises:
        MultigenError: the disk is full, ... The previous checkpoints are untouched.
    """
    path = folder / f"step_{step:08d}"
    part = temporary(path)
    with writing(path):
        try:
            part.mkdir(parents=True)
            files = {f"{name}.safetensors": _write(part / f"{name}.safetensors", some) for name, some in tensors.items()}
            write_json(part / "state.json", {"format": FORMAT, "step": step, "files": files, **state})
            _publish(part, path)
        except MultigenError as error:
            raise MultigenError(str(error).replace(part.name, path.name)) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _prune(folder, keep, keep_every)
    return path


def _write(path: Path, tensors: Tensors) -> dict[str, Any]:
    """Write one file; its entry in ``state.json``."""
    try:
        save_file(_separate(tensors), path)
    except SafetensorError as error:  # this is how it reports a full disk
        code = re.search(r"os error (\d+)", str(error))
        raise MultigenError(f"cannot write {path}: {os.strerror(int(code[1])) if code else error}") from None
    sync_file(path)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _separate(tensors: Tensors) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which shares its memory with another (tied weights are written twice)."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if memory in seen or plain.untyped_storage().nbytes() != plain.nbytes else plain
        seen.add(memory)
    return separate


def _publish(part: Path, path: Path) -> None:
    """Give a finished folder its name, in place of an older one of that name."""
    sync_folder(part)
    if path.exists():
        _remove(path)
    part.rename(path)
    sync_folder(path.parent)


def _prune(folder: Path, keep: int, keep_every: int | None) -> None:
    for old in paths(folder)[: -max(keep, 1)]:
        if keep_every is None or _step(old) % keep_every:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder in such a way that an interruption leaves no half of it under its name."""
    doomed = path.rename(temporary(path))
    shutil.rmtree(doomed, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------------ reading


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    found = [p for p in folder.glob("step_*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def read(path: Path, names: Iterable[str] | None = None) -> Checkpoint:
    """Open a checkpoint after checking its files against their checksums.

    Args:
        names: the tensor files to check; all of them by default.

    Raises:
        MultigenError: naming the file that is missing, truncated or altered.
    """
    state = read_json(path / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("files"), dict):
        raise MultigenError(f"{path / 'state.json'} is damaged: it does not describe a checkpoint")
    if state.get("format") != FORMAT:
        raise MultigenError(f"{path} has checkpoint format {state.get('format')}; this version reads format {FORMAT}")
    wanted = None if names is None else {f"{name}.safetensors" for name in names}
    for name, entry in state["files"].items():
        if wanted is None or name in wanted:
            _verify(path / name, entry)
    return Checkpoint(path, state["step"], state)


def _verify(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise MultigenError(f"{path} is missing")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise MultigenError(f"{path} is damaged: {size} bytes instead of {entry['bytes']}")
    if sha256(path) != entry["sha256"]:
        raise MultigenError(f"{path} is damaged: its checksum differs")


def latest(folder: Path, names: Iterable[str] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, with a warning for every damaged one that is passed over.

    Returns:
        None if there are no checkpoints.

    Raises:
        MultigenError: there are, and all of them are damaged.
    """
    errors = []
    for path in reversed(paths(folder)):
        try:
            return read(path, names)
        except MultigenError as error:
            errors.append(error)
            _log.warning("%s; trying the checkpoint before it", error)
    if errors:
        raise MultigenError(f"no checkpoint in {folder} can be used: {errors[0]}")
    return None


# ------------------------------------------------------------------------------------------------------- modules, optimisers


def restore(module: nn.Module, tensors: Tensors, origin: Path | str) -> None:
    """Load weights, all of them, into a module of the same shape.

    Raises:
        MultigenError: they do not fit; names the first tensor that does not.
    """
    own = module.state_dict()
    faults = [f"it lacks {name!r}" for name in own if name not in tensors]
    faults += [f"the network has no {name!r}" for name in tensors if name not in own]
    faults += [
        f"{name!r} is {list(tensors[name].shape)} there and {list(own[name].shape)} here"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise MultigenError(f"{origin} belongs to another network: {faults[0]}{more}")
    module.load_state_dict(dict(tensors))


def load_denoiser(denoiser: nn.Module, checkpoint: Checkpoint, weights: str | None = None) -> str:
    """Load a trained denoiser for sampling.

    Args:
        weights: ``ema_0.999`` or another of `averages`, or ``model`` for the weights as trained; the first average by default.

    Returns:
        The name of the weights that were loaded.
    """
    name = weights or next(iter(averages(checkpoint)), "model")
    tensors = checkpoint.tensors(name)
    if name == "model":
        tensors = {k.removeprefix("denoiser."): v for k, v in tensors.items() if k.startswith("denoiser.")}
    restore(denoiser, tensors, checkpoint.path / f"{name}.safetensors")
    return name


def start(diffusion: nn.Module, checkpoint: Checkpoint, weights: str | None = None) -> tuple[str, list[str]]:
    """Give a new training the weights of another: of the denoiser, all; of a term, such as its projector, if they fit.

    Args:
        diffusion: a `multigen.diffusion.Diffusion`.
        weights: of the denoiser, see `load_denoiser`.

    Returns:
        The name of the denoiser's weights, and the terms that keep their own.
    """
    name = load_denoiser(cast(nn.Module, diffusion.denoiser), checkpoint, weights)
    there, fresh = checkpoint.tensors("model"), []
    for term, module in cast(nn.ModuleDict, cast(nn.Module, diffusion.objective).trained).items():
        own = {k: (f"objective.trained.{term}.{k}", x.shape) for k, x in module.state_dict().items()}
        if all(key in there and there[key].shape == shape for key, shape in own.values()):
            module.load_state_dict({k: there[key] for k, (key, _) in own.items()})
        else:
            fresh.append(term)
    return name, fresh


def averages(checkpoint: Checkpoint) -> list[str]:
    """Names of the averaged weights, in the order of the configuration."""
    return [name for name in checkpoint.names if name.startswith("ema_")]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors, and all else as JSON values."""
    state = optimizer.state_dict()
    flat = {f"{index}.{name}": value for index, slots in state["state"].items() for name, value in slots.items()}
    tensors = {k: v for k, v in flat.items() if isinstance(v, Tensor)}
    return tensors, {"groups": state["param_groups"], "values": {k: v for k, v in flat.items() if k not in tensors}}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """The reverse of `pack_optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**values["values"], **tensors}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in g.items()} for g in values["groups"]]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise MultigenError(f"the checkpoint belongs to another optimiser: {error}") from None
