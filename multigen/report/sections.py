"""The parts of a run's page, in reading order: functions from a `Record` to a `Section`, or to None where there is nothing.

A modality adds parts of its own by functions of the same kind, or simply through its metrics: every number and picture that
`multigen.evaluate` wrote is shown, with the metric's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from multigen.report import blocks
from multigen.report.blocks import Cell, Gallery, Picture, Section, Table, line_chart, number, png
from multigen.report.charts import Line
from multigen.report.record import Record

Part = Callable[[Record], Section | None]


def summary(run: Record) -> str:
    """What was trained, in one line, from the configuration."""
    if not run.config:
        return f"{run.steps:,} steps logged; the folder holds no configuration."
    network = _last(run.config.get("denoiser", {}))
    data = _last(run.config.get("data", {}).get("train", {}))
    planned = run.config.get("trainer", {}).get("steps")
    done = f"{run.steps:,} of {planned:,} steps" if planned and planned != run.steps else f"{run.steps:,} steps"
    return f"{network} trained for {done} on {data}, seed {run.config.get('seed', blocks.MISSING)}: {_terms(run)}."


def _terms(run: Record) -> str:
    terms = run.config.get("objective", {}).get("terms", {})
    said = [
        f"hidden features at {term['tap']} aligned to {_teacher(run, term['target'])}" if "target" in term else f"{name} loss"
        for name, term in terms.items()
    ]
    return ", ".join(said) or "no terms configured"


def _teacher(run: Record, target: str) -> str:
    encoder = run.config.get("encoders", {}).get(target)
    return f"{_last(encoder)} {target}" if encoder else target


def _last(target: Any) -> str:
    """The class name in a configuration's ``_target_``."""
    name = target.get("_target_", target.get("class", "")) if isinstance(target, dict) else target
    return str(name).rsplit(".", 1)[-1] or "?"


def samples(run: Record) -> Section | None:
    """Samples beside real data: those of the evaluation, else the last ones drawn while training."""
    listed = list(run.evaluation.get("pictures", {}).items())[:2] or _latest(run)
    found = [(caption, path) for caption, file in listed if (path := run.picture(file)) is not None]
    pictures = [png(path, f"Grid of pictures: {caption}", caption) for caption, path in found]
    return Section("Samples", [Gallery(pictures)]) if pictures else None


def _latest(run: Record) -> list[tuple[str, str]]:
    last = [(f"Samples at step {step:,}", f"samples/{path.name}") for step, path in run.grids()[-1:]]
    return [*last, ("Real, held out", "samples/real.png")]


def measures(run: Record) -> Section | None:
    """Every number of the evaluation, with all that is needed to read it."""
    if not run.evaluation:
        return Section("Measures", [blocks.Text("Not evaluated yet: run `multigen evaluate` on this folder.")])
    values = run.evaluation.get("metrics", {})
    names = [k for k in values if not k.endswith(("_std", "_real"))]
    header = ["Measure", "Value", "Real data", "Samples", "Seed", "Sampler", "Weights", "Reference"]
    rows = [[Cell(k, _about(run, "meaning", k), code=True), _value(values, k), *_context(run, k)] for k in names]
    caption = "“Real data” is the same measure of held-out real data: what samples as good as real ones would score."
    table = Table(header, rows, caption, numeric=(1, 2, 3, 4))
    closer = [png(p, caption, caption) for caption, p in _more_pictures(run)]
    return Section("Measures", [table, *([Gallery(closer, 1)] if closer else [])])


def _value(values: dict[str, Any], name: str) -> Cell:
    spread = values.get(f"{name}_std")
    return Cell(number(values[name]), "" if spread is None else f"± {number(spread)}")


def _context(run: Record, name: str) -> list[Cell]:
    """The cells that stand beside a value."""
    drawn, weights = run.evaluation.get("samples", {}), run.evaluation.get("checkpoint", {})
    invalid = drawn.get("count", 0) - drawn.get("valid", 0)
    return [
        Cell(number(run.evaluation["metrics"].get(f"{name}_real"))),
        Cell(number(drawn.get("count")), f"{invalid:,} invalid" if invalid else ""),
        Cell(str(drawn.get("seed", blocks.MISSING))),
        Cell(*_sampler(drawn.get("sampler", {}))),
        Cell(f"EMA {weights['ema']}" if weights.get("ema") else "not averaged", f"step {number(weights.get('step'))}"),
        Cell(_about(run, "reference", name)),
    ]


def _sampler(settings: dict[str, Any]) -> tuple[str, str]:
    """A sampler's settings in two short lines."""
    grid, guide = settings.get("grid") or {}, settings.get("guide") or {}
    steps = [f"{grid['steps']} steps"] if "steps" in grid else []
    guidance = [f"guidance {guide['scale']}"] if "scale" in guide else []
    return _last(settings.get("continuous", settings)), ", ".join([*steps, *guidance])


def _about(run: Record, what: str, name: str) -> str:
    """The words of whichever metric computed this measure."""
    for metric in run.evaluation.get("about_metrics", {}).values():
        if name in metric.get("meaning", {}):
            said = metric.get(what, "")
            return str(said.get(name, said.get("", ""))) if isinstance(said, dict) else str(said)
    return ""


def _more_pictures(run: Record) -> list[tuple[str, Any]]:
    listed = list(run.evaluation.get("pictures", {}).items())[2:]
    return [(caption, path) for caption, file in listed if (path := run.picture(file)) is not None]


def losses(run: Record) -> Section | None:
    """One chart for each part of the loss, in training and on held-out data, and the weights of the terms."""
    parts = dict.fromkeys(k.partition("/")[2] for k in [*run.keys("loss/"), *run.keys("valid/")])
    charts = [line_chart(lines, part) for part in parts if (lines := _train_and_valid(run, part))]
    weights = [Line(k.partition("/")[2], *run.series(k), colour=i) for i, k in enumerate(run.keys("weight/"))]
    charts += [line_chart(weights, "weights of the terms (curriculum)")] if weights else []
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
    found: list[blocks.Block] = [
        blocks.pairs(["Data", ""], _data_lines(run.evaluation[key]), title)
        for key, title in (("data", "Trained on"), ("held_out", "Held out"))
        if run.evaluation.get(key)
    ]
    if versions := run.evaluation.get("versions"):
        found.append(blocks.pairs(["Program", "Version"], versions, "Evaluated with"))
    if run.yaml:
        found.append(blocks.Folded("Configuration", run.yaml))
    return Section("Data, versions, configuration", found) if found else None


def _data_lines(data: dict[str, Any]) -> dict[str, Any]:
    return {k: f"{v:,}" if isinstance(v, int) else v for k, v in data.items()}


PARTS: Sequence[Part] = (samples, measures, losses, progress, provenance)


def comparison(runs: Sequence[Record]) -> Section | None:
    """Several runs in the same charts and one table."""
    if len(runs) < 2:
        return None
    keys = dict.fromkeys(k for run in runs for k in run.keys("valid/"))
    charts = [line_chart(lines, key.partition("/")[2] + ", held out") for key in keys if (lines := _across(runs, key))]
    measured = dict.fromkeys(k for run in runs for k in run.evaluation.get("metrics", {}) if not k.endswith(("_std", "_real")))
    rows = [[Cell(k, code=True), *(_cell(run, k) for run in runs)] for k in measured]
    table = [Table(["Measure", *(run.title for run in runs)], rows, numeric=range(1, len(runs) + 1))] if rows else []
    return Section("Comparison", [*([Gallery(charts)] if charts else []), *table]) if charts or table else None


def _across(runs: Sequence[Record], key: str) -> list[Line]:
    lines = [Line(run.title, *run.series(key), colour=i) for i, run in enumerate(runs)]
    return [line for line in lines if line.values]


def _cell(run: Record, name: str) -> Cell:
    values = run.evaluation.get("metrics", {})
    return _value(values, name) if name in values else Cell(number(None))


def facts(run: Record) -> list[tuple[str, str]]:
    """The few numbers at the head of a run: (value, what it is)."""
    found = [(number(run.steps), "training steps")]
    drawn = run.evaluation.get("samples", {})
    if drawn:
        found.append((number(drawn.get("count")), "samples measured"))
    for key, words in (("seed", "seed"), ("batch_size", "examples a step")):
        value = run.config.get(key, run.config.get("trainer", {}).get(key))
        if value is not None:
            found.append((str(value), words))
    return found


def pictures_of(section: Section) -> list[Picture]:
    """All pictures of a section, for whoever wants to check them."""
    found = [b.pictures if isinstance(b, Gallery) else [b] for b in section.blocks if isinstance(b, (Gallery, Picture))]
    return [picture for some in found for picture in some]
