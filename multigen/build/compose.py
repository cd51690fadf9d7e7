"""From files and overrides to a configuration: a plain dict, every interpolation resolved."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from multigen.state import MultigenError

Config = dict[str, Any]


def config_dir() -> Path:
    """The folder of shipped configurations: ``configs/`` of the checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def groups(command: str = "train") -> list[str]:
    """The groups that a command chooses from, as its defaults list says: ``experiment``, ``sampler``, ..."""
    found: set[str] = set()
    for entry in _read(config_dir() / f"{command}.yaml").get("defaults", []):
        if isinstance(entry, dict):
            found |= {name for name in entry if not name.startswith("override ")}
        elif entry != "_self_":
            found |= set(groups(entry))
    return sorted(found)


def _read(path: Path) -> Config:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def options(group: str) -> list[str]:
    """What ``group=...`` can be: ``points/vanilla``, ... Files that begin with an underscore are parts of others."""
    root = config_dir() / group
    found = (p.relative_to(root).with_suffix("") for p in root.rglob("*.yaml"))
    return sorted(p.as_posix() for p in found if not p.name.startswith("_"))


def compose(command: str = "train", overrides: Sequence[str] = (), resolve: bool = True) -> Config:
    """The configuration of a command, as ``multigen COMMAND OVERRIDES...`` would see it.

    >>> compose("train", ["experiment=points/vanilla", "trainer.steps=10"])["trainer"]["steps"]
    10
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return plain(hydra.compose(command, list(overrides)), resolve)


def share(part: str, whole: int) -> int:
    """A part of a depth in whole blocks, at least one.

    >>> share("2/7", 28), share("2/7", 12)
    (8, 3)
    """
    return max(1, round(Fraction(part) * whole))


def plain(config: Any, resolve: bool = True) -> Config:
    """An OmegaConf node as dicts and lists, interpolations resolved or left as they are written."""
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

    OmegaConf.register_new_resolver("times", operator.mul, replace=True)  # ${times:2,${denoiser.width}}
    OmegaConf.register_new_resolver("share", share, replace=True)  # block${share:2/7,${denoiser.depth}}
    try:
        found = OmegaConf.to_container(config, resolve=resolve)
    except InterpolationToMissingValueError as error:
        key = str(error).splitlines()[0].rpartition(" ")[2]
        raise MultigenError(f"{key} is needed and not given: add {key}=...") from None
    except OmegaConfBaseException as error:
        raise MultigenError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from None
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}
