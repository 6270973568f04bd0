"""``hpbench info``: one thing in detail."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from hpbench import learners, tasks
from hpbench.agent import AGENTS, POPULATION_AGENTS, Agent, BatchAgent, PopulationAgent, needs_of
from hpbench.cli.listing import (
    SCALES,
    console,
    environment_ids,
    hyperparameter_table,
    parallel_ids,
    plain,
    table,
)
from hpbench.control.registration import ENTRY_POINT
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.suite import load_suite, suite_names
from hpbench.registry import load_object
from hpbench.tasks.base import VARIANTS, Task


def show_details(name: str) -> None:
    """Print what a user wants to know about a name of any kind.

    Raises:
        UnknownName: if nothing has that name; the message names the near misses of every kind.
    """
    out = console()
    show = _finder(name)
    show(out, name)


def _finder(name: str) -> Callable[[Console, str], None]:
    if name in environment_ids():
        return _environment
    if name in parallel_ids():
        return _parallel_environment
    if "/" in name and not name.endswith((".toml", ".json")):
        return _task
    if name in learners.LEARNERS:
        return _learner
    if name in AGENTS or name in POPULATION_AGENTS or ":" in name:
        return _agent
    if name in suite_names() or name.endswith((".toml", ".json")):
        return _suite
    if name in _all_hyperparameters():
        return _hyperparameter
    raise UnknownName("name", name, _known())


def _known() -> Iterable[str]:
    yield from environment_ids()
    yield from parallel_ids()
    yield from tasks.task_ids()
    yield from learners.LEARNERS
    yield from AGENTS
    yield from POPULATION_AGENTS
    yield from suite_names()
    yield from _all_hyperparameters()


def _all_hyperparameters() -> list[str]:
    return [name for learner in learners.LEARNERS for name in learners.make(learner).hyperparameters]


def _environment(out: Console, name: str) -> None:
    out.print(f"[bold]{name}[/bold]  (tasks of the family {environment_ids()[name]})")
    _documentation(out, load_object(ENTRY_POINT))


def _parallel_environment(out: Console, name: str) -> None:
    out.print(f"[bold]{name}[/bold]  (PettingZoo; tasks of any family)")
    _documentation(out, load_object(parallel_ids()[name]))


def _task(out: Console, name: str) -> None:
    task = tasks.make(name)
    standard = tasks.make(task.base)
    out.print(f"[bold]{task.id}[/bold]: {task.summary}", soft_wrap=True)
    _facts(out, _task_facts(task))
    out.print(
        table("Budgets", ("tier", "steps", "decisions"), [(k, b.steps, b.decisions) for k, b in task.budgets.items()])
    )
    for learner, tuned in task.hand_tuned.items():
        out.print(table(f"Hand-tuned values of {learner}", ("hyperparameter", "value"), list(tuned.values.items())))
        out.print(f"Source: {tuned.source}", soft_wrap=True)
    rows = [
        (parameter, float(value), float(standard.physics[parameter]), _range(task, parameter))
        for parameter, value in task.physics.items()
    ]
    out.print(table("Physics", ("parameter", "this task", "standard", "in variants"), rows))


def _task_facts(task: Task) -> dict[str, object]:
    if task.discrete:
        actions = f"one of {task.action_count}"
    else:
        actions = f"{task.action_count} in [{task.action_low:g}, {task.action_high:g}]"
    anchors, scale = task.anchors, ", logarithmic" if task.anchors.log else ""
    variants = ", ".join(f"@{split}-0 to {count - 1}" for split, count in VARIANTS.items())
    return {
        "family": task.family,
        "split": task.split,
        "observation": f"{task.observation_size} numbers",
        "action": actions,
        "time limit": f"{task.max_episode_steps} steps",
        "score": f"0 at a return of {anchors.low:g}, 1 at {anchors.high:g}{scale} ({anchors.source})",
        "success": "not defined" if task.success_return is None else f"a return of at least {task.success_return:g}",
        "variants": variants,
    }


def _range(task: Task, parameter: str) -> str:
    low, high = task.dynamics.variation[parameter]
    return f"{low:g} to {high:g}"


def _learner(out: Console, name: str) -> None:
    learner = learners.make(name)
    out.print(f"[bold]{name}[/bold]  ({learner.__module__}:{learner.__qualname__})")
    _documentation(out, sys.modules[learner.__module__])
    out.print(hyperparameter_table("Hyperparameters", learner.hyperparameters))
    rows = [(field.name, repr(field.default)) for field in dataclasses.fields(learner.config_type)]
    out.print(table("Frozen options (learner_config)", ("option", "default"), rows))


def _hyperparameter(out: Console, name: str) -> None:
    for learner in learners.LEARNERS:
        space = learners.make(learner).hyperparameters
        if name not in space:
            continue
        item = space[name]
        out.print(f"[bold]{name}[/bold] of {learner}: {item.meaning}")
        facts = {
            "bounds": f"{item.low:g} to {item.high:g}",
            "default": f"{item.default:g}",
            "scale": SCALES[item.scale],
            "values": "whole numbers" if item.integer else "five digits",
            "may change": "between updates" if item.hot else "only before training",
        }
        steps = {f"action {action:+g}": f"{item.shift(item.default, action)[0]:g}" for action in (-1.0, -0.5, 0.5, 1.0)}
        _facts(out, {**facts, **{f"from the default, delta {key}": value for key, value in steps.items()}})


def _agent(out: Console, name: str) -> None:
    known = POPULATION_AGENTS if name in POPULATION_AGENTS else AGENTS
    agent = known.load(name)
    if not callable(agent) and not isinstance(agent, Agent | BatchAgent | PopulationAgent):
        raise InvalidConfiguration(f"{name!r} is not an agent: it needs reset(spec, seed) and act(observation)")
    path = known.get(name, name)
    out.print(f"[bold]{name}[/bold]  ({path})")
    _documentation(out, agent)
    facts = {"observation": getattr(agent, "observation", "vector"), "action": getattr(agent, "action", "delta")}
    if needs_of(agent):
        facts["needs"] = f"{needs_of(agent)} (privileged: takes part with --privileged only, and is not ranked)"
    if inspect.isclass(agent):
        facts["arguments"] = ", ".join(str(p).replace("'", "") for p in inspect.signature(agent).parameters.values())
    _facts(out, facts)


def _suite(out: Console, name: str) -> None:
    suite = load_suite(name)
    out.print(f"[bold]{suite.name}[/bold]: {suite.title}", soft_wrap=True)
    _facts(out, {"hash": suite.hash, "meta-episodes": sum(len(row.seeds) for row in suite.rows)})
    rows = [(row.env, row.task, row.learner, row.track, row.tier, _seeds(row.seeds)) for row in suite.rows]
    out.print(table("Rows", ("environment", "task", "learner", "track", "tier", "seeds"), rows))


def _seeds(seeds: tuple[int, ...]) -> str:
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _facts(out: Console, facts: dict[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        out.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def _documentation(out: Console, thing: Any) -> None:
    out.print(Markdown(_SECTION.sub(_as_list, plain(inspect.getdoc(thing) or ""))))


_SECTION = re.compile(r"^(Args|Raises|Returns):\n((?:    .*(?:\n|$))+)", re.MULTILINE)


def _as_list(section: re.Match[str]) -> str:
    """An indented section of a docstring as a Markdown list."""
    items = re.sub(r"^    (?=\S)", "- ", section[2], flags=re.MULTILINE)
    return f"**{section[1]}**\n\n{items}"
