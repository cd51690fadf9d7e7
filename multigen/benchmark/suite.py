"""What a benchmark runs: arms, which are experiments, each trained with every seed under one schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

from multigen.files import nearest
from multigen.kinds import hints, misfit
from multigen.run import flat
from multigen.state import MultigenError, at_least

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_QUIET = {"trainer.progress": False, "trainer.log_to": [], "trainer.keep": 1, "trainer.keep_every": None}
_MEASURES = {"_target_": "multigen.observers.Measures", "_partial_": True}
_OBSERVERS = "trainer.observers"
_INSTEAD = {
    "experiment": "arms",
    "seed": "seeds",
    "run": "out=FOLDER",
    "device": "device=NAME",
    "trainer.steps": "domain.steps",
}
"""What a benchmark itself says about its runs: key -> where it is given."""


@dataclass(frozen=True)
class Arm:
    """One experiment of a suite, with what is changed about it."""

    experiment: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key of the configuration -> value."""


@dataclass(frozen=True)
class Quality:
    """A number that tells how good a run is: a held-out loss (``valid/...``) or a measure of samples (``sample/...``)."""

    of: str
    """The name under which a run logs it."""
    words: str
    better: str = "lower"
    """lower | higher."""
    levels: Sequence[float] = ()
    """Values whose first epoch is asked for (EP@k); by default what the baseline has at each quarter of its run."""

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise MultigenError(f"quality {self.of!r} is better when {self.better!r}: choices are lower, higher")

    @property
    def rising(self) -> bool:
        return self.better == "higher"


class Run(NamedTuple):
    """One arm with one seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9_.]+', '_', self.arm)}-{self.seed}"


class Part(NamedTuple):
    """A piece of a run: up to a step."""

    run: str
    until: int


@dataclass(frozen=True)
class Suite:
    """The arms, the schedule, and what is measured.

    Args:
        name: of the suite.
        arms: by name.
        steps: of every run.
        seeds: of initial weights, data order and noise; each arm runs with all of them.
        quality: what is compared, the most telling first.
        baseline: the arm that the others are compared with.
        slices: in so many pieces a run is made, in turn with the other arms of its seed.
        repeat: steps for which the last arm but the controls is run again, to see that the same comes out; 0 leaves it out.
        settings: what is changed in every arm: dotted key -> value.
        validation, samples, measures: settings of what looks on (`multigen.observers`): held-out loss, sample grids, metrics.
        about: what else the file says: notes, hardware, expected numbers and their sources.
    """

    name: str
    arms: Mapping[str, Arm]
    steps: int
    quality: Sequence[Quality]
    seeds: Sequence[int] = (0, 1, 2)
    baseline: str = "vanilla"
    slices: int = 4
    repeat: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, slices=self.slices, seeds=len(self.seeds))
        at_least(0, repeat=self.repeat)
        if len({run.name for run in self.runs}) < len(self.runs):
            raise MultigenError(f"two runs would share a folder: arms are {list(self.arms)}, seeds {list(self.seeds)}")
        if self.baseline not in self.arms:
            raise MultigenError(f"baseline {self.baseline!r} is not among the arms: {nearest(self.baseline, self.arms)}")
        if not self.quality:
            raise MultigenError(f"suite {self.name!r} compares nothing: give quality")
        self._refuse("domain.settings", self.settings)
        for name, arm in self.arms.items():
            self._refuse(f"arm {name!r}", arm.settings)

    def _refuse(self, where: str, settings: Mapping[str, Any]) -> None:
        """What the suite says itself is set nowhere else: one of the two would be lost, or runs no longer be alike."""
        looks = {key: f"domain.{key.split('.')[2]}" for key in self._looks}
        for key, value in flat(settings):
            own = [x for k, x in {**_INSTEAD, **looks}.items() if _within(key, k)]
            own += [x for k, x in looks.items() if _within(k, key) and _within(key, _OBSERVERS)]  # trainer=NAME chooses a file
            if own:
                raise MultigenError(f"{where} sets {key} to {value!r}; give {own[0]} instead")

    @property
    def runs(self) -> list[Run]:
        """All of them, seed by seed: the arms of one seed side by side."""
        return [Run(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def repeated(self) -> Run | None:
        """What is run a second time."""
        own = [arm for arm, about in self.arms.items() if about.settings.get("pairing", "own") == "own"]
        guided = [arm for arm in own if arm != self.baseline]
        return Run((guided or list(self.arms))[-1], self.seeds[0]) if self.repeat else None

    def parts(self) -> Iterator[Part]:
        """The pieces in the order in which they are started: whenever it ends, the arms of a seed are about equally far."""
        for seed in self.seeds:
            for piece in range(1, self.slices + 1):
                yield from (Part(Run(arm, seed).name, -(-self.steps * piece // self.slices)) for arm in self.arms)

    def overrides(self, run: Run) -> dict[str, Any]:
        """What makes one run of an experiment: dotted key -> value, as `multigen train` would be told it."""
        arm = self.arms[run.arm]
        named = {"experiment": arm.experiment, "seed": run.seed, "trainer.steps": self.steps}
        return {**named, **_QUIET, **self._looks, **self.settings, **arm.settings}

    @property
    def _looks(self) -> dict[str, Any]:
        """The settings of what looks on: dotted key -> value."""
        watched = {
            "validation": self.validation,
            "samples": self.samples,
            "measures": {**_MEASURES, **self.measures} if self.measures else {},
        }
        return {f"{_OBSERVERS}.{o}.{k}": x for o, how in watched.items() for k, x in how.items()}


def _within(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.")


def suite(
    domain: Mapping[str, Any], arms: Any = None, seeds: Any = None, baseline: str | None = None, repeat: int | None = None
) -> Suite:
    """A suite from its file, ``configs/domain/NAME.yaml``, with what the command line says about it.

    Args:
        domain: the content of the file.
        arms: names of the file's arms or of experiments, or a mapping NAME -> experiment or {experiment, settings}.
        seeds: how many, or which.
        baseline, repeat: in place of the file's.

    Raises:
        MultigenError: something is missing, unknown or of the wrong kind.
    """
    given = checked({"arms": {}, **{k: x for k, x in domain.items() if x is not None}}, Suite, "domain", seeds=Any)
    known = {_name(k): arm(_name(k), x) for k, x in given.pop("arms").items()}
    chosen = known if arms is None else _chosen(arms, known)
    changed: dict[str, Any] = {
        "baseline": baseline,
        "repeat": repeat,
        "seeds": _seeds(given.get("seeds") if seeds is None else seeds),
    }
    changed["quality"] = [Quality(**checked(x, Quality, f"domain.quality[{i}]")) for i, x in enumerate(given["quality"])]
    if baseline is None and given.get("baseline", "vanilla") not in chosen:
        changed["baseline"] = next(iter(chosen))
    return Suite(**{**given, "arms": chosen, **{k: x for k, x in changed.items() if x is not None}})


def checked(given: Any, whole: type, where: str, **kinds: Any) -> dict[str, Any]:
    """The settings of a `whole`, if none is missing, unknown or of the wrong kind.

    Args:
        given: as they are written.
        where: in messages.
        kinds: of settings that are written in another way than they are kept.
    """
    if not isinstance(given, Mapping):
        raise MultigenError(f"{where} is {given!r}, expected a mapping")
    known = {**hints(whole), **kinds}
    if unknown := sorted(map(str, set(given) - set(known))):
        raise MultigenError(f"{where} has no {unknown[0]!r}: {nearest(unknown[0], known)}")
    needed = {p.name for p in signature(whole).parameters.values() if p.default is p.empty}
    if absent := sorted(needed - set(given)):
        raise MultigenError(f"{where} lacks {absent[0]!r}")
    if wrong := next(filter(None, (misfit(x, known[key], f"{where}.{key}") for key, x in given.items())), None):
        raise MultigenError(wrong)
    return dict(given)


def _name(name: Any) -> str:
    """YAML and the command line read a bare null as nothing."""
    return "null" if name is None else str(name)


def arm(name: str, given: Any) -> Arm:
    """An arm as it is written: the name of an experiment, or that with settings."""
    if isinstance(given, str):
        return Arm(given)
    settings = (given.get("settings") or {}) if isinstance(given, Mapping) else None
    if not isinstance(settings, Mapping) or "experiment" not in given or set(given) - {"experiment", "settings"}:
        raise MultigenError(f"arm {name!r} is an experiment, or {{experiment: NAME, settings: {{KEY: VALUE}}}}; got {given!r}")
    return Arm(str(given["experiment"]), dict(settings))


def _chosen(arms: Any, known: Mapping[str, Arm]) -> dict[str, Arm]:
    if isinstance(arms, Mapping):
        return {_name(k): arm(_name(k), x) for k, x in arms.items()}
    names = [_name(x) for x in (arms if isinstance(arms, Sequence) and not isinstance(arms, str) else [arms])]
    if not names:
        raise MultigenError(f"which arms? choices are {sorted(known)}, or any experiment")
    for name in names:
        if name not in known and "/" not in name:
            raise MultigenError(f"unknown arm {name!r}: {nearest(name, known)}; an experiment's name is one too")
    return {name: known.get(name, Arm(name)) for name in names}


def _seeds(given: Any) -> list[int] | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, list)) or any(type(x) is not int for x in _listed(given)):
        raise MultigenError(f"seeds is {given!r}: a number of seeds, or a list of them")
    return list(range(given)) if isinstance(given, int) else given


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


def seconds(text: Any) -> float | None:
    """A duration as it is written on the command line; None is no limit.

    >>> seconds("90s"), seconds("1.5h"), seconds(None)
    (90.0, 5400.0, None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", str(text))
    if not match:
        raise MultigenError(f"budget is {text!r}: a number and a unit, such as 90s, 60min or 2h")
    return float(match[1]) * _UNITS[match[2]]


def written(value: Any) -> str:
    """A value as an override says it.

    >>> written(None), written([1, "a"]), written(True)
    ('null', "[1,'a']", 'true')
    """
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{written(x)}' for k, x in value.items())}}}"
    if isinstance(value, str):
        return "'" + re.sub(r"(\\*)'", r"\1\1\'", value) + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
