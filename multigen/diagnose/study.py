"""Every tap against every representation at several noise levels."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multigen.alignment import Alignment, cosine
from multigen.cache.encode import spaced
from multigen.diagnose import measures
from multigen.diagnose.features import look, pairing, rows, same_sites, targets_of
from multigen.diagnose.measures import LinearMap, cka, cknna, gram
from multigen.evaluate import evaluating, ranges
from multigen.modality import Dataset, Modality
from multigen.objective import Context
from multigen.random import keys
from multigen.state import Batch, MultigenError, at_least

FORMAT = 1
"""Version of ``diagnosis.json``."""
MEASURES = ("cosine", "cka", "cknna", "probe")


@dataclass(frozen=True)
class Settings:
    """What is asked, and of how much.

    Args:
        levels: times, from 0 (noise) to 1 (clean).
        examples: how many, evenly spaced in the data set; half of them to fit linear maps on, the others to measure.
        rows: how many sites are compared in all, about the same number from each example.
        neighbours: of CKNNA.
        clusters: of the representation, which the probe tells apart.
        seed: of the noise, the sites and the clusters.
    """

    levels: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9)
    examples: int = 512
    rows: int = 2000
    neighbours: int = 10
    clusters: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(4, examples=self.examples, rows=self.rows)
        at_least(1, neighbours=self.neighbours)
        at_least(2, clusters=self.clusters)
        if not self.levels or any(not 0 <= t <= 1 for t in self.levels):
            raise MultigenError(f"levels lie between 0 and 1, got {list(self.levels)}")


class _Reference:
    """One representation at the rows where it is compared, and what need be computed of it once."""

    def __init__(self, value: Tensor, example: Tensor, settings: Settings) -> None:
        self.value, self.settings = value, settings
        self.fit = example % 2 == 0  # (N,): whole examples, so that neighbouring sites do not stand on both sides
        if (few := min(int(self.fit.sum()), int((~self.fit).sum()))) < settings.clusters:
            raise MultigenError(f"{few} sites on one side are too few for {settings.clusters} clusters: give more examples")
        self.centred, self.unit = gram(value), gram(value, unit=True)  # (N, N) each
        self.cluster = measures.clusters(value, settings.clusters, settings.seed)  # (N,)

    def compare(self, tap: Tensor) -> dict[str, float]:
        """All measures of a tap (N, D)."""
        fit = self.fit
        told = LinearMap(tap[fit], self.value[fit])(tap[~fit])  # (M, E)
        return {
            "cosine": measures.cosine(told, self.value[~fit]),
            "cka": cka(gram(tap), self.centred),
            "cknna": cknna(gram(tap, unit=True), self.unit, self.settings.neighbours),
            "probe": measures.accuracy(tap, self.cluster, fit),
        }

    def chance(self) -> dict[str, float]:
        """What features would reach that know nothing of the representation."""
        fit = self.fit
        constant = self.value[fit].double().mean(0).expand_as(self.value[~fit])  # (M, E)
        common = self.cluster[fit].mode().values  # ()
        return {
            "cosine": measures.cosine(constant, self.value[~fit]),
            "cka": 0.0,
            "cknna": self.settings.neighbours / (len(self.value) - 1),
            "probe": float((self.cluster[~fit] == common).double().mean()),
        }


def study(
    denoiser: nn.Module,
    processes: Mapping[str, Any],
    terms: Mapping[str, Any],
    modality: Modality[Any],
    dataset: Dataset,
    taps: Sequence[str],
    settings: Settings,
    targets: Collection[str] | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Compare each tap with each representation at each noise level.

    Sites that tap and representation share are compared one by one; where they have different ones, both are pooled and
    examples are compared.

    Args:
        terms: of the objective, by name; of an `Alignment` the trained projector's own cosine is measured too.
        dataset: held-out examples, with their targets or with encoders in the modality.
        taps: names of hidden features, in the order of depth.
        targets: names of representations; all by default.

    Returns:
        ``targets``: name -> ``rows``, ``pooled`` (by tap), ``chance`` (by measure, of sites and of pooled), and for every
        measure the values, tap -> one for each level; ``best``: target -> measure -> the tap with the highest mean;
        ``trained``: term -> tap, target, and its projector's cosine at each level.
    """
    with evaluating(denoiser):
        batches = list(_batches(modality, dataset, settings, batch_size, device))
        names, count = targets_of(batches[0], targets), sum(map(len, batches))
        trained = {k: term for k, term in terms.items() if isinstance(term, Alignment) and term.target in names}
        comparison = _Comparison(names, taps, settings)
        for t in settings.levels:
            level = _Level(names, taps, trained, math.ceil(settings.rows / count))
            for batch in batches:
                level.add(look(denoiser, processes, batch.to(device), t, taps))
            comparison.add(level)
    return {**comparison.result(), "examples": count}


def _batches(
    modality: Modality[Any], dataset: Dataset, settings: Settings, batch_size: int, device: torch.device | str
) -> Iterator[Batch]:
    """Encoded once, on the CPU."""
    index = spaced(len(dataset), settings.examples)
    for part in ranges(len(index), batch_size):
        chosen = [index[i] for i in part]
        batch = modality.collate([dataset[i] for i in chosen], keys(settings.seed, chosen, "diagnose").tolist())
        yield modality.encode(batch.to(device)).to("cpu")


class _Level:
    """What is seen of the rows at one noise level, batch after batch."""

    def __init__(self, names: Sequence[str], taps: Sequence[str], trained: Mapping[str, Alignment], each: int) -> None:
        self.names, self.taps, self.trained, self.each = names, taps, trained, each
        self.count = 0
        self.pooled: dict[tuple[str, str], bool] = {}
        """(target, tap)."""
        self.hidden: dict[tuple[str, str], list[Tensor]] = {}
        """(target, tap) -> (R, D) of each batch."""
        self.goals: dict[tuple[str, bool], list[tuple[Tensor, Tensor]]] = {}
        """(target, pooled) -> (R, D) and Long (R,), the example, of each batch."""
        self.own: dict[str, list[Tensor]] = {name: [] for name in trained}
        """Term -> (B,) of each batch."""

    def add(self, ctx: Context) -> None:
        for name in self.names:
            self._add_target(name, ctx)
        for name, term in self.trained.items():
            self.own[name].append(_trained(term, ctx).cpu())  # (B,)
        self.count += len(ctx.batch)

    def _add_target(self, name: str, ctx: Context) -> None:
        target, taps = ctx.batch.target[name], ctx.output.taps
        pooled = {tap: not same_sites(target, taps[tap]) for tap in self.taps}
        at = {flag: pairing(target, taps, ctx.batch.key, self.each, flag) for flag in set(pooled.values())}
        for flag, pairs in at.items():
            self.goals.setdefault((name, flag), []).append((rows(target, pairs), self.count + pairs.row.cpu()))
        for tap, flag in pooled.items():
            self.pooled[name, tap] = flag
            self.hidden.setdefault((name, tap), []).append(rows(taps[tap], at[flag]))


class _Comparison:
    """The numbers so far. The rows are the same at every noise level, and so is what is computed of a representation."""

    def __init__(self, names: Sequence[str], taps: Sequence[str], settings: Settings) -> None:
        self.names, self.taps, self.settings = names, taps, settings
        self.references: dict[tuple[str, bool], _Reference] = {}
        self.pooled: dict[tuple[str, str], bool] = {}
        self.values: dict[str, dict[str, dict[str, list[float]]]] = {
            name: {measure: {tap: [] for tap in taps} for measure in MEASURES} for name in names
        }
        self.trained: dict[str, dict[str, Any]] = {}

    def add(self, level: _Level) -> None:
        self.pooled = level.pooled
        for key, found in level.goals.items():
            if key not in self.references:
                value, example = (torch.cat(part) for part in zip(*found, strict=True))  # (N, D), (N,)
                self.references[key] = _Reference(value, example, self.settings)
        for (name, tap), hidden in level.hidden.items():
            compared = self.references[name, self.pooled[name, tap]].compare(torch.cat(hidden))
            for measure, number in compared.items():
                self.values[name][measure][tap].append(number)
        for name, term in level.trained.items():
            entry = self.trained.setdefault(name, {"tap": term.tap, "target": term.target, "cosine": []})
            entry["cosine"].append(float(torch.cat(level.own[name]).mean()))

    def result(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "levels": list(self.settings.levels),
            "taps": list(self.taps),
            "targets": {name: self._target(name) for name in self.names},
            "best": {name: {m: _best(values) for m, values in self.values[name].items()} for name in self.names},
            "trained": self.trained,
        }

    def _target(self, name: str) -> dict[str, Any]:
        own = {_WORDS[flag]: reference for (k, flag), reference in self.references.items() if k == name}
        return {
            "pooled": {tap: self.pooled[name, tap] for tap in self.taps},
            "rows": {word: len(reference.value) for word, reference in own.items()},
            "chance": {word: reference.chance() for word, reference in own.items()},
            **self.values[name],
        }


_WORDS = {False: "sites", True: "pooled"}


def _trained(term: Alignment, ctx: Context) -> Tensor:
    """The cosine (B,) that a term's own projector reaches, whatever the term scores and however it weighs times."""
    plain = copy.copy(term)
    plain.similarity, plain.gate = cosine, torch.ones_like
    return -plain(ctx)[""]


def _best(values: Mapping[str, Sequence[float]]) -> str | None:
    """The tap with the highest mean; None where no measure is a number."""
    means = {tap: sum(some) / len(some) for tap, some in values.items()}
    known = {tap: mean for tap, mean in means.items() if not math.isnan(mean)}
    return max(known, key=known.__getitem__) if known else None


def tap_names(denoiser: Any, fallback: Collection[str]) -> list[str]:
    """All hidden features that a network offers, in its own order; those of the objective if it does not tell."""
    return list(getattr(denoiser, "tap_names", None) or sorted(fallback))
