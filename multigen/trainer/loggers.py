"""Where numbers and pictures go beside ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from multigen.files import nearest
from multigen.run import Run
from multigen.state import MultigenError


class Logger(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, run: Run, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases; a resumed run goes on under its old identity, which is its folder's name."""

    def __init__(self, run: Run, start: int) -> None:
        import wandb

        name = run.folder.resolve().name
        known = {"project": "multigen", "name": name, "id": name, "resume": "allow"}
        self._run: Any = wandb.init(dir=str(run.folder), config=run.config, **known)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[Run, int], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


def open_loggers(names: Sequence[str], run: Run, start: int) -> list[Logger]:
    """The loggers of these names. TensorBoard is left out where it is not installed: ``metrics.jsonl`` holds the same.

    Args:
        start: the step that training goes on from.

    Raises:
        MultigenError: an unknown name, or W&B is asked for and not installed.
    """
    if unknown := [name for name in names if name not in _KINDS]:
        raise MultigenError(f"unknown logger {unknown[0]!r}: {nearest(unknown[0], _KINDS)}")
    if "wandb" in names and find_spec("wandb") is None:
        raise MultigenError("logging to 'wandb' needs the package wandb: pip install wandb")
    return [_KINDS[name](run, start) for name in names if find_spec(name) is not None]
