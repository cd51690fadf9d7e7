"""A run, or several, as one HTML file that needs nothing else and loads nothing; light or dark as the reader prefers.

Without structures to turn (see `multigen.report.viewer`) there is no script in it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from multigen.files import write_text
from multigen.report import viewer
from multigen.report.blocks import Section
from multigen.report.record import Record, read
from multigen.report.sections import PARTS, Part, comparison, facts, labels, summary

__all__ = ["PARTS", "Page", "Part", "Record", "Section", "html", "labels", "licences", "read", "write_report"]


@dataclass(frozen=True)
class Page:
    """One run's part of a report, or the whole of another one."""

    title: str
    summary: str
    """A line or a paragraph at its head."""
    facts: Sequence[tuple[str, str]]
    """Few numbers: (value, what it is)."""
    sections: Sequence[Section]
    id: str = "page"


def write_report(
    runs: Path | str | Sequence[Path | str],
    path: Path | str | None = None,
    title: str | None = None,
    more: Mapping[str, Sequence[Part]] | None = None,
) -> Path:
    """Write ``report.html``. What a run does not have yet is left out or said to be missing.

    Args:
        runs: a run's folder, or several: the page then begins with a comparison.
        path: the file; by default ``report.html`` in the (first) run's folder.
        title: heading of the page; by default the run's name.
        more: run's name on the page -> further parts of its page, from its modality.

    Raises:
        MultigenError: a folder is missing, or one of its files is damaged.
    """
    folders = [runs] if isinstance(runs, (str, Path)) else list(runs)
    records = [read(folder) for folder in folders]
    named = dict(zip(labels(records), records, strict=True))
    target = Path(path) if path else records[0].folder / "report.html"
    return write_text(target, render(named, title or ", ".join(named), more or {}))


def render(records: Mapping[str, Record], title: str, more: Mapping[str, Sequence[Part]]) -> str:
    """The HTML of a report on runs."""
    sections = {label: _sections(record, more.get(label, ())) for label, record in records.items()}
    script = viewer.script() if viewer.shown(s for some in sections.values() for s in some) else None
    if script is None:
        sections = {label: [viewer.with_note(s, records[label].folder) for s in some] for label, some in sections.items()}
    pages = [Page(k, summary(r), facts(r), sections[k], f"run-{i}") for i, (k, r) in enumerate(records.items())]
    data = [r.evaluation.get(key) or {} for r in records.values() for key in ("data", "held_out")]
    terms = [*licences(data), *([viewer.CREDIT] if script else [])]
    return html(title, pages, terms, comparison(records), script)


def html(
    title: str,
    pages: Sequence[Page],
    terms: Sequence[str] = (),
    comparison: Section | None = None,
    script: str | None = None,
) -> str:
    """A page of pages that needs nothing else."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = (resources(__name__) / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page: dict[str, Any] = {"title": title, "pages": pages, "comparison": comparison, "licences": terms}
    return environment.from_string(source).render(page, script=Markup(script) if script else None)


def _sections(record: Record, more: Sequence[Part]) -> list[Section]:
    parts = [*PARTS[:-1], *more, PARTS[-1]]
    return [section for part in parts if (section := part(record)) is not None]


def licences(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who made the data that the pictures show, and under which terms: each said once.

    Args:
        data: see `multigen.describe.dataset`.
    """
    said = [(d.get("name", d.get("class", "")), d["licence"], d.get("attribution", "")) for d in data if d.get("licence")]
    return list(dict.fromkeys(f"Pictures and models show or derive from {n} ({lic}). {a}".strip() for n, lic, a in said))
