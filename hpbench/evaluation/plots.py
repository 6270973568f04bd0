"""Figures of results, as matplotlib figures and as SVG for pages.

Figures are made without pyplot, so nothing global is touched. Every agent keeps its colour and line style in all
figures, and the two together tell agents apart without colour vision. In inline SVG all colours are CSS variables
(``--ink``, ``--grid``, ``--series-0`` ...), so that a page can show the same figure light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from hpbench import learners
from hpbench.agent import AGENTS
from hpbench.evaluation.metrics import load_metric
from hpbench.evaluation.results import Results
from hpbench.evaluation.statistics import (
    Floats,
    Interval,
    bootstrap_bounds,
    estimate,
    mean_of_rows,
    performance_profile,
)
from hpbench.evaluation.suite import Row
from hpbench.evaluation.tables import BASELINE, readable
from hpbench.hyperparameter import Hyperparameter

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8569a", "#b07900", "#2f93cf", "#882255", "#7a7a1f")
"""Okabe and Ito's colour-blind safe palette, its light colours darkened for lines on white, and two of Paul Tol's."""
DARK = ("#4ba3e3", "#ff8a4c", "#2fc79a", "#e59ccb", "#f2b632", "#8acdf2", "#e0709f", "#c9c95a")
"""The same hues for dark pages."""
BASELINE_COLOUR = "#5f6670"
BASELINE_DARK = "#a5adb8"
INK, GRID = "#1f2329", "#dfe3e8"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 1.6), (1.4, 1.4), (6.0, 1.4, 1.4, 1.4))

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "hpbench",
}


@dataclass(frozen=True)
class Look:
    """How an agent is drawn. ``series`` is its number among the palette's CSS variables; -1 is the baseline's."""

    colour: str
    dashes: tuple[float, ...]
    series: int


def looks(agents: Sequence[str]) -> dict[str, Look]:
    """Looks by label. Agents that come with the package look the same in every report; others take what is left."""
    known = [name for name in sorted(AGENTS) if name != BASELINE]
    chosen = {agent: known.index(agent) for agent in agents if agent in known}
    free = (i for i in range(len(agents) + len(known)) if i not in chosen.values())
    for agent in agents:
        if agent not in chosen and agent != BASELINE:
            chosen[agent] = next(free)
    result = {agent: _look(number) for agent, number in chosen.items()}
    if BASELINE in agents:
        result[BASELINE] = Look(BASELINE_COLOUR, (2.2, 1.2), -1)
    return result


def learning_curves(results: Results) -> Figure:
    """Evaluation score over environment steps: a panel per task and track, mean over seeds with 95 % intervals."""
    tasks, tracks = results.suite.tasks, results.suite.tracks
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(len(tasks), len(tracks), 1.9, results.agents)
        for i, task in enumerate(tasks):
            for j, track in enumerate(tracks):
                rows = [row for row in results.suite.rows if (row.task, row.track) == (task, track)]
                _curves(axes[i][j], results, rows)
                axes[i][j].set_title(f"{task}, {track}", loc="left")
        for axis in axes[-1]:
            axis.set_xlabel("environment steps")
        for line in axes:
            line[0].set_ylabel("score")
    return figure


def schedules(results: Results, row: Row) -> Figure:
    """The values each agent chose on a row: a panel per hyperparameter, median over seeds, quartile band.

    The axes follow each hyperparameter's own scale; ``log(1-x)`` is drawn as such, labelled with the value.
    """
    space = learners.make(row.learner).hyperparameters
    agents = [agent for agent in results.agents if row in results.rows(agent)]
    names = [name for name in space if any(np.ptp(_values(results, agent, row, name)) > 0 for agent in agents)]
    columns = 3
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(max(1, -(-len(names) // columns)), columns, 1.45, agents)
        panels = [axis for line in axes for axis in line]
        for axis in panels[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(panels, names, strict=False):
            for agent, look in looks(results.agents).items():
                if agent in agents:
                    _schedule(axis, space[name], _values(results, agent, row, name), look)
            _scale(axis, space[name])
            axis.set_title(name, loc="left")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
            axis.margins(x=0.02)
        for axis in panels[max(0, len(names) - columns) : len(names)]:
            axis.set_xlabel("decision")
    return figure


def profiles(results: Results, metric: str = "meta_score") -> Figure:
    """Performance profile: the share of meta-episodes above each value, over all finished rows, with 95 % intervals."""
    everything = np.concatenate([value for agent in results.agents for value in results.strata(agent, metric)])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.02 * (high - low) + 1e-9
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, 1, 2.9, results.agents, width=7.2)
        axis = axes[0][0]
        for agent, look in looks(results.agents).items():
            profile = performance_profile(results.strata(agent, metric), np.linspace(low - margin, high + margin, 121))
            _line(axis, profile.thresholds, profile.share, look, agent)
            _band(axis, profile.thresholds, profile.low, profile.high, look)
        axis.set_xlabel(readable(metric))
        axis.set_ylabel("share of meta-episodes above")
        axis.set_ylim(-0.02, 1.02)
    return figure


def intervals(results: Results, metric: str = "meta_score", order: Sequence[str] | None = None) -> Figure:
    """Interquartile mean of every agent with its 95 % interval.

    Args:
        order: agents from top to bottom; None: as in the results.
    """
    load_metric(metric)
    agents = results.agents if order is None else order
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, 1, 0.3 * len(agents) + 0.1, (), width=7.2, left=0.3 + 0.075 * max(map(len, agents)))
        axis = axes[0][0]
        chosen = looks(results.agents)
        for position, agent in enumerate(agents):
            _interval(axis, position, estimate(results.strata(agent, metric)), chosen[agent])
        axis.set_yticks(range(len(agents)), agents)
        axis.set_ylim(len(agents) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(f"{readable(metric)}, interquartile mean")
    return figure


def to_svg(figure: Figure, title: str, name: str) -> str:
    """Inline SVG: no header, no external references, identifiers that start with ``name``, colours as CSS variables."""
    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # The page's own style sheet sets fonts, and a style element inside would apply to the whole page.
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*| font-family: [^;]*;", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'\sd="[^"]*"', lambda match: _shorten(match[0]), text)
    for colour, variable in _variables().items():
        text = text.replace(colour, f"var(--{variable})")
    head = re.compile(r'<svg\s[^>]*viewBox="([^"]*)"[^>]*>')
    opening = rf'<svg role="img" aria-label="{_escape(title)}" viewBox="\1"><title>{_escape(title)}</title>'
    return head.sub(opening, text, count=1)


def palette_css(dark: bool) -> str:
    """CSS declarations of the colours that :func:`to_svg` refers to, apart from ``--ink`` and ``--grid``."""
    colours = dict(zip(range(len(LIGHT)), DARK if dark else LIGHT, strict=True))
    lines = [f"--series-{i}: {colour};" for i, colour in colours.items()]
    return " ".join([*lines, f"--series-baseline: {BASELINE_DARK if dark else BASELINE_COLOUR};"])


def _variables() -> Mapping[str, str]:
    series = {colour: f"series-{i}" for i, colour in enumerate(LIGHT)}
    return {**series, BASELINE_COLOUR: "series-baseline", INK: "ink", GRID: "grid"}


def _look(number: int) -> Look:
    # Each round through the colours is drawn with other dashes, and so are neighbours in one round.
    colour = number % len(LIGHT)
    return Look(LIGHT[colour], _DASHES[(number + number // len(LIGHT)) % len(_DASHES)], colour)


def _grid(
    rows: int, columns: int, height: float, agents: Sequence[str], width: float = 10.0, left: float = 0.62
) -> tuple[Figure, list[list[Axes]]]:
    """Panels of ``height`` inches with a legend of the agents above them; without agents, none.

    The layout is computed here: matplotlib's own engines draw everything twice to find it.
    """
    gap = 0.55
    columns_in_legend = max(1, int(72.0 * width // (50.0 + 5.5 * max(map(len, agents), default=0))))
    top = 0.12 + (0.22 * -(-len(agents) // columns_in_legend) + 0.22 if agents else 0.0)
    bottom = 0.48
    total = top + rows * height + (rows - 1) * gap + bottom
    figure = Figure(figsize=(width, total))
    FigureCanvasAgg(figure)
    panel_width = (width - left - 0.15 - (columns - 1) * left) / columns
    figure.subplots_adjust(left / width, bottom / total, 1.0 - 0.15 / width, 1.0 - top / total)
    figure.subplots_adjust(wspace=left / panel_width, hspace=gap / height)
    axes = figure.subplots(rows, columns, squeeze=False)
    if agents:
        figure.legend(
            handles=_handles(agents), loc="upper left", ncols=columns_in_legend, handlelength=3.2, borderaxespad=0.2
        )
    return figure, [list(line) for line in axes]


def _curves(axis: Axes, results: Results, rows: Sequence[Row]) -> None:
    for agent, look in looks(results.agents).items():
        for row in rows:
            if row not in results.rows(agent):
                continue
            episodes = results.episodes(agent, row)
            scores = np.stack([episode.scores for episode in episodes], axis=-1)
            low, high = bootstrap_bounds([scores], mean_of_rows)
            _line(axis, episodes[0].steps, scores.mean(axis=-1), look, agent)
            _band(axis, episodes[0].steps, low, high, look)
    if not axis.lines:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.text(0.5, 0.5, "no finished row", transform=axis.transAxes, ha="center", va="center")
        return
    axis.margins(x=0.02)
    axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _values(results: Results, agent: str, row: Row, name: str) -> Floats:
    """A hyperparameter before and under every decision, ``[decisions + 1, seeds]``; a diverged run keeps its last."""
    record = results.record(agent, row)
    columns = []
    for member in record.members:
        values = [member.initial_values[name], *member.values[name]]
        columns.append(values + values[-1:] * (record.decisions + 1 - len(values)))
    return np.array(columns, dtype=np.float64).T


def _schedule(axis: Axes, item: Hyperparameter, values: Floats, look: Look) -> None:
    drawn = 1.0 - values if item.scale == "log1m" else values
    low, middle, high = np.quantile(drawn, [0.25, 0.5, 0.75], axis=1)
    decisions = np.arange(len(values))
    _line(axis, decisions, middle, look, "")
    if np.ptp(values, axis=0).any():
        _band(axis, decisions, low, high, look)


def _scale(axis: Axes, item: Hyperparameter) -> None:
    if item.scale == "linear":
        return
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    wide = high / low > 100
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    if item.scale == "log1m":
        axis.invert_yaxis()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1.0 - value:.6g}"))
    else:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))


def _interval(axis: Axes, position: int, interval: Interval, look: Look) -> None:
    axis.plot([interval.low, interval.high], [position, position], color=look.colour, linewidth=5, alpha=0.35)
    axis.plot([interval.estimate], [position], marker="o", markersize=6, color=look.colour)


def _line(axis: Axes, x: NDArray[Any], y: NDArray[Any], look: Look, label: str) -> None:
    (line,) = axis.plot(x, y, color=look.colour, label=label)
    if look.dashes:
        line.set_dashes(look.dashes)


def _band(axis: Axes, x: NDArray[Any], low: Floats, high: Floats, look: Look) -> None:
    if np.isfinite(low).all():
        axis.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)


def _handles(agents: Sequence[str]) -> list[Line2D]:
    handles = []
    chosen = looks(agents)
    for agent in agents:
        line = Line2D([], [], color=chosen[agent].colour, label=agent)
        if chosen[agent].dashes:
            line.set_dashes(chosen[agent].dashes)
        handles.append(line)
    return handles


def _thousands(value: float, _: object) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value else "0"


def _shorten(path: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), path)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
