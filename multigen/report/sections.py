"""The parts of a run's page, in reading order: functions from a `Record` to a `Section`, or to None where there is nothing.

A modality adds parts of its own by functions of the same kind, or simply through its metrics: every number and picture that
`multigen.evaluate` wrote is shown, with the metric's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from multigen.report import blocks
from multigen.report.blocks import Cell, Gallery, Section, Table, line_chart, number, png
from multigen.report.charts import Line
from multigen.report.record import Record

Part = Callable[[Record], Section | None]

WIDE, WIDEST = 900, 1300
"""Pixels beyond which what a metric drew, and what shows samples, is given a page's whole width."""


def summary(run: Record) -> str:
    """What was trained, in one line, from the configuration."""
    if not run.config:
        return f"{run.steps:,} steps logged; the folder holds no configuration."
    planned = run.setting("trainer.steps")
    done = f"{run.steps:,} of {planned:,} steps" if planned and planned != run.steps else f"{run.steps:,} steps"
    what = f"{_last(run.setting('denoiser'))} trained for {done} on {_last(run.setting('data.train'))}"
    return f"{what}, seed {run.setting('seed', blocks.MISSING)}: {_terms(run)}."


def _terms(run: Record) -> str:
    said = [
        f"hidden features at {run.setting(f'objective.terms.{name}.tap')} aligned to {_teacher(run, name)}"
        if run.setting(f"objective.terms.{name}.tap")
        else f"{name} loss"
        for name in run.setting("objective.terms", {})
    ]
    return ", ".join(said) or "no terms configured"


def _teacher(run: Record, term: str) -> str:
    target = run.setting(f"objective.terms.{term}.target")
    encoder = run.setting(f"encoders.{target}")
    whose = {"random": "noise like ", "shuffled": "another example's "}.get(run.setting("pairing", "own"), "")
    return whose + (f"{_last(encoder)} {target}" if encoder else str(target))


def _last(target: Any) -> str:
    """The class name in a configuration's ``_target_``."""
    name = target.get("_target_", target.get("class", "")) if isinstance(target, dict) else target
    return str(name or "").rsplit(".", 1)[-1] or "?"


def samples(run: Record) -> Section | None:
    """Samples beside real data: those of the evaluation, else the last ones drawn while training."""
    found = run.pictures(run.evaluation.get("grids") or _latest(run))
    pictures = [png(path, f"Grid of pictures: {caption}", caption) for caption, path in found]
    return Section("Samples", [Gallery(pictures, 1 if any(p.width > WIDEST for p in pictures) else 2)]) if pictures else None


def _latest(run: Record) -> dict[str, str]:
    last = {f"Samples at step {step:,}": f"samples/{path.name}" for step, path in run.grids()[-1:]}
    return {**last, "Real data, held out": "samples/real.png"}


def measures(run: Record) -> Section | None:
    """Every number of the evaluation, with all that is needed to read it."""
    if not run.evaluation:
        return Section("Measures", [blocks.Text("Not evaluated yet: run `multigen evaluate` on this folder.")])
    values = run.evaluation.get("metrics", {})
    header = ["Measure", "Value", "Real data", "Samples", "Drawn with", "Reference"]
    rows = [[Cell(k, _about(run, "meaning", k), code=True), _value(values, k), *_context(run, k)] for k in _measured(run)]
    table = Table(header, rows, "Real data: the same measure of real data in the place of samples.", numeric=(1, 2))
    notes = [blocks.Text(m["note"]) for m in run.evaluation.get("about_metrics", {}).values() if m.get("note")]
    return Section("Measures", [table, *notes, *_validation(run), *_closer(run)])


def _closer(run: Record) -> list[blocks.Block]:
    """What metrics drew: wide pictures one below the other, others in pairs."""
    drawn = [png(path, caption, caption) for caption, path in run.pictures(run.evaluation.get("pictures", {}))]
    wide = [picture for picture in drawn if picture.width > WIDE]
    rest = [picture for picture in drawn if picture.width <= WIDE]
    return [Gallery(some, columns) for some, columns in ((wide, 1), (rest, min(2, len(rest)))) if some]


def _validation(run: Record) -> list[blocks.Block]:
    """The loss on held-out data, if the evaluation measured it."""
    measured = dict(run.evaluation.get("validation") or {})
    draws = measured.pop("draws", None)
    rows = [[Cell(name, code=True), Cell(number(value)), Cell(number(draws))] for name, value in measured.items()]
    return [Table(["Held-out loss", "Value", "Draws of time and noise"], rows, numeric=(1, 2))] if rows else []


def _value(values: dict[str, Any], name: str) -> Cell:
    spread = values.get(f"{name}_std")
    return Cell(number(values[name]), "" if spread is None else f"± {number(spread)}")


def _context(run: Record, name: str) -> list[Cell]:
    """The cells that stand beside a value."""
    drawn, weights = run.evaluation.get("samples", {}), run.evaluation.get("checkpoint", {})
    invalid = drawn.get("count", 0) - drawn.get("valid", 0)
    kind = str(weights.get("weights", "weights")).replace("ema_", "EMA ")
    return [
        Cell(number(run.evaluation.get("metrics", {}).get(f"{name}_real"))),
        Cell(
            number(drawn.get("count")),
            f"seed {drawn.get('seed', blocks.MISSING)}" + (f", {invalid:,} invalid" if invalid else ""),
        ),
        Cell(_sampler(drawn.get("sampler", {})), f"{kind} of step {number(weights.get('step'))}"),
        Cell(_about(run, "reference", name)),
    ]


def _sampler(settings: dict[str, Any]) -> str:
    """A sampler's settings in a few words."""
    grid, guide = settings.get("grid") or {}, settings.get("guide") or {}
    steps = [f"{grid['steps']} steps"] if "steps" in grid else []
    guidance = [f"guidance {guide['scale']}"] if guide.get("scale", 1) != 1 else []
    return ", ".join([_last(settings.get("continuous", settings)), *steps, *guidance])


def _about(run: Record, what: str, name: str) -> str:
    """The words of whichever metric computed this measure."""
    for metric in run.evaluation.get("about_metrics", {}).values():
        if name in metric.get("meaning", {}):
            said = metric.get(what, "")
            return str(said.get(name, said.get("", ""))) if isinstance(said, dict) else str(said)
    return ""


def losses(run: Record) -> Section | None:
    """One chart for each part of the loss, in training and on held-out data, the weights of the terms, and the optimiser."""
    parts = dict.fromkeys(k.partition("/")[2] for k in [*run.keys("loss/"), *run.keys("valid/")])
    charts = [line_chart(lines, f"{part} loss") for part in parts if (lines := _train_and_valid(run, part))]
    weights = [Line(k.partition("/")[2], *run.series(k), colour=i) for i, k in enumerate(run.keys("weight/"))]
    charts += [line_chart(weights, "weights")] if weights else []
    for key, title in (("learning_rate", "learning rate"), ("gradient_norm", "gradient norm")):
        steps, values = run.series(key)
        if len(set(values)) > 1:
            charts.append(line_chart([Line(title, steps, values, raw=True)], title))
    return Section("Training", [Gallery(charts)]) if charts else None


def _train_and_valid(run: Record, part: str) -> list[Line]:
    lines = [Line("training", *run.series(f"loss/{part}"), raw=True), Line("held out", *run.series(f"valid/{part}"), 1, True)]
    return [line for line in lines if line.values]


def progress(run: Record, shown: int = 6) -> Section | None:
    """Samples of the same noise at several steps of the training."""
    grids = run.grids()
    chosen = [grids[i * (len(grids) - 1) // max(min(shown, len(grids)) - 1, 1)] for i in range(min(shown, len(grids)))]
    pictures = [png(path, f"Samples drawn at training step {step:,}", f"step {step:,}") for step, path in chosen]
    return Section("Samples while training", [Gallery(pictures, 3)]) if len(pictures) > 1 else None


def provenance(run: Record) -> Section | None:
    """Data and its licence, versions, and the whole configuration."""
    data = {
        title: run.evaluation[key]
        for key, title in (("data", "Trained on"), ("held_out", "Held out"))
        if run.evaluation.get(key)
    }
    keys = dict.fromkeys(key for described in data.values() for key in described)
    rows = [[Cell(key), *(Cell(_plain(described.get(key))) for described in data.values())] for key in keys]
    found: list[blocks.Block] = [Table(["Data", *data], rows)] if rows else []
    if versions := run.evaluation.get("versions"):
        found.append(blocks.Text("Evaluated with " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."))
    if run.yaml:
        found.append(blocks.Folded("Configuration", run.yaml))
    return Section("Data, versions, configuration", found) if found else None


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value or blocks.MISSING)


PARTS: Sequence[Part] = (samples, measures, losses, progress, provenance)


def comparison(runs: Mapping[str, Record]) -> Section | None:
    """Several runs, by label, in the same charts and one table; nothing where they make different kinds of things."""
    if len(runs) < 2 or len({str(run.setting("modality._target_")) for run in runs.values()}) > 1:
        return None
    keys = dict.fromkeys(k for run in runs.values() for k in run.keys("valid/"))
    charts = [line_chart(lines, key.partition("/")[2] + ", held out") for key in keys if (lines := _across(runs, key))]
    measured = dict.fromkeys(k for run in runs.values() for k in _measured(run))
    rows = [[Cell(k, code=True), *(_cell(run, k) for run in runs.values())] for k in measured]
    rows += [[Cell("samples"), *(_context(run, "")[1] for run in runs.values())]] if rows else []
    table = [Table(["Measure", *runs], rows, numeric=range(1, len(runs) + 1))] if rows else []
    return Section("Comparison", [*([Gallery(charts)] if charts else []), *table]) if charts or table else None


def labels(runs: Sequence[Record]) -> list[str]:
    """A name for each run that no other has: its title, its seed where titles agree, its folder where seeds do too."""
    given = [run.title for run in runs]
    seeded = [f"{run.title}, seed {run.setting('seed')}" if given.count(run.title) > 1 else run.title for run in runs]
    return [str(run.folder) if seeded.count(name) > 1 else name for name, run in zip(seeded, runs, strict=True)]


def _measured(run: Record) -> list[str]:
    return [k for k in run.evaluation.get("metrics", {}) if not k.endswith(("_std", "_real"))]


def _across(runs: Mapping[str, Record], key: str) -> list[Line]:
    lines = [Line(label, *run.series(key), colour=i) for i, (label, run) in enumerate(runs.items())]
    return [line for line in lines if line.values]


def _cell(run: Record, name: str) -> Cell:
    values = run.evaluation.get("metrics", {})
    return _value(values, name) if name in values else Cell(number(None))


def facts(run: Record) -> list[tuple[str, str]]:
    """The few numbers at the head of a run: (value, what it is)."""
    rates, evaluation = run.series("examples_per_second")[1], run.evaluation
    known = {
        "training steps": run.steps,
        "examples a step": run.setting("trainer.batch_size"),
        "examples a second": round(median(rates)) if rates else None,
        "parameters": evaluation.get("parameters"),
        "samples measured": evaluation.get("samples", {}).get("count"),
    }
    return [(f"{value:,}", words) for words, value in known.items() if value is not None]
