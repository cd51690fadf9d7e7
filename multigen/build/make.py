"""From a configuration node to an object, with errors that name the key, the thing and the choices.

``_target_``, ``_partial_`` and ``_args_`` mean what they mean to Hydra's ``instantiate``. A stored configuration therefore
needs no Hydra to be sampled from, and a partial is a plain `functools.partial`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from multigen.files import nearest
from multigen.kinds import hints, misfit
from multigen.state import MultigenError


class _Placed(MultigenError):
    """An error that already says where in the configuration it belongs."""


def make(node: Any, key: str) -> Any:
    """The object that a node describes: ``_target_`` called with the node's other entries, nested ones first.

    Lists, dicts and values without a ``_target_`` stay what they are, with what is nested in them made.

    Args:
        key: where the node stands, for messages: ``denoiser``, ``metrics.frechet``, ...

    Raises:
        MultigenError: a target does not exist, lacks a parameter, does not take one, or refuses a value.
    """
    if isinstance(node, list):
        return [make(child, f"{key}[{i}]") for i, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {name: make(child, f"{key}.{name}") for name, child in node.items()}
    target = check(node, key)
    settings = {name: make(child, f"{key}.{name}") for name, child in node.items() if name not in _DIRECTIVES}
    arguments = make(node.get("_args_", []), f"{key}._args_")
    if node.get("_partial_"):
        return partial(target, *arguments, **settings)
    return call(target, arguments, settings, key)


_DIRECTIVES = {"_target_", "_partial_", "_args_"}


def check(node: dict[str, Any], key: str) -> Callable[..., Any]:
    """The target of a node, which takes every parameter that the node gives, and values of their kinds.

    >>> check({"_target_": "torch.optim.AdamW", "learning_rate": 0.1}, "optimizer")
    Traceback (most recent call last):
    multigen.state.MultigenError: optimizer: torch.optim.AdamW has no parameter 'learning_rate': choices are ...
    """
    name = str(node["_target_"])
    target = _locate(name, key)
    given = set(node) - _DIRECTIVES
    taken = _parameters(target)
    if taken is not None and (unknown := sorted(given - set(taken))):
        raise _Placed(f"{key}: {name} has no parameter {unknown[0]!r}: {nearest(unknown[0], taken)}")
    known = hints(target)
    if wrong := next((m for k in sorted(known.keys() & given) if (m := misfit(node[k], known[k], f"{key}.{k}"))), None):
        raise _Placed(wrong)
    return target


def _parameters(target: Callable[..., Any]) -> list[str] | None:
    """Names of a callable's parameters; None if it takes any, or does not tell."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in parameters]


def call(target: Callable[..., Any], arguments: Sequence[Any], settings: Mapping[str, Any], key: str) -> Any:
    """``target(*arguments, **settings)``; what it refuses is a `MultigenError` that begins with the key."""
    try:
        return target(*arguments, **settings)
    except _Placed:
        raise
    except (MultigenError, TypeError, ValueError) as error:
        raise _Placed(f"{key}: {error}") from error


def _locate(name: str, key: str) -> Callable[..., Any]:
    """The class or function of a dotted name: module, attribute, attribute of that, ..."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:depth])
        try:
            found = import_module(path)
        except ModuleNotFoundError as error:
            if error.name and f"{path}.".startswith(f"{error.name}."):
                continue
            raise _Placed(f"{key}: {name} needs the package {error.name!r}, which is not installed") from error
        return _attribute(found, path, parts[depth:], name, key)
    raise _Placed(f"{key}: unknown component {name!r}: there is no module {parts[0]!r}")


def _attribute(found: Any, path: str, rest: list[str], name: str, key: str) -> Callable[..., Any]:
    for part in rest:
        if not hasattr(found, part):
            raise _Placed(f"{key}: unknown component {name!r}: {path} has no {part!r}; {nearest(part, _public(found))}")
        found, path = getattr(found, part), f"{path}.{part}"
    if not callable(found):
        raise _Placed(f"{key}: component {name!r} is not a class or function")
    return found


def _public(found: Any) -> list[str]:
    names = getattr(found, "__all__", None) or [n for n in dir(found) if not n.startswith("_")]
    return [n for n in names if callable(getattr(found, n, None)) or inspect.ismodule(getattr(found, n, None))]
