"""What a run folder knows, read without failing on what is not there yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multigen.files import read_json, read_text
from multigen.run import Run
from multigen.state import MultigenError


@dataclass(frozen=True)
class Record:
    """One run, for readers.

    Attributes:
        folder: the run's folder.
        config: content of ``config.yaml``, {} if there is none.
        yaml: its text.
        rows: the lines of ``metrics.jsonl`` by step, later lines overruling earlier ones of the same step.
        evaluation: content of ``evaluation.json``, {} if there is none.
        versions: content of ``versions.json``: what trained it last; {} if there is none.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    yaml: str = ""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return str(self.config.get("name") or self.folder.name)

    @property
    def steps(self) -> int:
        """Optimiser steps that were logged."""
        return max(self.rows, default=0)

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted key; the default where it is missing or null."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return default if node is None else node

    def keys(self, prefix: str = "") -> list[str]:
        """Names of logged numbers that begin with `prefix`, in order of appearance."""
        return [k for k in dict.fromkeys(k for row in self.rows.values() for k in row) if k.startswith(prefix)]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged number, where it is one."""
        found = [(step, row[key]) for step, row in sorted(self.rows.items()) if isinstance(row.get(key), (int, float))]
        return [step for step, _ in found], [float(value) for _, value in found]

    def grids(self) -> list[tuple[int, Path]]:
        """Pictures of samples drawn while training: (step, file)."""
        named = ((re.fullmatch(r"step_(\d+)", p.stem), p) for p in (self.folder / "samples").glob("step_*.png"))
        return sorted((int(match[1]), path) for match, path in named if match)

    def pictures(self, listed: Mapping[str, str]) -> list[tuple[str, Path]]:
        """Caption and file of those pictures, named relative to the folder, that are there."""
        return [(caption, self.folder / name) for caption, name in listed.items() if (self.folder / name).is_file()]


def read(folder: Path | str) -> Record:
    """Read a run's folder.

    Raises:
        MultigenError: there is no such folder, or a file in it is damaged.
    """
    run = Run(folder)
    if not run.folder.is_dir():
        raise MultigenError(f"{folder} is not a run folder")
    above = run.folder.absolute().parents
    if not run.begun and (inside := next((str(one) for one in above[:2] if Run(one).begun), None)):
        raise MultigenError(f"{folder} is no run folder, but lies in the one of {inside}")
    configured, evaluated, made_by = (run.folder / f for f in ("config.yaml", "evaluation.json", "versions.json"))
    rows: dict[int, dict[str, Any]] = {}
    for entry in run.history():
        rows[entry["step"]] = {**rows.get(entry["step"], {}), **entry}
    return Record(
        run.folder,
        run.stored() if configured.is_file() else {},
        read_text(configured) if configured.is_file() else "",
        rows,
        read_json(evaluated) if evaluated.is_file() else {},
        read_json(made_by) if made_by.is_file() else {},
    )
