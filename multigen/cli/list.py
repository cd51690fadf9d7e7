"""``multigen list``: what there is to train, and what is ready for it."""

from __future__ import annotations

import ast
import pkgutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from multigen.cache.progress import amount
from multigen.cli.catalogue import experiments
from multigen.files import data_root, read_json


def main(config: Any) -> None:
    root = data_root()
    _section("experiments", experiments())
    _section("modalities", modalities())
    _section(f"prepared in {root}", prepared(root) or {"nothing": "`multigen prepare experiment=NAME` prepares what it needs"})


def _section(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0)
    print(f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows.items()), "", sep="\n")


def modalities() -> dict[str, str]:
    """Name -> the first line of its package's docstring, read without importing it."""
    spec = find_spec("modalities")
    folders = list(spec.submodule_search_locations or []) if spec else []
    names = sorted(m.name for m in pkgutil.iter_modules(folders) if m.ispkg)
    return {name: _first_line(next(p for f in folders if (p := Path(f) / name / "__init__.py").is_file())) for name in names}


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def prepared(root: Path) -> dict[str, str]:
    """Data sets first, then cached representations, each with its size on the disk."""
    data = {p.parent.name: _data(p) for p in sorted(root.glob("*/manifest.json"))}
    caches = {f"cache/{p.parent.name}": _cache(p) for p in sorted(root.glob("cache/*/manifest.json"))}
    return data | caches


def _data(manifest: Path) -> str:
    about = read_json(manifest)
    counts = ", ".join(f"{number:,} {side}" for side, number in about.get("count", {}).items())
    return f"{about.get('name', '')}: {counts}, {_size(manifest.parent)}, {about.get('licence', 'no licence stated')}"


def _cache(manifest: Path) -> str:
    about = read_json(manifest)
    spec = about.get("spec", {})
    return f"{spec.get('name')} of {about.get('count', 0):,} examples as {spec.get('dtype')}, {_size(manifest.parent)}"


def _size(folder: Path) -> str:
    """Of all files below: "12.3 MB"."""
    return amount(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
