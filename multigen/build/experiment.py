"""The objects of one experiment, each made when it is first asked for: sampling needs no teacher, evaluation no optimiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch

from multigen.build.compose import Config
from multigen.build.make import call, check, make
from multigen.cache import Cached, InMemory, Storage, load_teacher, open_cache, paired
from multigen.denoiser import check_taps
from multigen.diffusion import Diffusion
from multigen.files import nearest
from multigen.modality import Dataset, Encoder, Metric, Modality, whole
from multigen.objective import Objective
from multigen.process import Process
from multigen.random import hash64
from multigen.run import Run
from multigen.sampling import Sampler
from multigen.state import MultigenError
from multigen.trainer import Observer, Trainer

TARGETS = ("cached", "online")


class Experiment:
    """What a configuration describes.

    Args:
        config: composed by `multigen.build.compose`, or read back from a run folder.

    Raises:
        MultigenError: a part that is asked for is missing, or cannot be made; the message names its key.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def name(self) -> str:
        return str(self.config.get("name"))

    @property
    def command(self) -> str:
        """What prepares this experiment, for messages."""
        return f"multigen prepare experiment={self.name}"

    # ------------------------------------------------------------------------------------------------------------- data

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The data sets by split, without cached targets."""
        return {split: self._make(f"data.{split}") for split in ("train", "valid") if split in self._node("data")}

    def prepare_data(self) -> Any:
        """Fetch and embed the data, where they need it: call ``data.prepare`` and return what it does, the data's folder."""
        return make(self._node("data").get("prepare"), "data.prepare")

    @cached_property
    def train(self) -> Dataset:
        return self._with_targets("train")

    @cached_property
    def valid(self) -> Dataset:
        return self._with_targets("valid")

    def _with_targets(self, split: str) -> Dataset:
        dataset = self._dataset(split)
        if self.teachers and self._targets == "cached":
            dataset = self._cached(dataset)
        elif self.teachers:
            dataset = self._online(dataset)
        return paired(dataset, self._pairing, self.seed)

    def _online(self, dataset: Dataset) -> Dataset:
        seen = whole(dataset)
        return seen if self._pairing == "own" else InMemory(seen, self.modality_with(self.teachers), self.teachers)

    def _cached(self, dataset: Dataset) -> Dataset:
        readers = {
            name: open_cache(dataset, teacher, name, self.storage(name).dtype, command=self.command)
            for name, teacher in self.teachers.items()
        }
        return Cached(dataset, readers)

    def _dataset(self, split: str) -> Dataset:
        if split not in self.datasets:
            raise MultigenError(f"experiment {self.name!r} has no data.{split}: {nearest(split, self.datasets)}")
        return self.datasets[split]

    @property
    def _pairing(self) -> str:
        """Whose representation an example is given, see `multigen.cache.pairing`."""
        return str(self.config.get("pairing", "own"))

    @property
    def _targets(self) -> str:
        found = self.config.get("targets", "cached")
        if found not in TARGETS:
            raise MultigenError(f"targets is {found!r}: {nearest(str(found), TARGETS)}")
        return str(found)

    # --------------------------------------------------------------------------------------------------------- teachers

    def prepare_weights(self) -> None:
        """Fetch the weights that encoders bring along: call the static ``prepare`` of those that have one.

        It is given those of the encoder's own settings that it takes.
        """
        for name, node in (self.config.get("encoders") or {}).items():
            fetch = getattr(check(node, key := f"encoders.{name}"), "prepare", None)
            if fetch is not None:
                wanted = inspect.signature(fetch).parameters
                call(fetch, (), {k: value for k, value in node.items() if k in wanted}, key)

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Frozen encoders by target name, as they come."""
        return make(self.config.get("encoders") or {}, "encoders")

    @cached_property
    def teachers(self) -> Mapping[str, Encoder]:
        """The same as targets are made of them: whitened where the cache is. Each is loaded when it is first used."""
        return _Lazy(self.config.get("encoders") or {}, self._teacher)

    def _teacher(self, name: str) -> Encoder:
        train = self._dataset("train")
        return load_teacher(self.encoders[name], name, self.storage(name), train, command=self.command)

    def storage(self, name: str) -> Storage:
        """How the target is stored: ``cache.<name>``."""
        given, known = self.config.get("cache") or {}, self.config.get("encoders") or {}
        if unknown := sorted(set(given) - set(known)):
            raise MultigenError(f"cache.{unknown[0]} belongs to no encoder: {nearest(unknown[0], known)}")
        return make({"_target_": "multigen.cache.Storage", **given.get(name, {})}, f"cache.{name}")

    # --------------------------------------------------------------------------------------------------- domain and model

    @cached_property
    def modality(self) -> Modality[Any]:
        """Without encoders, unless targets are computed online."""
        return self.modality_with(self.teachers if self._targets == "online" else {})

    def modality_with(self, encoders: Mapping[str, Encoder]) -> Modality[Any]:
        extra = {"encoders": encoders} if encoders else {}
        return make(self._node("modality") | extra, "modality")

    @cached_property
    def processes(self) -> dict[str, Process]:
        return self._make("processes")

    @cached_property
    def denoiser(self) -> Any:
        """The network; its initial weights depend on the seed alone, not on what else is made."""
        with _seeded(self.seed, "denoiser"):
            return self._make("denoiser")

    @cached_property
    def diffusion(self) -> Diffusion:
        with _seeded(self.seed, "objective"):
            objective = self._make("objective")
        self._check_taps(objective)
        times = make(self.config.get("times"), "times")
        return self._make("diffusion")(self.denoiser, self.processes, objective, times)

    def _check_taps(self, objective: Objective) -> None:
        """Refuse a term that asks for what the network, if it tells what it has, has not: the first step would be too late."""
        known = getattr(self.denoiser, "tap_names", None)
        for name, term in objective.terms.items() if known is not None else ():
            call(check_taps, (term.taps, known), {}, f"objective.terms.{name}")

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    # ---------------------------------------------------------------------------------------------------------- using it

    def trainer(self, run: Run) -> Trainer:
        """What trains it in a run's folder."""
        make_trainer = make(self._node("trainer") | {"observers": self.observers}, "trainer")
        settings = {"optimizer": self._make("optimizer"), "seed": self.seed, "device": self.config.get("device", "auto")}
        return call(make_trainer, (self.diffusion, self.train, self.modality, run), settings, "trainer")

    @cached_property
    def observers(self) -> list[Observer]:
        """What looks on while training. A partial is given the experiment's own objects by the names of its parameters."""
        made = make(self._node("trainer").get("observers") or {}, "trainer.observers")
        used = {k: x for k, x in made.items() if x is not None}  # null leaves one out
        return [self._completed(x, f"trainer.observers.{k}") if isinstance(x, partial) else x for k, x in used.items()]

    def _completed(self, observer: partial[Any], key: str) -> Any:
        own = {
            "dataset": lambda: self.valid,
            "held_out": lambda: self._dataset("valid"),
            "sampler": lambda: self.sampler,
            "metrics": lambda: self.new_metrics,
        }
        wanted = set(inspect.signature(observer.func).parameters) - set(observer.keywords)
        return call(observer, (), {name: get() for name, get in own.items() if name in wanted}, key)

    @cached_property
    def sampler(self) -> Sampler:
        return self._make("sampler")

    @cached_property
    def metrics(self) -> dict[str, Metric[Any]]:
        return self.new_metrics()

    def new_metrics(self) -> dict[str, Metric[Any]]:
        """Metrics that have seen no samples."""
        return {k: m for k, m in make(self.config.get("metrics") or {}, "metrics").items() if m is not None}

    # ------------------------------------------------------------------------------------------------------------ making

    def _node(self, key: str) -> Any:
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node or node[part] is None:
                raise MultigenError(f"the configuration has no {key!r}; did you give an experiment?")
            node = node[part]
        return node

    def _make(self, key: str) -> Any:
        return make(self._node(key), key)


class _Lazy(Mapping[str, Any]):
    """A mapping whose names are known and whose values are made when they are first asked for."""

    def __init__(self, names: Iterable[str], load: Callable[[str], Any]) -> None:
        self._names, self._load, self._found = list(names), load, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._load(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict[str, Any]:
        """Travels to loader workers as names: they collate, and do not encode."""
        return {"_names": self._names, "_load": None, "_found": {}}


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    """Torch's random numbers are those of (seed, part) inside, and go on as if nothing had happened outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash64(seed, part))
        yield
