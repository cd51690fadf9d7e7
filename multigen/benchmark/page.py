"""A benchmark's results as tables, pictures and a page: all of it from the JSON, but for the grids of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from multigen.benchmark.figure import line, save
from multigen.benchmark.published import published
from multigen.benchmark.results import derive
from multigen.benchmark.table import markdown
from multigen.benchmark.verdict import verdict
from multigen.benchmark.words import spread
from multigen.cache.progress import duration
from multigen.files import read_json, to_json, write_json, write_text
from multigen.report import Page, Section, html, licences
from multigen.report.blocks import MISSING, Block, Cell, Folded, Gallery, Picture, Table, Text, line_chart, number, png
from multigen.report.charts import LIGHT, STEP, Line, draw, dress

Found = Mapping[str, Any]
"""What was collected, with what follows from it."""


def write_results(folder: Path, raw: Mapping[str, Any]) -> str:
    """Write ``results.json`` and what is made of it; returns the verdict."""
    numbers = derive(raw)
    write_json(folder / "results.json", {**raw, "numbers": numbers})
    return _write({**raw, **numbers}, folder)


def redraw(folder: Path) -> str:
    """Write ``results.md``, ``figure.png`` and ``report.html`` from ``results.json``; returns the verdict."""
    raw = read_json(folder / "results.json")
    return _write({**raw, **derive(raw)}, folder)


def _write(found: Found, folder: Path) -> str:
    said = verdict(found)
    remarks = [f"Note: {note}." for note in found["notes"]]
    text = "\n\n".join([said, *remarks, *(f"**{table.caption}**\n\n{markdown(table)}" for table in tables(found))])
    write_text(folder / "results.md", text + "\n")
    draw_figure(found, folder / "figure.png")
    name = found["suite"]["name"]
    write_text(folder / "report.html", html(f"Benchmark: {name}", [_page(found, said, folder)], licences(_data(found))))
    return said


def _page(found: Found, said: str, folder: Path) -> Page:
    bands = [Text("Means over seeds; a band reaches one standard deviation to each side.")] if len(found["seeds"]) > 1 else []
    dashed = [Text("Dashed: the arm's teachers counted in.")] if any(_dashed(_drawn(q)) for q in found["quality"]) else []
    sections = [
        Section("Verdict", [Text(said), *(Text(f"{note}.") for note in found["notes"])]),
        *(Section(f"Curves: {q['words']}", [Gallery(charts(q), 2), *bands, *dashed]) for q in found["quality"]),
        Section("Numbers", tables(found)),
        *_samples(found, folder),
        Section("Settings", _settings(found)),
    ]
    return Page(found["suite"]["name"], _summary(found), _facts(found), [s for s in sections if s.blocks])


def _data(found: Found) -> list[Mapping[str, Any]]:
    return [run["start"].get("data", {}) for run in found["runs"].values()]


def _summary(found: Found) -> str:
    suite = found["suite"]
    seeds = ", ".join(map(str, suite["seeds"]))
    return f"{', '.join(suite['arms'])} under one schedule: {suite['steps']:,} steps, seeds {seeds}."


def _facts(found: Found) -> list[tuple[str, str]]:
    done, of = found["finished"]
    known = [(f"{done} of {of}", "runs finished"), (str(len(found["seeds"])), "seeds compared")]
    seconds = found["state"].get("seconds")
    return [*known, *([(duration(seconds), "of wall clock")] if seconds else [])]


# -------------------------------------------------------------------------------------------------------------------- figures

_FLOPS = {"FLOP": 1.0, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "steps": {STEP: 1.0},
    "seconds": {"seconds of training": 1.0, "minutes of training": 60.0, "hours of training": 3600.0},
    "flops": {f"{unit} of training": size for unit, size in _FLOPS.items()},
}


def lines(quality: Mapping[str, Any], axis: str) -> tuple[str, list[Line]]:
    """What is counted along the axis, in a unit that fits, and the arms' curves over it; none where that is not known."""
    curves = {arm: about["curve"] for arm, about in quality["arms"].items()}
    known = [curve[axis][-1] for curve in curves.values() if curve[axis]]
    if not known:
        return axis, []
    largest = max(known)
    over, unit = max(((o, u) for o, u in _UNITS[axis].items() if u == 1 or u <= largest / 2), key=lambda x: x[1])
    alone = [line(arm, curve, i, axis, unit) for i, (arm, curve) in enumerate(curves.items()) if curve[axis]]
    return over, [*alone, *_with_teachers(curves, axis, unit)]


def _with_teachers(curves: Mapping[str, Mapping[str, Any]], axis: str, unit: float) -> list[Line]:
    """The arms that have teachers once more, dashed: shifted by what these cost."""
    whole = f"{axis}_with_teacher"
    return [
        line(f"{arm}, teachers counted in", {**curve, "std": None}, i, whole, unit)._replace(dashed=True, silent=True)
        for i, (arm, curve) in enumerate(curves.items())
        if curve.get(whole) and curve[whole] != curve[axis]
    ]


def _dashed(panels: Mapping[str, Sequence[Line]]) -> bool:
    return any(line.dashed for made in panels.values() for line in made)


def _drawn(quality: Mapping[str, Any]) -> dict[str, list[Line]]:
    return {over: made for over, made in (lines(quality, axis) for axis in _UNITS) if made}


def charts(quality: Mapping[str, Any]) -> list[Picture]:
    """One for each axis that is known."""
    return [line_chart(made, quality["words"], over) for over, made in _drawn(quality).items()]


def draw_figure(found: Found, path: Path) -> Path | None:
    """The first number over steps, time and FLOPs as PNG; None, and no file, while there is nothing to draw."""
    from matplotlib.figure import Figure

    if not found["quality"]:
        return None
    first = found["quality"][0]
    panels = _drawn(first)
    figure = Figure(figsize=(5.4 * len(panels), 3.8), layout="constrained")
    bands = ["band: standard deviation over seeds"] if len(found["seeds"]) > 1 else []
    legend = [*bands, *(["dashed: teachers counted in"] if _dashed(panels) else [])]
    title = first["words"] + (f" ({'; '.join(legend)})" if legend else "")
    figure.suptitle(title, x=0.01, ha="left", color=LIGHT.ink, fontsize=11, fontweight="bold")
    for i, (axes, (over, made)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        for arm in made:
            draw(axes, arm, LIGHT)
        dress(axes, "", LIGHT, legend=i == 0 and len(made) > 1, over=over)
        if window := _window(first):
            axes.set_ylim(window)
    return save(figure, path)


def _window(quality: Mapping[str, Any]) -> tuple[float, float] | None:
    """The values to be shown where the beginning would press all that is compared into a line: those after a fifth of the
    run. Whatever is seen of the beginning leads out of it."""
    curves = [about["curve"] for about in quality["arms"].values()]
    whole = [x for curve in curves for x in curve["mean"]]
    late = [
        x + side * std
        for c in curves
        for step, x, std in zip(c["steps"], c["mean"], c["std"] or [0.0] * len(c["mean"]), strict=True)
        if step >= _EARLY * quality["end"]
        for side in (-1, 1)
    ]
    low, high = min(late), max(late)
    if max(whole) - min(whole) < 2 * (high - low) or low == high:
        return None
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


_EARLY = 0.2
"""The share of a run that a figure may leave out."""


def _samples(found: Found, folder: Path) -> list[Section]:
    """Grids of every arm at the last step that all of them drew, of the first seed that is compared."""
    hidden = (*found["left_out"], *found["behind"])
    runs = [run for run in found["runs"].values() if run["seed"] == found["seeds"][0] and run["arm"] not in hidden]
    drawn = [{int(step) for step in run["grids"]} for run in runs]
    common = sorted(step for step in set.intersection(*drawn) if step <= found["end"]) if drawn else []
    if not common:
        return []
    shown = {run["arm"]: folder / run["grids"][str(common[-1])] for run in runs}
    if real := runs[0]["real"]:
        shown["real data"] = folder / real
    pictures = [png(path, f"Samples: {arm}", arm) for arm, path in shown.items() if path.is_file()]
    words = f"Samples at step {common[-1]:,}, seed {found['seeds'][0]}, the same noise in every arm"
    return [Section(words, [Gallery(pictures, 2 if max(p.width for p in pictures) > 900 else 3)])] if pictures else []


# --------------------------------------------------------------------------------------------------------------------- tables

INTERVALS = (
    "in brackets bootstrap intervals over seeds (with three, from the least to the largest); "
    "of gains and ratios 95 % by Student's t"
)


def tables(found: Found) -> list[Table]:
    """Numbers of each quality, epochs to reach levels, what others report, and what it cost."""
    measured = [table for q in found["quality"] for table in (_reached(q), *([_levels(q)] if q["levels"] else []))]
    return [*measured, *filter(None, [published(found)]), _cost(found)]


def _reached(quality: Mapping[str, Any]) -> Table:
    header = ["", "final", "gain", "against the baseline", "steps to its final", "time", "FLOPs"]
    header += ["time, teachers counted in", "FLOPs, teachers counted in"]
    rows = [[Cell(arm), *_ends(about), *_sooner(arm, quality)] for arm, about in quality["arms"].items()]
    words = f"{quality['words']}, {quality['better']} is better; {INTERVALS}"
    return Table(header, rows, words, numeric=(1, 2, *range(4, len(header))))


def _ends(about: Mapping[str, Any]) -> list[Cell]:
    return [_cell(about["final"]), _cell(about["gain"]), Cell(about["standing"])]


def _cell(estimate: Mapping[str, Any] | None) -> Cell:
    if estimate is None:
        return Cell(MISSING)
    most = "\u2264" * bool(estimate.get("at_most") and estimate["mean"] is not None)
    return Cell(most + number(estimate["mean"]), spread(estimate["interval"]))


def _sooner(arm: str, quality: Mapping[str, Any]) -> list[Cell]:
    """Steps to the baseline's final value, and how many times sooner it is there."""
    found = {axis: reach["arms"].get(arm, {}) for axis, reach in quality["reach"].items()}
    others = ("seconds", "flops", "seconds_with_teacher", "flops_with_teacher")
    return [_steps(arm, quality), *(_ratio(found, axis) for axis in others)]


def _steps(arm: str, quality: Mapping[str, Any]) -> Cell:
    """The baseline's own are what ratios are of: its runs that end above their mean are counted at their ends."""
    if not quality["reach"]:
        return Cell(MISSING)
    reach = quality["reach"]["steps"]
    steps = reach["arms"][arm]
    if quality["arms"][arm]["standing"] == "baseline":
        return Cell(number(round(reach["baseline_steps"])), f"there within the run {steps['reached']} of {steps['runs']}")
    if steps["ratio"] is None:
        return Cell(MISSING, f"by {steps['reached']} of {steps['runs']}")
    whole = {"mean": round(steps["mean"]), "interval": steps["interval"] and list(map(round, steps["interval"]))}
    cell, within = _cell({**steps, **whole}), steps["ratio_interval"]
    ratio = f"{steps['ratio']:.2f}x" + (f", {within[0]:.2f}x to {within[1]:.2f}x" if within else "")
    return replace(cell, note="; ".join(filter(None, (cell.note, ratio))))


def _ratio(found: Mapping[str, Mapping[str, Any]], axis: str) -> Cell:
    ratio = found.get(axis, {}).get("ratio")
    return Cell(MISSING if ratio is None else f"{ratio:.2f}x")


def _levels(quality: Mapping[str, Any]) -> Table:
    header = ["EP@k", *(f"k = {number(level['k'])}" for level in quality["levels"])]
    rows = [[Cell(arm), *(_cell(level["arms"][arm]) for level in quality["levels"])] for arm in quality["arms"]]
    words = f"Epochs until the {quality['words']} is k (\u2264: when first looked at)"
    return Table(header, rows, words, numeric=range(1, len(header)))


def _cost(found: Found) -> Table:
    header = ["", "parameters", "ms a step", "GFLOP a step", "teachers, seconds", "teachers, GFLOP"]
    rows = [
        [
            Cell(arm),
            Cell(number((cost["parameters"] or {}).get("denoiser"))),
            Cell(_scaled(cost["step_seconds"], 1e-3)),
            Cell(_scaled(cost["flops_per_step"], 1e9)),
            Cell(number(cost["teacher"]["seconds"])),
            Cell(_scaled(cost["teacher"]["flops"], 1e9)),
        ]
        for arm, cost in found["cost"].items()
    ]
    words = "What it costs: training apart from its teachers, and these for one whole run (once where targets are cached)"
    return Table(header, rows, words, numeric=range(1, 6))


def _scaled(value: float | None, unit: float) -> str:
    return MISSING if value is None else number(value / unit)


def _settings(found: Found) -> Sequence[Block]:
    said = [Text(line) for line in _versions(found)]
    configs = [Folded(f"Configuration of {arm}", to_json(config, indent=2)) for arm, config in found["configs"].items()]
    return [*said, Folded("Suite", to_json(found["suite"], indent=2)), *configs]


def _versions(found: Found) -> list[str]:
    """What the runs were made with; and where another run, or a later part of one, was made with something else."""
    parts = [(name, part["step"], part["versions"]) for name, run in found["runs"].items() for part in run.get("versions", [])]
    parts = parts or [(name, 0, run["start"]["versions"]) for name, run in found["runs"].items() if run["start"]]
    if not parts:
        return []
    usual = parts[0][2]
    changed = {(name, step): {k: x for k, x in made.items() if usual.get(k) != x} for name, step, made in parts}
    lines = [f"{name} from step {step:,}: {_named(other)}." for (name, step), other in changed.items() if other]
    return [f"Trained with {_named(usual)}.", *lines]


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
