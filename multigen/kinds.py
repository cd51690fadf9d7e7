"""Whether a configured value is of a kind that a parameter's annotation names.

A configuration holds plain values: numbers, strings, booleans, null, and lists and mappings of them. Annotations that name
plain kinds are held to; one that names anything else (a class, `Any`) is the component's own business, and so are nested
components. No kind stands in for another, but for an int where a float is expected.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, Union, get_args, get_origin

_WORDS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
_LISTS = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
_MAPPINGS = (dict, Mapping)


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> annotation, as far as the target tells. What can be left out may also be null if that is its default."""
    try:
        parameters = inspect.signature(target, eval_str=True).parameters.values()
    except Exception:  # annotations are anybody's code: one that cannot be read says nothing
        return {}
    named = [p for p in parameters if p.annotation is not p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {
        p.name: p.annotation | types.NoneType if p.default is None and _kinds(p.annotation) else p.annotation for p in named
    }


def misfit(value: Any, hint: Any, key: str) -> str | None:
    """What is wrong with a value, as one line; None if nothing is.

    >>> misfit("abc", float | None, "trainer.clip"), misfit([1, "x"], list[int], "sizes")
    ("trainer.clip is 'abc', expected float or null", "sizes[1] is 'x', expected int")
    """
    kinds = _kinds(hint)
    made = type(value) not in (*_WORDS, list, dict) or (isinstance(value, dict) and "_target_" in value)
    if not kinds or made or type(value) in kinds or (type(value) is int and float in kinds):
        return None
    nested = [found for kind in kinds if (found := _nested(value, kind, key)) is not None]
    if nested:
        return None if "" in nested else _either(nested)
    return f"{key} is {'null' if value is None else repr(value)}, expected {' or '.join(dict.fromkeys(map(_word, kinds)))}"


def _either(said: Sequence[str]) -> str:
    """What is wrong by each member of a union, as one: ``KEY is VALUE, expected KIND`` once for each KEY and VALUE."""
    expected: dict[str, dict[str, None]] = {}
    for wrong in said:
        where, _, kinds = wrong.rpartition(", expected ")
        expected.setdefault(where, {})[kinds] = None
    return ", or ".join(f"{where}, expected {' or '.join(kinds)}" for where, kinds in expected.items())


def _kinds(hint: Any) -> list[Any]:
    """The members of a union; none if one of them is not a plain kind, a function or a container."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [_kinds(member) for member in get_args(hint)]
        return [kind for found in members for kind in found] if all(members) else []
    if get_origin(hint) is Literal:
        return list(dict.fromkeys(map(type, get_args(hint))))
    if hint is None:
        return [type(None)]
    return [hint] if _origin(hint) in (*_WORDS, Callable, *_LISTS, *_MAPPINGS) else []


def _origin(hint: Any) -> Any:
    return get_origin(hint) or hint


def _nested(value: Any, kind: Any, key: str) -> str | None:
    """What is wrong inside a list or mapping, "" if nothing is; None if the value is not of that kind at all."""
    if isinstance(value, list) and _origin(kind) in _LISTS:
        items = zip(range(len(value)), value, _items(kind), strict=False)
        return next((found for i, x, hint in items if (found := misfit(x, hint, f"{key}[{i}]"))), "")
    if isinstance(value, dict) and _origin(kind) in (*_MAPPINGS, *_LISTS):  # parts by name may stand for a list of them
        hint = (*get_args(kind), Any)[1] if _origin(kind) in _MAPPINGS else Any
        return next((found for k, x in value.items() if (found := misfit(x, hint, f"{key}.{k}"))), "")
    return None


def _items(kind: Any) -> Iterable[Any]:
    """The annotations of a list's items, one after another."""
    arguments = get_args(kind)
    if _origin(kind) is tuple and arguments[-1:] != (...,):
        return arguments
    return repeat(arguments[0] if arguments else Any)


def _word(kind: Any) -> str:
    """What a kind is called in messages."""
    if kind in _WORDS:
        return _WORDS[kind]
    if _origin(kind) is Callable:
        return "a component"
    return "a mapping" if _origin(kind) in _MAPPINGS else "a list"
