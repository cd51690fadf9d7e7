"""``multigen complete``: molecules around a given part, by a trained network. It needs no data and no teacher."""

from __future__ import annotations

import sys
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multigen.cli.extra import Command, Options
from multigen.files import make_folder
from multigen.state import MultigenError, at_least

if TYPE_CHECKING:
    from modalities.molecule.given import Fragment
    from modalities.molecule.modality import Molecules
    from multigen.build.experiment import Experiment

COMMANDS = {"complete": Command("complete a fragment of a molecule with a trained model", f"{__name__}:complete")}

SETTINGS = ("fragment", "record", "run", "weights", "add", "grow", "seed", "steps")
"""What the summary says about how completions were made."""
_ABOUT = """Complete the fragment of an SDF or MOL file: its atoms, bonds and charges stay as they are and where they are, the
rest is made around them.

The fragment may grow where a hydrogen can give way: one that the file implies, or, if the run makes heavy atoms alone, one
that it shows. Dummy atoms (*, R#) say more exactly where: then only there, with bonds of at most that order. --grow chooses
among these atoms. Hydrogens are treated as in the run's data: left out, or kept in place and made like other atoms, which
--add counts.

Into FOLDER go completions.sdf, .smi, .csv, .png and summary.json. Given atoms come first, in the file's order and frame. They
are unmoved to 1e-6 Angstrom: an SDF record has four decimals (V2000) where the input has no more, else six (V3000)."""
_EXAMPLES = """examples:
  multigen complete fragment.sdf --run outputs/complete --n 50 --add 6:14
  multigen complete fragment.sdf --run outputs/complete --add 8 --grow 3,5 --out grown"""


def complete(arguments: list[str]) -> None:
    """The command."""
    from modalities.molecule.results import Results, write

    given = _options().parse_args(arguments)
    counts = {"--n": given.n, "--batch-size": given.batch_size, "--record": given.record, "--steps": given.steps}
    at_least(1, **{name: count for name, count in counts.items() if count is not None})
    started = time.monotonic()
    run = _load(given)
    fragment = _fragment(given, run)
    make_folder(given.out)  # before the work, which could not be kept otherwise
    samples = _made(given, run, fragment)
    settings = {name: getattr(given, name) for name in SETTINGS}
    results = Results(fragment, samples, run.data.hydrogens, _training(run), settings)
    write(results, Path(given.out))
    print(f"{results.line()}, {time.monotonic() - started:.1f} s: {given.out}")


def _options() -> Options:
    texts: Any = {"description": _ABOUT, "epilog": _EXAMPLES, "formatter_class": RawDescriptionHelpFormatter}
    parser = Options(prog="multigen complete", allow_abbrev=False, **texts)
    add = parser.add_argument
    add("fragment", metavar="FRAGMENT", help="SDF or MOL file with 3-D coordinates, plain or gz")
    add("--run", required=True, metavar="RUN", help="a run like experiment=molecule/complete, or RUN/checkpoints/STEP")
    add("--add", required=True, metavar="LOW:HIGH", help="how many atoms to make: 8, or any number from 6:14")
    add("--n", type=int, default=50, help="completions (50)")
    add("--out", default="completions", metavar="FOLDER", help="where to write (completions)")
    add("--seed", type=int, default=0, help="completion number i is a function of seed and i alone (0)")
    add("--record", type=int, default=1, metavar="N", help="which record of the file (1)")
    add("--grow", metavar="ATOMS", help="atoms that alone may have bonds to new ones, numbered from 1: 3,5")
    add("--steps", type=int, metavar="N", help="steps of the sampler (the run's)")
    add("--weights", metavar="NAME", help="ema_0.999, ... or model of the checkpoint; or a file, or a checkpoint's folder")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (auto)")
    add("--batch-size", type=int, default=64, metavar="N", help="completions at a time; changes none (64)")
    return parser


# --------------------------------------------------------------------------------------------------------------------- run


class Data(NamedTuple):
    """What a run's configuration says of the molecules that it was trained with."""

    hydrogens: bool = True
    aromatic: bool | None = None
    elements: Sequence[str] | None = None
    max_heavy: int | None = None
    max_atoms: int | None = None

    @property
    def largest(self) -> int | None:
        """Atoms of the largest molecule, if there is a bound."""
        bounds = [b for b in (self.max_atoms, None if self.hydrogens else self.max_heavy) if b is not None]
        return min(bounds, default=None)


class Trained(NamedTuple):
    """A run, ready to complete."""

    experiment: Experiment
    data: Data
    device: Any
    config: Mapping[str, Any]
    """As the run has it."""


def _load(given: Namespace) -> Trained:
    """Of the configuration, modality, processes, sampler and network are made: no data are needed."""
    from multigen.build.experiment import Experiment
    from multigen.cli.trained import located, overlaid, restore
    from multigen.distributed import resolve

    (run, one), device = located(given.run), resolve(given.device)
    config = run.stored()
    _check(config, given.run)
    sampler = overlaid(config["sampler"], {"grid": {"steps": given.steps}})
    without = {"source": None, "size": None}
    experiment = Experiment({**config, "targets": "cached", "sampler": sampler, "modality": {**config["modality"], **without}})
    restore(experiment.denoiser, run, one, given.weights)
    experiment.denoiser.to(device).eval()
    if not config["modality"].get("fragment"):
        _note(
            f"{given.run} was trained without fragments (modality.fragment=0): what it makes will often not fit the given part"
        )
    node = (config.get("data") or {}).get("train") or {}
    return Trained(experiment, Data(**{k: node[k] for k in Data._fields if node.get(k) is not None}), device, config)


def _check(config: Mapping[str, Any], run: str) -> None:
    """Refuse a run of anything but molecules, alone or with representations of their atoms."""
    from modalities.molecule.denoiser import COMPONENTS

    joint = (config.get("modality") or {}).get("joint") or {}
    if set(components := list(config.get("processes") or {})) != {*COMPONENTS, *joint}:
        made = ", ".join(components) or "nothing"
        raise MultigenError(
            f"{run} is a run of {config.get('name')}, which makes {made}; completing needs one of molecules, like "
            "experiment=molecule/complete"
        )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# -------------------------------------------------------------------------------------------------------------------- work


def _fragment(given: Namespace, run: Trained) -> Fragment:
    """What is given, if the run can complete it."""
    from modalities.molecule import sizes
    from modalities.molecule.chemistry import HYDROGEN
    from modalities.molecule.given import count, read

    chosen, data = sizes.choices(given.add, "--add"), run.data
    fragment = read(given.fragment, given.record, data.hydrogens, data.aromatic, _numbers(given.grow), data.elements)
    if data.largest is not None and (most := len(fragment) + int(chosen.max())) > data.largest:
        raise MultigenError(
            f"{given.fragment} has {len(fragment)} atoms, with --add {given.add} up to {most}: over the {data.largest} of the "
            f"largest molecules that {given.run} was trained with"
        )
    heavy = int((fragment.atoms != HYDROGEN).sum())
    if data.max_heavy is not None and heavy > data.max_heavy:
        raise MultigenError(f"{given.fragment} has {heavy} heavy atoms: {given.run} was trained with up to {data.max_heavy}")
    if given.record == 1 and (records := count(given.fragment)) > 1:
        _note(f"{given.fragment} has {records:,} records, of which the first is used; --record N takes another")
    return fragment


def _numbers(text: str | None) -> list[int] | None:
    """Of atoms, as they are written."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise MultigenError(f"--grow is {text!r}: write numbers of atoms with commas between them, like 3,5") from None


def _made(given: Namespace, run: Trained, fragment: Fragment) -> list[Any]:
    from modalities.molecule.completion import complete as completed
    from multigen.cache.progress import bar

    e = run.experiment
    modality: Molecules = e.modality  # type: ignore[assignment]
    with bar("completing", given.n) as show:
        model = (e.denoiser, e.processes, e.sampler, modality)
        return completed(*model, fragment, given.n, given.add, given.seed, given.batch_size, run.device, show)


def _training(run: Trained) -> frozenset[str] | None:
    """SMILES of what the run was trained with, if it is at hand."""
    from modalities.molecule.metrics.distinct import plain_smiles
    from multigen.build.experiment import Experiment

    try:
        return plain_smiles(Experiment(dict(run.config)).datasets["train"])
    except (MultigenError, KeyError) as error:
        _note(f"whether completions are novel is not known, for the training data are not at hand: {error}")
        return None
