"""Tables of results: ranked, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable

from hpbench.evaluation.metrics import is_lower_better, load_metric
from hpbench.evaluation.results import Results
from hpbench.evaluation.statistics import (
    Floats,
    Interval,
    compare,
    estimate,
    mean_of_rows,
    probability_of_improvement,
    ranks,
)
from hpbench.evaluation.suite import Row

BASELINE = "library-default"

_NUMBER = re.compile(r"[\d.,]+( %|/\d+)?")

_HEADING = 16
"""Widest line of a heading in a terminal."""

Cell = str | int | float | Interval | None

RANK_RULE = (
    "Agents are ordered by the interquartile mean (IQM) over all meta-episodes. Intervals are 95 % percentile "
    "bootstrap intervals, stratified: seeds are resampled within each row (task and track). The best agent takes a "
    "place, and every following one whose paired difference in IQM from it has an interval that includes 0 shares that "
    "place. Agents that have not finished every row are not ranked. Nor are privileged agents, which try actions on "
    "copies of the run: 'steps used' counts their environment steps, those of the run itself being 1."
)


@dataclass(frozen=True)
class Table:
    """A table of plain values, to be shown in several ways.

    Args:
        columns: headings.
        rows: one cell per column; None is shown as a dash.
        expendable: groups of columns that a narrow terminal leaves out, the first ones first.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    expendable: tuple[tuple[str, ...], ...] = ()

    def texts(self) -> list[list[str]]:
        """All cells as people read them."""
        return [[format_cell(cell) for cell in row] for row in self.rows]

    def to_markdown(self) -> str:
        """A pipe table."""
        numeric = self.numeric()
        lines = [
            _pipes(self.columns),
            _pipes(["---:" if right else ":---" for right in numeric]),
            *(_pipes(row) for row in self.texts()),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Full precision; an interval takes three columns, the bounds with ``low`` and ``high`` in their headings."""
        spread = [any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            heading
            for column, wide in zip(self.columns, spread, strict=True)
            for heading in ([column, f"{column} low", f"{column} high"] if wide else [column])
        )
        for row in self.rows:
            writer.writerow(value for cell, wide in zip(row, spread, strict=True) for value in _csv_values(cell, wide))
        return file.getvalue()

    def to_rich(self, width: int | None = None) -> RichTable:
        """For a terminal of this width; None: as wide as it gets."""
        table = RichTable(title=self.title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        kept = self._fitting(width)
        for i, right in enumerate(self.numeric()):
            if i in kept:
                table.add_column(_heading(self.columns[i]), justify="right" if right else "left", overflow="fold")
        for row in self.texts():
            table.add_row(*(row[i] for i in kept))
        return table

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield self.to_rich(options.max_width)

    def to_text(self, width: int = 120) -> str:
        """As on a terminal, without colours."""
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(self, markup=False)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"

    def __str__(self) -> str:
        return self.to_text()

    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and so are aligned to the right."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        return [all(not isinstance(cell, str) or _NUMBER.fullmatch(cell) for cell in column) for column in columns]

    def _fitting(self, width: int | None) -> list[int]:
        """Columns to show, so that nothing wraps if that can be helped."""
        texts = [[_heading(column), *cells] for column, *cells in zip(self.columns, *self.texts(), strict=True)]
        widths = [max(len(line) for text in column for line in text.splitlines() or [""]) for column in texts]
        kept = list(range(len(self.columns)))
        for group in self.expendable:
            if width is not None and sum(widths[i] + 3 for i in kept) > width:
                kept = [i for i in kept if self.columns[i] not in group]
        return kept


def ranking(
    results: Results,
    metric: str = "meta_score",
    also: Sequence[str] = ("final_score",),
    baseline: str = BASELINE,
) -> Table:
    """One line per agent, the best first.

    Args:
        metric: what is ranked.
        also: more metrics, as means over rows.
        baseline: agent that the probability of improvement is over; without it among the results, that column is empty.

    Raises:
        UnknownName: for an unknown metric.
    """
    sign = -1.0 if is_lower_better(load_metric(metric)) else 1.0
    strata = {agent: results.strata(agent, metric) for agent in results.agents}
    intervals = {agent: estimate(values) for agent, values in strata.items()}
    privileged = {agent for agent in results.agents if results.privileged(agent)}
    complete = [agent for agent in results.agents if results.is_complete(agent) and agent not in privileged]
    places = dict(
        zip(complete, ranks([[sign * x for x in strata[a]] for a in complete]) if complete else [], strict=True)
    )
    order = sorted(
        results.agents, key=lambda agent: (agent not in places, places.get(agent, 0), -sign * intervals[agent].estimate)
    )
    tasks = results.suite.tasks
    rows: list[tuple[Cell, ...]] = []
    for agent in order:
        by_task = [_mean(results.strata(agent, metric, _rows_of(results, agent, task))) for task in tasks]
        rows.append(
            (
                places.get(agent),
                agent,
                intervals[agent],
                _mean(strata[agent]),
                *(_mean(results.strata(agent, name)) for name in also),
                *by_task,
                _improvement(results, agent, baseline, metric, sign),
                *([results.steps_used(agent)] if privileged else []),
                results.diverged(agent),
                f"{len(results.rows(agent))}/{len(results.suite.rows)}",
            )
        )
    headings = ("rank", "agent", f"{readable(metric)} IQM", "mean", *map(readable, also), *_short(tasks))
    expendable = (tuple(_short(tasks)), ("mean",), ("diverged",), tuple(map(readable, also)))
    return Table(
        f"{results.suite.name}: {readable(metric)}",
        (
            *headings,
            f"P(better than {baseline})",
            *(["steps used"] if privileged else []),
            "diverged",
            "rows",
        ),
        tuple(rows),
        expendable,
    )


def by_row(results: Results, metric: str = "meta_score") -> Table:
    """Mean of every agent on every row of the suite: a line per task and track, a column per agent."""
    rows: list[tuple[Cell, ...]] = []
    for row in results.suite.rows:
        cells = [
            _mean([results.values(agent, row, metric)]) if row in results.rows(agent) else None
            for agent in results.agents
        ]
        rows.append((row.task, row.track, len(row.seeds), *cells))
    return Table(f"{readable(metric)} by task and track", ("task", "track", "seeds", *results.agents), tuple(rows))


def against(results: Results, baseline: str = BASELINE, metric: str = "meta_score") -> Table | None:
    """Every agent against one, paired by seed on the rows that both have finished; None if there is no pair."""
    sign = -1.0 if is_lower_better(load_metric(metric)) else 1.0
    rows: list[tuple[Cell, ...]] = []
    for agent in results.agents:
        shared = _shared_rows(results, agent, baseline)
        if agent == baseline or not shared:
            continue
        ours, theirs = (results.strata(name, metric, shared) for name in (agent, baseline))
        result = compare([sign * x for x in ours], [sign * x for x in theirs])
        rows.append((agent, result.difference, result.wins, result.ties, result.losses, result.p_value))
    rows.sort(key=lambda row: -row[1].estimate if isinstance(row[1], Interval) else 0.0)
    columns = ("agent", "mean paired difference", "wins", "ties", "losses", "Wilcoxon p")
    return Table(f"{readable(metric)} against {baseline}, paired by seed", columns, tuple(rows)) if rows else None


def costs(results: Results) -> Table:
    """What the runs cost: wall time and speed, from the files beside the records."""
    rows: list[tuple[Cell, ...]] = []
    for agent in results.agents:
        kept = [cost for row in results.rows(agent) if (cost := results.costs(agent, row)) is not None]
        seconds = sum(cost.seconds for cost in kept)
        if seconds <= 0:
            continue
        steps = sum(cost.steps + cost.evaluation_steps + cost.agent_steps for cost in kept)
        share = sum(cost.agent_seconds for cost in kept) / seconds
        decisions = sum(cost.decisions for cost in kept)
        rows.append(
            (agent, f"{seconds:.1f}", f"{100 * share:.2f} %", f"{decisions / seconds:.1f}", round(steps / seconds))
        )
    columns = ("agent", "seconds", "in the agent", "decisions/s", "environment steps/s")
    return Table("Costs (wall time, one process)", columns, tuple(rows))


def readable(metric: str) -> str:
    """``meta_score`` as words."""
    return metric.rpartition(":")[2].replace("meta_score", "meta-score").replace("_", " ")


def format_cell(cell: Cell) -> str:
    """As people read it: three decimals for scores, fewer for large numbers."""
    if cell is None:
        return "-"
    if isinstance(cell, Interval):
        if math.isnan(cell.low):
            return format_cell(cell.estimate)
        return f"{format_cell(cell.estimate)} [{format_cell(cell.low)}, {format_cell(cell.high)}]"
    if isinstance(cell, float):
        if math.isnan(cell):
            return "-"
        if 0 < abs(cell) < 5e-4:
            return f"{cell:.0e}"
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3f}" if abs(cell) < 10 else f"{cell:.1f}"
    return str(cell)


def _short(tasks: Sequence[str]) -> list[str]:
    """Task ids without their family, if they all share it."""
    families = {task.partition("/")[0] for task in tasks}
    return [task.partition("/")[2] for task in tasks] if len(families) == 1 else list(tasks)


def _heading(column: str) -> str:
    return "\n".join(textwrap.wrap(column, _HEADING, break_on_hyphens=False))


def _mean(strata: Sequence[Floats]) -> float | None:
    return float(mean_of_rows(*strata, axis=-1)) if strata else None


def _rows_of(results: Results, agent: str, task: str) -> list[Row]:
    return [row for row in results.rows(agent) if row.task == task]


def _shared_rows(results: Results, agent: str, other: str) -> list[Row]:
    if other not in results.agents:
        return []
    theirs = set(results.rows(other))
    return [row for row in results.rows(agent) if row in theirs]


def _improvement(results: Results, agent: str, baseline: str, metric: str, sign: float) -> Interval | None:
    shared = _shared_rows(results, agent, baseline)
    if agent == baseline or not shared:
        return None
    ours, theirs = (results.strata(name, metric, shared) for name in (agent, baseline))
    return probability_of_improvement([sign * x for x in ours], [sign * x for x in theirs])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _csv_values(cell: Cell, wide: bool) -> list[object]:
    values: list[object]
    if isinstance(cell, Interval):
        values = [cell.estimate, cell.low, cell.high]
    else:
        values = [cell, None, None] if wide else [cell]
    return ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values]
