"""What made a number, written down: settings as plain values, digests of objects and weights, versions of libraries."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multigen import __version__
from multigen.files import to_json


def plain(value: Any) -> Any:
    """Settings of an object as JSON values: class names, fields, public attributes; tensors by the digest of their content.

    >>> plain(functools.partial(round, ndigits=2))
    {'partial': 'builtins.round', 'args': [], 'ndigits': 2}
    """
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (torch.dtype, torch.device, PurePath)):
        return str(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return f"tensor {hash_tensors({'': torch.as_tensor(value)})}"
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return {"partial": _name(value.func), "args": plain(value.args), **plain(value.keywords)}
    if inspect.isroutine(value) or isinstance(value, type):
        return _name(value)
    if isinstance(value, nn.Module):
        settings = {name: _settings(module) for name, module in value.named_modules()}
        return {"class": _name(type(value)), "weights": hash_tensors(value.state_dict()), "modules": settings}
    if dataclasses.is_dataclass(value):
        return {"class": _name(type(value)), **{f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"class": _name(type(value)), **plain(public)}


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module does beside its weights: its public attributes, as far as they are plain or frozen settings."""
    public = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
    kinds = (type(None), str, int, float, bool, tuple, list)
    return {k: plain(v) for k, v in public.items() if isinstance(v, kinds) or dataclasses.is_dataclass(v)}


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(type(thing)))}"


def digest(*values: Any) -> str:
    """A hexadecimal digest of the settings of objects, the same in every process."""
    return hashlib.blake2b(to_json([plain(v) for v in values]).encode(), digest_size=16).hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and content."""
    content = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        content.update(f"{name} {data.dtype} {list(data.shape)};".encode())
        content.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def dataset(data: Any) -> dict[str, Any]:
    """Which data: class, split, count, fingerprint, and name, licence and attribution as far as its ``manifest`` has them."""
    manifest = getattr(data, "manifest", {})
    named = {k: manifest[k] for k in ("name", "licence", "attribution") if k in manifest}
    split = {"split": data.split} if hasattr(data, "split") else {}
    return {"class": _name(type(data)), **named, **split, "count": len(data), "fingerprint": data.fingerprint}


def versions(device: torch.device | str = "cpu") -> dict[str, str]:
    """The program, its libraries and the machine, for whoever wants the same number again.

    ``commit`` is that of the program's checkout, and ends in "-dirty" if that was changed since; absent where there is none.
    """
    found = {"multigen": __version__, "commit": _commit(), "python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "scipy", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    kind = torch.device(device)
    found["device"] = torch.cuda.get_device_name(kind) if kind.type == "cuda" else platform.machine()
    found |= {"platform": platform.system(), "threads": str(torch.get_num_threads())}
    return {k: version for k, version in found.items() if version}


@functools.cache
def _commit() -> str:
    """What git calls the state of the checkout that this file lies in; "" without a checkout or git."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # installed, maybe inside of somebody else's
        return ""
    command = ["git", "--no-optional-locks", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
