"""A file of captions, by the name that the data have for each example: what teachers of text read in the name's place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multigen.files import sha256
from multigen.modality import decode_text
from multigen.state import Batch, MultigenError
from multigen.teachers.common import raw


def read(path: str | Path) -> dict[str, str]:
    """Caption by name, of a file with a line ``{"id": NAME, "caption": TEXT}`` for each. A last line that was
    torn by a kill is left out.

    Raises:
        MultigenError: the file cannot be read, or another line is not of that form.
    """
    found: dict[str, str] = {}
    try:
        lines = Path(path).expanduser().read_text("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise MultigenError(f"cannot read the captions {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        entry = _parsed(line)
        if entry is not None:
            found[entry[0]] = entry[1]
        elif line.strip() and number < len(lines):  # behind the last line break stands nothing, or what a kill left
            wanted = '{"id": NAME, "caption": TEXT}'
            raise MultigenError(f"{path}, line {number}: expected {wanted}, found {line.strip()[:60]!r}")
    return found


def _parsed(line: str) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
        return str(entry["id"]), str(entry["caption"])
    except (ValueError, KeyError, TypeError):
        return None


class Captions:
    """A file of captions, by the name that the data have for an example.

    Raises:
        MultigenError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._known = path, read(path)

    def of(self, names: Sequence[str]) -> list[str]:
        """The captions of examples.

        Raises:
            MultigenError: one has none.
        """
        if missing := [name for name in names if name not in self._known]:
            raise MultigenError(f"{self.path} holds {len(self._known):,} captions, and none of {missing[0]!r}")
        return [self._known[name] for name in names]


def checksum(captions: Captions | None) -> str | None:
    """What features depend on if captions come from a file."""
    return None if captions is None else sha256(Path(captions.path).expanduser())


def said(batch: Batch, encoder: Any, captions: Captions | None) -> list[str]:
    """What a teacher of text reads: what the data say of each example, or the caption that is kept under its name, which is
    what they say where they have no names."""
    if captions is None:
        return decode_text(raw(batch, "caption", encoder))
    return captions.of(decode_text(raw(batch, "name" if "name" in batch.raw else "caption", encoder)))
