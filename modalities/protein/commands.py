"""``multigen design``: sequences for backbones, by a trained network of inverse folding. It needs no data and no teacher."""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multigen.cli.extra import Command, Options
from multigen.state import MultigenError, at_least

if TYPE_CHECKING:
    import torch

    from modalities.protein.results import Results
    from modalities.protein.task import Task
    from multigen.process import Process
    from multigen.unmasking import Unmasking

COMMANDS = {"design": Command("design protein sequences for backbones with a trained model", f"{__name__}:design")}

_ABOUT = """Design sequences for the backbones of PDB and mmCIF files.

Residues are written chain:first-last in the author's numbering: A:10-25, B:3, B:52A, or C for a whole chain, with commas
between several. Into FOLDER go designs.fasta, designs.csv, confidence.csv, designs.png and, for each design, a design_N.pdb;
with several structures, into a folder for each. A residue without all of N, CA, C and O keeps its amino acid.

Measures are means over designed residues. log_likelihood is of the amino acids in the order in which they were made, score is
the log-likelihood over random orders, the same for the native sequence: both in nats, at temperature 1, higher is likelier
(ProteinMPNN's score has the opposite sign)."""
_EXAMPLES = """examples:
  multigen design 1abc.cif --run outputs/reed --n 8
  multigen design 1abc.cif --run outputs/reed --chains A,B --fixed "A:10-25,B:3" --n 8 --out designs
  multigen design dimer.pdb --run outputs/reed --tie A=B --forbid C --bias "A:-0.5" --order confidence"""


def design(arguments: list[str]) -> None:
    """The command."""
    from modalities.protein.results import summary
    from multigen.distributed import resolve

    given = _options().parse_args(arguments)
    sampler = _sampler(given)
    tasks = [_task(Path(path), given) for path in given.structures]
    network = _load(given, resolve(given.device))
    folders = _folders(Path(given.out), tasks)
    started = time.monotonic()
    results = _made(network, tasks, folders, sampler, given)
    print(f"{summary(results)}, {time.monotonic() - started:.1f} s: {given.out}")


# --------------------------------------------------------------------------------------------------------------- options


def _options() -> Options:
    texts: Any = {"description": _ABOUT, "epilog": _EXAMPLES, "formatter_class": RawDescriptionHelpFormatter}
    parser = Options(prog="multigen design", allow_abbrev=False, **texts)
    add = parser.add_argument
    add("structures", nargs="+", metavar="STRUCTURE", help="PDB or mmCIF file, plain or gz")
    add("--run", required=True, metavar="RUN", help="run folder of an inverse-folding model, or RUN/checkpoints/STEP")
    add("--out", default="designs", metavar="FOLDER", help="where to write (designs)")
    add("--n", type=int, default=1, help="designs of each structure (1)")
    add("--seed", type=int, default=0, help="design number i is a function of seed and i alone (0)")
    what = parser.add_argument_group("what is designed").add_argument
    what("--chains", metavar="A,B", help="chains to read, in this order; the network does not see the others (all)")
    what("--model", type=int, default=0, metavar="N", help="model of an NMR entry, 0 for the first (0)")
    what("--design", metavar="RESIDUES", help="design these alone (all)")
    what("--fixed", metavar="RESIDUES", help="keep these as they are")
    what(
        "--sequence",
        metavar="FASTA",
        help="fixed residues and the native sequence are those of this file, not the structure's",
    )
    what(
        "--tie",
        action="append",
        default=[],
        metavar="A=B",
        help="one sequence for equal parts: A=B, A:1-10=B:1-10; repeatable",
    )
    wish = parser.add_argument_group("which amino acids").add_argument
    wish("--temperature", type=float, default=0.1, help="0 takes the likeliest, 1 what the network believes (0.1)")
    wish("--forbid", default="", metavar="LETTERS", help="amino acids never to use, like CM")
    wish("--bias", metavar="A:0.5,G:-1", help="added to the logits of amino acids")
    wish(
        "--position-bias", metavar="CSV", help="the same for single residues: lines of residue,amino acid,value like A:10,W,2"
    )
    wish("--guidance", type=float, default=1.0, metavar="SCALE", help="above 1, away from the network without backbone (1)")
    how = parser.add_argument_group("how").add_argument
    how("--order", default="grid", help="grid: ancestral sampling; random: one by one; confidence: the surest first (grid)")
    how("--per-call", type=int, default=1, metavar="N", help="residues made at once, with random and confidence (1)")
    how("--weights", metavar="NAME", help="ema_0.999, ... or model of the checkpoint; or a file, or a checkpoint's folder")
    how("--device", default="auto", help="auto, cpu, cuda, cuda:1 (auto)")
    how("--batch-size", type=int, metavar="N", help="designs at a time; changes no design")
    return parser


def _sampler(given: Namespace) -> Unmasking:
    """How the options want it sampled; checks all numbers."""
    from multigen.guidance import Guidance
    from multigen.unmasking import Unmasking

    at_least(1, **{"--n": given.n, "--per-call": given.per_call})
    at_least(1, **({} if given.batch_size is None else {"--batch-size": given.batch_size}))
    for name in ("temperature", "guidance"):
        if not math.isfinite(getattr(given, name)):
            raise MultigenError(f"--{name} is {getattr(given, name)}, expected a finite number")
    if given.per_call > 1 and given.order == "grid":
        raise MultigenError("--per-call goes with --order random or confidence: on the grid, chance decides how many at once")
    guide = None if given.guidance == 1 else Guidance(given.guidance)
    return Unmasking(order=given.order, per_call=given.per_call, temperature=given.temperature, guide=guide)


def _task(path: Path, given: Namespace) -> Task:
    """One structure with what the options say about it."""
    from dataclasses import replace

    from modalities.protein import wishes
    from modalities.protein.modality import preference
    from modalities.protein.structure import pdb_text, read_structure
    from modalities.protein.task import Task, ties

    structure = read_structure(path, given.chains, given.model)
    if given.sequence:
        structure = replace(structure, sequence=wishes.given_sequence(Path(given.sequence), structure))
    bias = preference(given.forbid, wishes.amino_acid_bias(given.bias) if given.bias else None).expand(len(structure), -1)
    if given.position_bias:
        bias = bias + wishes.position_bias(Path(given.position_bias), structure)  # (L, 21)
    pdb_text(structure)  # what the format cannot hold is refused before the work
    task = Task(structure, wishes.wanted(structure, given.design, given.fixed), bias, ties(given.tie, structure))
    if lost := task.lost.sum():
        _note(f"{structure.name}: {lost} residues without all of N, CA, C and O keep their amino acids")
    return task


def _folders(out: Path, tasks: list[Task]) -> list[Path]:
    """One for each task, made."""
    from multigen.files import make_folder

    if len(tasks) == 1:
        return [make_folder(out)]
    names: list[str] = []
    for task in tasks:
        numbered = (f"{task.structure.name}-{number}" for number in range(2, len(tasks) + 2))
        names.append(next(name for name in (task.structure.name, *numbered) if name not in names))
    return [make_folder(out / name) for name in names]


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------------- run


class Network(NamedTuple):
    """A trained network, and how it is asked."""

    denoiser: Any
    processes: dict[str, Process]
    neighbours: int


def _load(given: Namespace, device: torch.device) -> Network:
    """The network of a run. Of its configuration, processes and network are made, and nothing else: no data are needed."""
    from multigen.build.experiment import Experiment
    from multigen.cli.trained import located, restore

    run, one = located(given.run)
    config = run.stored()
    modality = _modality(config, given.run)
    network = config.get("denoiser") or {}
    start = {"start": "random"} if "start" in network else {}  # the checkpoint's weights come in its place
    experiment = Experiment({**config, "denoiser": {**network, **start}})
    restore(experiment.denoiser, run, one, given.weights)
    if given.guidance != 1 and not (config.get("diffusion") or {}).get("drop"):
        _note(f"{given.run} was trained without dropping the backbone (diffusion.drop): --guidance may do it no good")
    return Network(experiment.denoiser.to(device).eval(), experiment.processes, modality.get("neighbours", 30))


def _modality(config: dict[str, Any], run: str) -> dict[str, Any]:
    """Its node of the configuration, if it is of inverse folding."""
    modality, components = config.get("modality") or {}, list(config.get("processes") or {})
    if components != ["sequence"] or not modality.get("structure", True):
        made = "sequences without a structure" if components == ["sequence"] else ", ".join(components) or "nothing"
        needed = "designing needs one of inverse folding, like experiment=protein/vanilla"
        raise MultigenError(f"{run} is a run of {config.get('name')}, which makes {made}; {needed}")
    return modality


# ------------------------------------------------------------------------------------------------------------------ work


def _made(network: Network, tasks: list[Task], folders: list[Path], sampler: Unmasking, given: Namespace) -> list[Results]:
    """Design, score and write, one structure after another."""
    from modalities.protein.design import MASKS, Designer
    from modalities.protein.results import Results, write
    from multigen.cache.progress import bar

    settings = {"seed": given.seed, "temperature": f"{given.temperature:g}"}
    total = sum(given.n * int(task.bound.made.sum()) + (given.n + 1) * MASKS for task in tasks)
    done, found = 0, []
    with bar("designing", total) as show:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            show(done)

        for task, folder in zip(tasks, folders, strict=True):
            designer = Designer(network.denoiser, network.processes, task, sampler, network.neighbours, given.batch_size)
            designs = designer.design(given.n, given.seed, progress)
            sequences = [task.structure.letters(), *(made.sequence for made in designs)]
            native, *scores = designer.score(sequences, given.seed, progress=progress).tolist()
            found.append(Results(task, designs, scores, native, settings))
            write(found[-1], folder)
    return found
