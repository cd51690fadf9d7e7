"""Who may import whom. DESIGN: rooms lie on levels and arrows point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEVELS = [
    {"state", "random", "files", "interpolation", "curriculum", "distances", "neighbours", "describe", "bound", "pool"}
    | {"kinds"},
    {"process", "times", "denoiser", "guidance", "tapping", "nn", "modality", "assets", "stock"} | {"buckets"},
    {"teachers"},
    {"objective", "sampling", "unmasking", "ode"},
    {"alignment", "diffusion"},
    {"trainer", "loader", "packing", "ema", "checkpoint", "distributed", "run", "cache", "store", "evaluate", "report"}
    | {"observers", "testing"},
    {"benchmark", "diagnose"},
    {"build"},
    {"cli"},
]
"""The rooms of multigen, lowest level first. A room imports from its own level or below, never in a circle."""

COMPOSERS = {"build", "cli"}
"""The only rooms that know Hydra."""

LAZY = {
    "accelerate", "Bio", "biotite", "diffusers", "e3nn", "esm", "hydra", "jinja2", "matplotlib", "mini3di", "omegaconf", "PIL",
    "rdkit", "resvg_py", "rich", "scipy", "tensorboard", "timm", "tmtools", "tokenizers", "torch_geometric", "torchdiffeq",
    "torch_fidelity", "torchmetrics", "torchvision", "transformers", "wandb",
}  # fmt: skip
"""Packages that multigen imports inside the functions that need them, so that importing it is quick."""

DOMAINS = {"image", "images", "emoji", "protein", "proteins", "residue", "residues", "molecule", "molecules", "atom", "atoms"}
"""Words that the core's code must not contain (its prose may)."""

MODULES = sorted((ROOT / "multigen").rglob("*.py"))
MODALITIES = sorted(p for p in (ROOT / "modalities").iterdir() if p.is_dir() and p.name != "__pycache__")
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room(module: str) -> str:
    """multigen.cache.read -> cache."""
    return [*module.split("."), ""][1]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that the code below `node` imports, at any depth."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import of {child.module}"
            yield from {_module(f"{child.module}.{alias.name}") or str(child.module) for alias in child.names}


def _module(name: str) -> str | None:
    """The name, if a module of this repository has it."""
    path = ROOT / name.replace(".", "/")
    return name if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() else None


def imports_of(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text())))


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported when this one is, annotations for type checkers apart."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ClassDef):
            yield from at_import_time(ast.Module(node.body, []))
        else:
            yield from imports(node)


def words(tree: ast.Module) -> Iterator[str]:
    """Every word of the code's names and strings, docstrings apart."""
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(text := getattr(node, field, None), str):
                yield from text.lower().split("_")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose and " " not in node.value:
            yield from node.value.lower().replace("/", ".").split(".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_down(path):
    own = room(name_of(path))
    if own == "":
        return
    assert own in LEVEL, f"give the room {own!r} a level"
    above = {m for m in imports_of(path) if m.startswith("multigen.") and LEVEL[room(m)] > LEVEL[own]}
    assert not above


def test_no_circles():
    graph = {name_of(p): {m for m in imports_of(p) if m.startswith("multigen.")} - {name_of(p)} for p in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_knows_no_modality(path):
    tree = ast.parse(path.read_text())
    assert not {m for m in imports(tree) if m.split(".")[0] == "modalities"}
    if room(name_of(path)) not in COMPOSERS:
        assert not DOMAINS & set(words(tree))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_composers_know_hydra(path):
    if room(name_of(path)) not in COMPOSERS:
        assert not {m for m in imports_of(path) if m.split(".")[0] in ("hydra", "omegaconf")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path):
    assert not {m.split(".")[0] for m in at_import_time(ast.parse(path.read_text()))} & LAZY


@pytest.mark.parametrize("folder", MODALITIES, ids=lambda p: p.name)
def test_a_modality_imports_the_core_and_itself(folder):
    for path in folder.rglob("*.py"):
        ours = {m for m in imports_of(path) if m.split(".")[0] in ("multigen", "modalities")}
        own = f"modalities.{folder.name}"
        strangers = {m for m in ours if m.startswith("modalities") and m != own and not m.startswith(own + ".")}
        assert not strangers, path
        if path.name != "commands.py":  # what a modality adds to the command line is a part of it
            assert not {m for m in ours if room(m) in COMPOSERS and m.startswith("multigen")}, path


def test_importing_multigen_is_quick():
    code = "import sys, multigen; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {name for name in [*LAZY, "torch", "numpy"] if f"'{name}'" in loaded}


def test_public_names_exist():
    import multigen

    missing = {name for name in multigen.__all__ if not hasattr(multigen, name)}
    assert not missing
