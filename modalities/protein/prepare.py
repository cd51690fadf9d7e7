"""What `multigen prepare data=...` does for proteins."""

from __future__ import annotations

from pathlib import Path

from modalities.protein import cgdms as short_chains
from modalities.protein import promod3 as segments


def cgdms(root: str | Path | None = None) -> Path:
    """The embedded default: 2,192 short chains. Returns their folder."""
    return short_chains.prepare(root)


def promod3(root: str | Path | None = None, min_length: int = 32, max_length: int = 256) -> Path:
    """The larger real set: of 21,119 segments those of some lengths. Returns their folder."""
    return segments.prepare(root, min_length, max_length)
