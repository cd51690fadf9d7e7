"""Configuration to objects. With ``cli/`` the only place that imports Hydra.

A configuration is a plain dict: every interpolation resolved, every component written as ``_target_`` and its parameters. The
one that a run folder stores is complete: sampling and evaluation read nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Config = dict[str, Any]


def config_dir() -> Path:
    """The folder of shipped configurations: ``configs/`` of the checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The names of the configuration groups: ``experiment``, ``sampler``, ..."""
    return sorted(p.name for p in config_dir().iterdir() if p.is_dir())


def options(group: str) -> list[str]:
    """What ``group=...`` can be: ``image/demo``, ..."""
    root = config_dir() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def compose(command: str = "train", overrides: Sequence[str] = ()) -> Config:
    """The configuration of a command, as ``multigen COMMAND OVERRIDES...`` would see it.

    >>> compose("train", ["experiment=points/vanilla", "trainer.steps=10"])["trainer"]["steps"]
    10
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return plain(hydra.compose(command, list(overrides)))


def plain(config: Any) -> Config:
    """An OmegaConf node as dicts and lists, every interpolation resolved."""
    from omegaconf import OmegaConf

    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}
