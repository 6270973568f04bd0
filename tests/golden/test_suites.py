"""What a released suite runs never changes: neither its rows nor the budgets behind them.

If this fails, bump the version in the suite's name (``quick-v0`` to ``quick-v1``, with a file of its own) and add it to
``suites.json``. Never edit what has been released.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpbench import tasks
from hpbench.control.options import EVALUATION_EPISODES
from hpbench.evaluation.suite import Suite, load_suite, suite_names

GOLDEN = json.loads(Path(__file__).with_name("suites.json").read_text(encoding="utf-8"))


def frozen(suite: Suite) -> dict[str, Any]:
    """Everything that decides what is run: the hash, and what the tiers stand for."""
    budgets = {}
    for row in suite.rows:
        task = tasks.make(row.task)
        budget = task.budgets[row.tier]
        steps = budget.steps if row.steps is None else row.steps
        decisions = budget.decisions if row.decisions is None else row.decisions
        episodes = EVALUATION_EPISODES[row.tier] if row.evaluation_episodes is None else row.evaluation_episodes
        budgets[row.task] = f"{steps} steps, {decisions} decisions, {episodes} evaluation episodes"
        options = task.learner_config.get(row.tier, {}).get(row.learner, {})
        if options:
            budgets[row.task] += ", " + ", ".join(f"{name}={value}" for name, value in options.items())
    return {"hash": suite.hash, "meta_episodes": sum(len(row.seeds) for row in suite.rows), "budgets": budgets}


def test_every_suite_is_pinned() -> None:
    assert sorted(GOLDEN) == suite_names()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_suite_is_what_it_was(name: str) -> None:
    assert frozen(load_suite(name)) == GOLDEN[name]


def test_classic_small_runs_on_the_test_seeds() -> None:
    assert {row.seeds for row in load_suite("classic-small-v0").rows} == {tuple(range(100, 120))}
