"""Molecules of any source, checked one by one, into the store; what is left out is named and counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modalities.molecule import scaffold
from modalities.molecule.chemistry import HYDROGEN, Record, Unfit, record, refusal, smiles
from modalities.molecule.stored import LAYOUT, stored
from multigen import files, store
from multigen.cache.progress import bar
from multigen.pool import processes, processors
from multigen.random import hash64
from multigen.state import MultigenError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

NAMED, REASONS = 3, 6
"""How many of those that are left out for one reason are named, and for how many reasons."""
WINDOW = 2048
"""Molecules that are shared out among processes at a time."""
GROUPINGS = ("scaffold", "name", "given")


class Found(NamedTuple):
    """What a source has at one place."""

    where: str
    """"record 7", "line 3", ..."""
    mol: Mol | None = None
    """As it was read, not sanitised; None if it cannot be read."""
    reason: str = ""
    """Why it cannot be read, in words that can be counted."""
    detail: str = ""
    name: str = ""
    caption: str = ""
    split: str = "train"
    """Counts where the source itself says what is on which side."""


class Rules(NamedTuple):
    """What is taken."""

    hydrogens: bool = True
    """Keep them, all of which must be there; otherwise leave out those that are."""
    min_heavy: int = 1
    max_heavy: int | None = None
    max_atoms: int | None = None
    by: str = "scaffold"
    """How the sides are made: "scaffold" (see `modalities.molecule.scaffold`), "name" by a hash of the name, so that
    conformers of one molecule stay together if they have one name, or "given" by the source."""
    share: float = 10.0
    """Per cent of the groups that are held out."""
    tested: float = 0.0
    """Per cent of the groups in "test"."""


@dataclass
class Tally:
    """What was left out, and why."""

    total: int = 0
    count: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, reason: str, detail: str = "") -> None:
        self.count[reason] += 1
        names = self.named.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(f"{where}: {detail}" if detail else where)
        elif len(names) == NAMED:
            names.append("...")

    def line(self, source: str) -> str:
        """One line for a person."""
        reasons = [f"{n:,} {reason} ({', '.join(self.named[reason])})" for reason, n in self.count.most_common(REASONS)]
        rest = self.count.total() - sum(n for _, n in self.count.most_common(REASONS))
        others = [f"{rest:,} for other reasons"] if rest else []
        return f"{source}: left out {self.count.total():,} of {self.total:,}: {'; '.join([*reasons, *others])}"

    def describe(self) -> dict[str, Any]:
        """For manifests."""
        return {"read": self.total, "left_out": dict(self.count.most_common()), "named": self.named}


def collect(
    writer: store.Writer,
    about: dict[str, Any],
    source: str,
    found: Iterable[Found],
    rules: Rules,
    strict: bool = False,
    workers: int | None = None,
) -> Tally:
    """Write what fits; return what does not.

    Args:
        writer: of the store.
        about: what its manifest says; gains ``read``, ``left_out`` and ``named``.
        source: its name in messages.
        found: what is there.
        rules: what fits.
        strict: stop at the first that does not.
        workers: processes; None for one on each processor.

    Raises:
        MultigenError: with `strict`, something does not fit; or nothing does.
    """
    if rules.by not in GROUPINGS:
        raise MultigenError(f"unknown by {rules.by!r}: choices are {list(GROUPINGS)}")
    tally = Tally()
    for one, fit in _fit_all(iter(found), rules, workers):
        tally.total += 1
        where = f"{one.where} {one.name!r}" if one.name else one.where
        if fit.example is not None:
            writer.add(fit.example, one.split)
        elif strict:
            raise MultigenError(f"{source}, {where}: {': '.join(filter(None, (fit.reason, fit.detail)))}")
        else:
            tally.add(where, fit.reason, fit.detail)
    about |= tally.describe()
    if not len(writer):
        raise MultigenError(tally.line(source) if tally.total else f"{source} holds no molecule")
    if rules.by != "given":
        writer.relabel(_sides(writer.column("group").tolist(), rules))
    return tally


def _sides(groups: list[int], rules: Rules) -> list[str]:
    tested = scaffold.sides(groups, rules.tested, ("", "test"))
    rest = [group for group, test in zip(groups, tested, strict=True) if not test]
    side = dict(zip(rest, scaffold.sides(rest, rules.tested + rules.share), strict=True))  # by the same hash
    return [test or side[group] for group, test in zip(groups, tested, strict=True)]


class Fit(NamedTuple):
    """What became of one of `Found`."""

    example: dict[str, Any] | None
    """As it is stored; None if it does not fit."""
    reason: str = ""
    detail: str = ""


def _fit_all(found: Iterator[Found], rules: Rules, workers: int | None) -> Iterator[tuple[Found, Fit]]:
    """In order; by several processes where there is much to do."""
    windows = iter(lambda: list(islice(found, WINDOW)), [])
    first, count = next(windows, []), workers or processors()
    if count == 1 or len(first) < WINDOW:
        yield from ((one, _fit(rules, one)) for one in chain(first, chain.from_iterable(windows)))
        return
    with processes(count) as pool:
        for window in chain([first], windows):
            yield from zip(window, pool.imap(partial(_fit, rules), window, 32), strict=True)


def _fit(rules: Rules, found: Found) -> Fit:
    try:
        return Fit(fitted(found, rules))
    except Unfit as error:
        return Fit(None, error.reason, error.detail)


def fitted(found: Found, rules: Rules) -> dict[str, Any]:
    """A molecule as it is stored.

    Raises:
        Unfit: it cannot be read, or breaks a rule.
    """
    if found.mol is None:
        raise Unfit(found.reason, found.detail)
    heavy = found.mol.GetNumHeavyAtoms()
    for what, size, bound in (("heavy atoms", heavy, rules.max_heavy), ("atoms", found.mol.GetNumAtoms(), rules.max_atoms)):
        if bound is not None and size > bound:
            raise Unfit(f"over {bound} {what}", str(size))
    if heavy < rules.min_heavy:
        raise Unfit(f"under {rules.min_heavy} heavy atoms", str(heavy))
    sanitise(found.mol)
    kept = without_hydrogens(record(found.mol, hydrogens=False)) if not rules.hydrogens else record(found.mol)
    text = smiles(found.mol)
    group = found.name if rules.by == "name" else scaffold.framework(kept["atoms"], kept["pair"])
    return stored(kept, hash64("group", group), found.name or found.where, found.caption, text)


def sanitise(mol: Mol) -> None:
    """Let RDKit check valences, find aromatic bonds, ...; `Unfit` if it refuses."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            reason = refusal(mol, error)
            raise Unfit(f"refused by RDKit, {reason}", str(error).strip().splitlines()[0]) from None


def without_hydrogens(full: Mapping[str, Any]) -> Record:
    """A record of the heavy atoms alone."""
    keep = full["atoms"] != HYDROGEN  # (N,)
    number = np.cumsum(keep) - 1  # (N,)
    both = keep[full["pair"].astype(np.int64)].all(1)  # (M,)
    rows = {name: full[name][keep] for name in ("atoms", "charges", "coords")}
    return {**rows, "pair": number[full["pair"].astype(np.int64)][both].astype(np.int16), "order": full["order"][both]}


class Source(NamedTuple):
    """Where molecules come from, for `prepare`."""

    name: str
    """In messages, and in the manifest."""
    found: Callable[[Callable[[int], None]], Iterable[Found]]
    """What is there; calls its argument with how far it has come, of the total."""
    total: Callable[[], int]
    recipe: Mapping[str, Any]
    """Everything, besides the rules, that the data depend on."""
    licence: str = ""


def prepare(
    folder: Path,
    source: Source,
    rules: Rules,
    strict: bool = False,
    verify: bool = True,
    quiet: bool = False,
    workers: int | None = None,
) -> Path:
    """Store what fits, unless it is stored. Returns the folder.

    Args:
        folder: where it shall lie.
        source: where it comes from.
        rules: what fits.
        strict: stop at the first that does not.
        verify: of a folder that is there, compare the recipe and the checksums. Without it, it is taken as it is: where the
            folder's name says what it was made of, and a data set wants to begin.
        quiet: say nothing of what is left out, which is known beforehand; it is in the manifest.
        workers: processes; None for one on each processor.

    Raises:
        MultigenError: with `strict`, something does not fit; nothing does; the disk is full.
    """
    recipe = {**source.recipe, "rules": rules._asdict()}
    about = {"name": source.name, "licence": source.licence, "hydrogens": rules.hydrogens, "recipe": recipe}

    def fill(writer: store.Writer) -> None:
        with bar(f"reading {source.name}", source.total()) as progress:
            tally = collect(writer, about, source.name, source.found(progress), rules, strict, workers)
        if tally.count and not quiet:
            print(tally.line(source.name), file=sys.stderr)

    if verify or not (folder / "manifest.json").is_file():
        store.prepare(store.Writer(folder, LAYOUT, about), fill)
    if strict:
        _refuse(source.name, files.read_json(folder / "manifest.json")["named"])
    return folder


def _refuse(source: str, named: Mapping[str, list[str]]) -> None:
    """Of a folder that was made without `strict`: complain about what it lacks."""
    for reason, (first, *_) in named.items():
        raise MultigenError(f"{source}: {reason}: {first}")
