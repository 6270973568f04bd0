"""Reports: one self-contained HTML page, the same in Markdown, and the ranked table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import hpbench
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation import plots
from hpbench.evaluation.agent_costs import agent_costs
from hpbench.evaluation.records import write_atomically
from hpbench.evaluation.results import Results
from hpbench.evaluation.statistics import Interval
from hpbench.evaluation.tables import BASELINE, RANK_RULE, Table, against, by_row, costs, format_cell, ranking

_PACKAGE = "hpbench.evaluation.templates"

CURVES_TEXT = (
    "Normalised evaluation score over training: 0 and 1 are the task's anchors. Lines are means over seeds, bands are "
    "pointwise 95 % bootstrap intervals."
)
SCHEDULES_TEXT = (
    "The values that were in effect, decision by decision: the median over seeds, and the band from the lower to the "
    "upper quartile. Who keeps a hyperparameter has no band; hyperparameters that are the same for everybody are left "
    "out."
)
PROFILE_TEXT = (
    "The share of meta-episodes that score above each value, every row counted the same. A curve further up and to the "
    "right is better; where curves cross, the mean hides who is better."
)
AGAINST_TEXT = (
    "Differences of meta-episodes with the same task, track and seed. The intervals resample seeds within each row; "
    "every row counts the same. The p-value is that of the Wilcoxon signed-rank test over all pairs, not corrected for "
    "several comparisons."
)
COSTS_TEXT = (
    "Wall time as it happened, with whatever else the machine was doing. It differs from run to run and is not ranked."
)


@dataclass(frozen=True)
class _Figure:
    """``folded``: None stands alone; otherwise it is in a box that can be folded, and whether it is."""

    title: str
    svg: Markup
    narrow: bool = False
    folded: bool | None = None


@dataclass(frozen=True)
class _Section:
    id: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[_Figure, ...] = ()


def write_report(results: Results, folder: str | Path | None = None) -> Path:
    """Write ``report.html``, ``report.md`` and ``table.csv``.

    The page needs nothing but itself: no scripts, no fonts, no network. The same results give the same bytes, apart
    from costs.

    Args:
        folder: where to; None: beside the records.

    Returns:
        Path of the HTML page.

    Raises:
        InvalidConfiguration: if there is no finished row.
    """
    if not results.records:
        raise InvalidConfiguration(f"There is no finished row in {str(results.folder)!r} to report on")
    folder = results.folder if folder is None else Path(folder)
    sections = _sections(results)
    write_atomically(folder / "table.csv", ranking(results).to_csv())
    write_atomically(folder / "report.md", _markdown(results, sections))
    page = folder / "report.html"
    write_atomically(page, _html(results, sections))
    return page


def _sections(results: Results) -> list[_Section]:
    ranked = ranking(results)
    order = [str(row[1]) for row in ranked.rows]
    interval_plot = _figure(
        "Interquartile means with 95 % intervals", plots.intervals(results, order=order), "iqm", True
    )
    curves = _figure("Learning curves by task and track", plots.learning_curves(results), "curves")
    profile = _figure("Performance profiles", plots.profiles(results), "profile", True)
    schedules = tuple(
        _figure(f"Schedules on {row.label}", plots.schedules(results, row), f"schedule{i}", folded=i > 0)
        for i, row in enumerate(
            row for row in results.suite.rows if any(row in results.rows(a) for a in results.agents)
        )
    )
    sections = [
        _Section("ranking", "Ranking", RANK_RULE, (ranked,), (interval_plot,)),
        _Section("curves", "Learning curves", CURVES_TEXT, figures=(curves,)),
        _Section("schedules", "Schedules", SCHEDULES_TEXT, figures=schedules),
        _Section("rows", "Tasks and tracks", "Mean meta-score of every agent on every row.", (by_row(results),)),
        _Section("profile", "Performance profile", PROFILE_TEXT, figures=(profile,)),
    ]
    paired = against(results)
    if paired is not None:
        sections.append(_Section("against", f"Against {BASELINE}", AGAINST_TEXT, (paired,)))
    spent = costs(results)
    if spent.rows:
        used = agent_costs(results)
        sections.append(_Section("costs", "Costs", COSTS_TEXT, (spent, used) if used.rows else (spent,)))
    return sections


def _figure(title: str, figure: Any, name: str, narrow: bool = False, folded: bool | None = None) -> _Figure:
    # The markup is ours: labels inside are text nodes that matplotlib has escaped.
    return _Figure(title, Markup(plots.to_svg(figure, title, name)), narrow, folded)


def _facts(results: Results) -> list[tuple[str, str]]:
    first = results.records[0]
    seeds = sum(len(row.seeds) for row in results.suite.rows)
    machine = f"{first.platform.system} {first.platform.machine}, torch {first.platform.torch}"
    return [
        ("agents", str(len(results.agents))),
        ("tasks", ", ".join(results.suite.tasks)),
        ("tracks", ", ".join(results.suite.tracks)),
        ("meta-episodes per agent", str(seeds)),
        ("suite hash", results.suite.hash[:16]),
        ("made on", f"{machine}, {first.engine} engine, {first.device}"),
    ]


def _html(results: Results, sections: Sequence[_Section]) -> str:
    templates = files(_PACKAGE)
    style = templates.joinpath("report.css").read_text(encoding="utf-8")
    style %= {"light": plots.palette_css(dark=False), "dark": plots.palette_css(dark=True)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(templates.joinpath("report.html.j2").read_text(encoding="utf-8"))
    shown = [
        {
            "id": section.id,
            "title": section.title,
            "text": section.text,
            "tables": [_table_view(table, section.id) for table in section.tables],
            "figures": section.figures,
        }
        for section in sections
    ]
    return template.render(
        suite=results.suite,
        facts=_facts(results),
        notes=results.notes,
        sections=shown,
        style=Markup(style),
        version=hpbench.__version__,
    )


def _table_view(table: Table, section: str) -> dict[str, Any]:
    """A table as the template wants it: alignment, row headings, bounds apart from estimates, the best of a row."""
    numeric = table.numeric()
    head = table.columns.index("agent") if "agent" in table.columns else 0
    rows = []
    for row in table.rows:
        numbers = [cell for cell in row if isinstance(cell, float)]
        best = max(numbers) if section == "rows" and len(numbers) > 1 else None
        cells = []
        for i, cell in enumerate(row):
            text, _, spread = (
                format_cell(cell).partition(" [") if isinstance(cell, Interval) else (format_cell(cell), "", "")
            )
            cells.append(
                {
                    "text": text,
                    "spread": f"[{spread}" if spread else "",
                    "right": numeric[i],
                    "head": i == head,
                    "best": best is not None and isinstance(cell, float) and cell == best,
                }
            )
        rows.append(cells)
    headings = [{"text": column, "right": right} for column, right in zip(table.columns, numeric, strict=True)]
    return {"title": table.title, "headings": headings, "rows": rows}


def _markdown(results: Results, sections: Sequence[_Section]) -> str:
    lines = [f"# {results.suite.name}", "", results.suite.title, ""]
    lines += [f"- {name}: {value}" for name, value in _facts(results)]
    lines += [f"- note: {note}" for note in results.notes]
    for section in sections:
        if section.tables:
            lines += ["", f"## {section.title}", "", section.text]
            lines += [f"\n{table.to_markdown()}" for table in section.tables]
    return "\n".join(lines).rstrip() + "\n"
