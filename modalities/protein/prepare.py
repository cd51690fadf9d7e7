"""What `multigen prepare data=...` does for proteins."""

from __future__ import annotations

from pathlib import Path

from modalities.protein import cgdms as short_chains


def cgdms(root: str | Path | None = None) -> Path:
    """The embedded default, 2,192 short chains. Returns their folder."""
    return short_chains.prepare(root)
