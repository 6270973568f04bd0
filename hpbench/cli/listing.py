"""``hpbench list``: compact tables of everything that has a name."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hpbench.errors import UnknownName
from hpbench.hyperparameter import HyperparameterSpace

SCALES = {"linear": "linear", "log": "log", "log1m": "log(1-x)"}


def console() -> Console:
    """For standard output; wide where nobody's window limits it, so that names are not cut."""
    fixed = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if fixed else 140, highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Plain text in columns; numbers to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        # The last column is prose and wraps; the others are names and must stay whole.
        last = index == len(columns) - 1
        made.add_column(column, justify="right" if numeric else "left", no_wrap=not last, overflow="fold")
    for row in rows:
        made.add_row(*(f"{cell:g}" if isinstance(cell, float) else str(cell).replace("[", r"\[") for cell in row))
    return made


def show_list(what: str) -> None:
    """Print one table, or all of them.

    Raises:
        UnknownName: if there is no such table.
    """
    if what != "all" and what not in TABLES:
        raise UnknownName("list", what, ["all", *TABLES])
    out = console()
    for name in TABLES if what == "all" else [what]:
        for made in TABLES[name]():
            out.print(made)


def environment_ids() -> Mapping[str, str]:
    """Gymnasium ids of the meta-environments and the task family of each."""
    from hpbench.control.registration import ENVIRONMENTS

    return ENVIRONMENTS


def parallel_ids() -> Mapping[str, str]:
    """Ids of the PettingZoo environments and the class of each."""
    from hpbench.control.registration import PARALLEL_ENVIRONMENTS

    return PARALLEL_ENVIRONMENTS


def plain(documentation: str) -> str:
    """A docstring without the markup of cross-references: ``:class:`~package.Name``` becomes ``Name``."""
    text = re.sub(r":\w+:`~?(?:[^`]*\.)?([^`.]+)`", r"`\1`", documentation)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def first_sentence(thing: Any) -> str:
    """What its documentation begins with."""
    text = plain(inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ").replace("`", "")
    return text.partition(". ")[0].removesuffix(".")


def hyperparameter_table(title: str, space: HyperparameterSpace) -> Table:
    """Bounds, scale and default of every hyperparameter."""
    rows = [
        (
            item.name,
            f"{item.low:g}",
            f"{item.high:g}",
            SCALES[item.scale] + (", whole" if item.integer else ""),
            f"{item.default:g}",
            "hot" if item.hot else "frozen",
            item.meaning,
        )
        for item in space.values()
    ]
    return table(title, ("hyperparameter", "low", "high", "scale", "default", "may change", "meaning"), rows)


def _ids() -> list[Table]:
    rows = [(name, family, f'gym.make("hpbench:{name}")') for name, family in environment_ids().items()]
    columns = ("id", "tasks", "how to make it")
    parallel = [(name, "any", f'hpbench.parallel_env("{name}", task=...)') for name in parallel_ids()]
    return [table("Environment ids", columns, rows), table("PettingZoo environments", columns, parallel)]


def _tasks() -> list[Table]:
    from hpbench import tasks
    from hpbench.tasks.base import VARIANTS

    rows = []
    for name in tasks.task_ids():
        task = tasks.make(name)
        actions = f"{task.action_count} choices" if task.discrete else f"{task.action_count} continuous"
        budget = task.budgets["small"]
        rows.append((name, task.observation_size, actions, f"{budget.steps} in {budget.decisions}", task.summary))
    variants = ", ".join(f"{count} {split}" for split, count in VARIANTS.items())
    columns = ("task", "observation", "actions", "small budget, decisions", "what it is")
    return [table(f"Tasks (and of each {variants} variants: classic/cartpole@train-17)", columns, rows)]


def _learners() -> list[Table]:
    from hpbench import learners

    rows = [
        (name, len(learners.make(name).hyperparameters), first_sentence(learners.make(name)))
        for name in learners.LEARNERS
    ]
    return [table("Learners", ("learner", "hyperparameters", "what it is"), rows)]


def _hyperparameters() -> list[Table]:
    from hpbench import learners

    return [
        hyperparameter_table(f"Hyperparameters of {name}", learners.make(name).hyperparameters)
        for name in learners.LEARNERS
    ]


def _agents() -> list[Table]:
    from hpbench.agent import AGENT_SCHEMES, AGENTS, POPULATION_AGENTS

    return [
        table(title, ("agent", "what it does"), [(name, first_sentence(known.load(name))) for name in sorted(known)])
        for title, known in (
            ("Agents", AGENTS),
            ("Agents by address", AGENT_SCHEMES),
            ("Agents of the population game", POPULATION_AGENTS),
        )
    ]


def _suites() -> list[Table]:
    from hpbench.evaluation.suite import load_suite, suite_names

    rows = []
    for name in suite_names():
        suite = load_suite(name)
        episodes = sum(len(row.seeds) for row in suite.rows)
        rows.append((name, len(suite.rows), episodes, ", ".join(suite.tracks), suite.title))
    return [table("Suites", ("suite", "rows", "meta-episodes", "tracks", "what it is"), rows)]


TABLES: Mapping[str, Callable[[], list[Table]]] = {
    "ids": _ids,
    "tasks": _tasks,
    "learners": _learners,
    "hyperparameters": _hyperparameters,
    "agents": _agents,
    "suites": _suites,
}
"""What can be listed, in the order of the whole list."""
