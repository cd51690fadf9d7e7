"""What `multigen prepare data=...` does for proteins."""

from __future__ import annotations

from pathlib import Path

from modalities.protein import cgdms as short_chains
from modalities.protein import promod3 as segments
from modalities.protein import weights
from multigen import files
from multigen.report import viewer


def cgdms(root: str | Path | None = None) -> Path:
    """The embedded default: 2,192 short chains, with the teachers' weights and the report's viewer. Returns their folder."""
    folder = short_chains.prepare(root)
    _extras(root)
    return folder


def promod3(root: str | Path | None = None, min_length: int = 32, max_length: int = 256) -> Path:
    """The larger real set: of 21,119 segments those of some lengths; and what `cgdms` brings beside. Returns their folder."""
    folder = segments.prepare(root, min_length, max_length)
    _extras(root)
    return folder


def _extras(root: str | Path | None) -> None:
    base = Path(root) if root else files.data_root()
    weights.prepare(base)
    viewer.offer(base)
