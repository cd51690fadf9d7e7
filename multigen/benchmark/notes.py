"""What stands in the way of a fair comparison, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multigen.files import to_json
from multigen.report.record import Record
from multigen.run import HARMLESS, few, flat, matches


def _trainer(name: str) -> Callable[[Record], Any]:
    return lambda run: run.config.get("trainer", {}).get(name)


def denoising(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a denoising loss is: how each component is corrupted and scored, and with which share it is logged."""
    terms = config.get("objective", {}).get("terms", {})
    return config.get("processes", {}), terms.get("denoise", {}).get("weights")


def _evaluation(part: str, name: str) -> Callable[[Record], Any]:
    return lambda run: (run.evaluation.get(part) or {}).get(name)


def _validation(run: Record) -> Any:
    return (run.config.get("trainer", {}).get("observers") or {}).get("validation")


EQUAL: Mapping[str, Callable[[Record], Any]] = {
    "steps": lambda run: run.steps,
    "data": lambda run: run.config.get("data"),
    "batch size": _trainer("batch_size"),
    "precision": lambda run: run.versions.get("precision"),
    "averages": _trainer("ema"),
    "schedule": _trainer("schedule"),
    "times": lambda run: run.config.get("times"),
    "network": lambda run: run.config.get("denoiser"),
    "processes": lambda run: run.config.get("processes"),
    "shares of components in the denoising loss": lambda run: denoising(run.config)[1],
    "optimizer": lambda run: run.config.get("optimizer"),
    "held-out loss": _validation,
    "sampling while training": lambda run: run.config.get("sampler"),
    "number of samples": _evaluation("samples", "count"),
    "seed of the samples": _evaluation("samples", "seed"),
    "sampler": _evaluation("samples", "sampler"),
    "evaluated weights": _evaluation("checkpoint", "weights"),
    "evaluated step": _evaluation("checkpoint", "step"),
}
"""What should be the same in all runs."""


def notes(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    """One line for each thing that a reader has to know; none if the comparison is whole and fair."""
    everyone = [run for arm in runs.values() for run in arm]
    return [*differences(runs), *_mixed(runs), *_seeds(runs), *(line for run in everyone for line in _gaps(run))]


def differences(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    """One line for each thing that is not the same in all runs and should be, with the arms that are unlike the others."""
    found = []
    for name, of in EQUAL.items():
        values = {arm: sorted({to_json(of(run)) for run in some} - {"null"}) for arm, some in runs.items()}
        if len({v for some in values.values() for v in some}) > 1:
            short = all(len(v) < 20 for some in values.values() for v in some)
            found.append(f"{name} is not the same in all runs: {_list(values) if short else _unlike(values)}")
    return found


def _unlike(values: Mapping[str, Sequence[str]]) -> str:
    """The arms that are unlike most, or unlike one another where there is no majority."""
    kinds = [tuple(some) for some in values.values()]
    usual = max(kinds, key=kinds.count)
    most = kinds.count(usual) > 1
    odd = [arm for arm, some in values.items() if not most or tuple(some) != usual or len(some) > 1]
    return f"{', '.join(odd)} unlike {'the others' if most else 'one another'}"


def _mixed(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    """One line for each arm of runs that are not the same experiment, as where folders of another sweep are among them."""
    found = []
    for arm, some in runs.items():
        settings = [dict(flat(run.config)) for run in some]
        keys = dict.fromkeys(key for one in settings for key in one if not matches(key, (*HARMLESS, "seed")))
        if odd := [key for key in keys if len({to_json(one.get(key)) for one in settings}) > 1]:
            found.append(f"runs of {arm} differ in {few(odd)}")
    return found


def _seeds(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    seeds = {arm: sorted(str(run.config.get("seed")) for run in some) for arm, some in runs.items()}
    found = [f"{arm} has one run only: its spread is unknown" for arm, some in seeds.items() if len(some) == 1]
    found += [f"{arm} has several runs of one seed" for arm, some in seeds.items() if len(set(some)) < len(some)]
    return found + ([f"seeds differ: {_list(seeds)}"] if len({tuple(s) for s in seeds.values()}) > 1 else [])


def _gaps(run: Record) -> list[str]:
    planned = run.config.get("trainer", {}).get("steps")
    found = [f"{run.folder} is not finished: step {run.steps:,} of {planned:,}"] if planned and run.steps < planned else []
    return found if run.evaluation else [*found, f"{run.folder} is not evaluated"]


def _list(values: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{arm} {', '.join(some) or '-'}" for arm, some in values.items())
