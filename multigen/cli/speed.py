"""Ratios of times of one experiment: what ``multigen benchmark experiment=NAME`` measures and prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from multigen import buckets, describe
from multigen.benchmark import Times, Turn, asking_always, loading, ratio, sampling, spread, take_turns, training
from multigen.build import Config
from multigen.build.experiment import Experiment
from multigen.build.variants import alternatives, variants
from multigen.cli.trained import overlaid
from multigen.files import nearest, write_json
from multigen.packing import Packed
from multigen.process import Process
from multigen.report.blocks import number
from multigen.run import Run
from multigen.state import Batch, MultigenError
from multigen.trainer import Trainer
from multigen.trainer.speed import peak_flops, training_flops
from multigen.unmasking import Unmasking

FORMAT = 1
"""Version of the JSON file."""


class Ratio(NamedTuple):
    above: str
    below: str
    meaning: str
    aim: float | None = None


RATIOS = {
    "alignment": Ratio("cached", "vanilla", "cached targets / no alignment", 1.05),
    "online": Ratio("online", "cached", "teachers online / cached targets"),
    "compile": Ratio("compiled", "step", "torch.compile / eager"),
    "bf16": Ratio("bf16", "fp32", "bf16 / float32"),
    "loader": Ratio("loader", "step", "making the batch / whole step"),
    "sampler": Ratio("sampler", "network", "sampling / its network alone", 1.03),
    "events": Ratio("always", "sampler", "asking the network at every step / at events"),
}
"""Of training steps, but for the last two. A modality adds ratios of steps, see `multigen.modality.Compared`."""


def main(settings: Config) -> None:
    wanted = _wanted(settings)
    result = measure(settings, wanted)
    show(result)
    if settings["out"]:
        print(f"all of it: {write_json(settings['out'], result)}")


def _wanted(settings: Config) -> dict[str, Ratio]:
    """What ``measure=`` names; all if it names nothing."""
    known = {**RATIOS, **{name: Ratio(one.against, name, one.meaning) for name, one in alternatives(settings).items()}}
    names: Sequence[str] = list(known) if settings["measure"] is None else settings["measure"]
    for name in names:
        if name not in known:
            raise MultigenError(f"cannot measure {name!r}: {nearest(name, known)}")
    return {name: known[name] for name in names}


def measure(settings: Config, wanted: Mapping[str, Ratio]) -> dict[str, Any]:
    """Everything that is known afterwards, as JSON values."""
    turns = Turns(settings, {name for r in wanted.values() for name in (r.above, r.below)})
    times = take_turns(turns.all, settings["rounds"], turns.step.device)
    return {
        "format": FORMAT,
        "experiment": settings["name"],
        "ratios": {name: _ratio(r, turns, times) for name, r in wanted.items()},
        "trainings": {name: _training(trainer, times[name], settings["steps"]) for name, trainer in turns.trainers.items()},
        "samplings": {name: _sampling(times[name], settings["samples"]) for name in turns.samplers if name in times},
        "times": {name: t._asdict() for name, t in times.items()},
        "settings": {name: settings[name] for name in ("rounds", "steps", "samples", "sampler_steps")},
        "sizes": _sizes(turns),
        "versions": describe.versions(turns.step.device),
        "config": settings,
    }


class Turns:
    """What takes turns.

    Attributes:
        all: by name.
        trainers: those of them that train.
        same: name of a training -> the name under which it is timed: what comes to the same thing is timed once.
        samplers: names of those that sample.
        skipped: name -> why it cannot be timed.
        evaluations: network evaluations of the sampler.
    """

    def __init__(self, settings: Config, needed: set[str]) -> None:
        self.all: dict[str, Turn] = {}
        self.trainers: dict[str, Trainer] = {}
        self.same: dict[str, str] = {}
        self.samplers: list[str] = []
        self.skipped: dict[str, str] = {}
        self.evaluations = 0
        self._settings = settings
        configs = {name: config for name, config in variants(settings).items() if name in needed | {"step"}}
        for name, config in configs.items():
            self.same[name] = next((other for other in self.trainers if configs[other] == config), name)
            if self.same[name] == name:
                self._add_training(name, config)
        if "loader" in needed:
            self.all["loader"] = loading(self.step, settings["steps"])
        if "sampler" in needed:
            self._add_sampling(always="always" in needed)
        for steps in settings["sampler_steps"]:
            self._add_grid(steps)

    @property
    def step(self) -> Trainer:
        """The experiment as it is configured."""
        return self.trainers["step"]

    def _add_training(self, name: str, config: Config) -> None:
        """Add a training, unless this machine or this experiment cannot do it."""
        try:
            trainer = Experiment(config).trainer(Run("unused"))
            turn = training(trainer, self._settings["steps"])
            turn()
        except Exception as error:
            if name == "step" or not (config["trainer"]["compile"] or isinstance(error, MultigenError)):
                raise
            self.skipped[name] = " ".join(str(error).split())[:200]
        else:
            self.trainers[name], self.all[name] = trainer, turn

    @cached_property
    def _model(self) -> tuple[Any, Mapping[str, Process], Batch]:
        """Network, processes and the template of the samples of a turn."""
        e, step = Experiment(self._settings), self.step
        template = e.modality.template(range(self._settings["samples"]), 0).to(step.device)
        return step.averages[0].module if step.averages else step.diffusion.denoiser, e.processes, template

    def _add_grid(self, steps: int) -> None:
        """Sampling with so many steps."""
        changed = overlaid(self._settings["sampler"], {"grid": {"steps": steps}})
        sampler, name = Experiment({**self._settings, "sampler": changed}).sampler, f"{steps} steps"
        self.all[name] = sampling(sampler, *self._model).loop
        self.samplers.append(name)

    def _add_sampling(self, always: bool) -> None:
        e = Experiment(self._settings)
        denoiser, processes, template = self._model
        turns = sampling(e.sampler, denoiser, processes, template)
        self.all |= {"sampler": turns.loop, "network": turns.network}
        self.samplers.append("sampler")
        self.evaluations = turns.evaluations
        if isinstance(e.sampler, Unmasking) and e.sampler.order == "grid":
            self.all |= {"always": asking_always(e.sampler, denoiser, processes, template)} if always else {}
        else:
            self.skipped["always"] = "the sampler asks at every step"


def _sizes(turns: Turns) -> dict[str, Any]:
    trained = {"denoiser": turns.step.diffusion.denoiser, "all": turns.step.diffusion}
    clean = next(turns.step.loader.steps(0, 1))[0].clean
    return {
        "batch_size": turns.step.loader.split.batch_size,
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in trained.items()},
        "shapes": {name: list(x.shape[1:]) for name, x in clean.items()},
        "network_evaluations": turns.evaluations,
        "padding": _padding(turns.step),
    }


def _padding(trainer: Trainer) -> dict[str, float]:
    """Shares of padding: of what fills training batches, and of the sites of samples; where sizes differ."""
    split, modality = trainer.loader.split, trainer.modality
    found = {"training": split.padding} if isinstance(split, Packed) else {}
    if isinstance(modality, buckets.Sized):
        plan = buckets.batches(modality, buckets.WINDOW, 64, 0)
        found["sampling"] = buckets.padding(modality.sizes(range(buckets.WINDOW), 0), plan)
    return found


def _sampling(times: Times, samples: int) -> dict[str, Any]:
    """Of one turn."""
    seconds = spread(times.wall)
    return {"seconds": seconds, "samples_per_second": samples / seconds["median"]}


def _ratio(r: Ratio, turns: Turns, times: Mapping[str, Times]) -> dict[str, Any]:
    above, below = (turns.same.get(name, name) for name in (r.above, r.below))
    about = {"meaning": r.meaning, "of": [above, below], "aim": r.aim}
    if why := next((turns.skipped[name] for name in (above, below) if name in turns.skipped), None):
        return about | {"skipped": why}
    if above == below:
        return about | {"skipped": "the same thing in this experiment"}
    clocks = ("wall", "cpu") if turns.step.device.type == "cpu" else ("wall",)
    return about | {clock: ratio(getattr(times[above], clock), getattr(times[below], clock)) for clock in clocks}


def _training(trainer: Trainer, times: Times, steps: int) -> dict[str, Any]:
    """Of one step. The share of peak FLOP/s counts the trained networks' work alone, not that of frozen encoders."""
    seconds, processor = (spread([x / steps for x in clock]) for clock in times)
    batch = trainer.encode(next(trainer.loader.steps(0, 1))[0])
    flops = training_flops(trainer.diffusion, batch, 0)
    rate, peak = trainer.loader.split.batch_size / seconds["median"], peak_flops(trainer.device, trainer.precision)
    return {
        "seconds": seconds,
        "processor_seconds": processor if trainer.device.type == "cpu" else None,
        "examples_per_second": rate,
        "flops_per_example": flops,
        "peak_flops_per_second": peak,
        "peak_share": None if flops is None else rate * flops / peak,
    }


# ------------------------------------------------------------------------------------------------------------------- to read


def show(result: Mapping[str, Any]) -> None:
    """Print the ratios, what one step costs, and what is skipped and why."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(_ratios(result["ratios"]), _trainings(result["trainings"]))
    if result["samplings"]:
        console.print(_samplings(result["samplings"]))
    sizes, versions = result["sizes"], result["versions"]
    for name, r in result["ratios"].items():
        if "skipped" in r:
            print(f"{name} skipped: {r['skipped']}")
    machine = ", ".join(f"{k} {versions[k]}" for k in ("device", "threads", "torch"))
    parameters = sizes["parameters"]["denoiser"]
    if sizes["padding"]:
        print("padding: " + ", ".join(f"{share:.1%} in {where}" for where, share in sizes["padding"].items()))
    print(f"{result['experiment']}: batches of {number(sizes['batch_size'])}, {parameters:,} parameters; {machine}")


def _ratios(ratios: Mapping[str, Any]) -> Any:
    table = _table("", "", "wall clock", "processor", "aim")
    for name, r in ratios.items():
        if "skipped" not in r:
            table.add_row(name, r["meaning"], _spread(r["wall"]), _spread(r.get("cpu")), f"<= {r['aim']}" if r["aim"] else "")
    return table


def _trainings(trainings: Mapping[str, Any]) -> Any:
    table = _table("training", "ms a step", "processor", "examples/s", "of peak")
    for name, x in trainings.items():
        wall, cpu = (_spread(x[clock], 1000) for clock in ("seconds", "processor_seconds"))
        share = "" if x["peak_share"] is None else f"{x['peak_share']:.0%}"
        table.add_row(name, wall, cpu, f"{x['examples_per_second']:.4g}", share)
    return table


def _samplings(samplings: Mapping[str, Any]) -> Any:
    table = _table("sampling", "s a turn", "samples/s")
    for name, x in samplings.items():
        table.add_row(name, _spread(x["seconds"]), f"{x['samples_per_second']:.4g}")
    return table


def _table(*columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*columns, box=SIMPLE_HEAD)


def _spread(x: Mapping[str, float] | None, unit: float = 1.0) -> str:
    """Median and quartiles.

    >>> _spread({"median": 1.04, "low": 1.02, "high": 1.06})
    '1.040 (1.020-1.060)'
    """
    return "" if x is None else "{} ({}-{})".format(*(number(unit * x[name]) for name in ("median", "low", "high")))
