"""The examples run."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

import hpbench
from hpbench import tasks
from hpbench.evaluation.tables import ranking
from hpbench.tasks.base import Budget

FOLDER = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="examples are part of the source checkout only")

SUITE = """
format = 1
name = "tiny-v0"
title = "Two rows, a few seconds"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole"]
tracks = ["default", "random"]
learner = "ppo"
tier = "small"
seeds = "0-1"
decisions = 4
steps = 2048
evaluation_episodes = 2
"""


def test_own_agent_takes_part_in_a_suite(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE, encoding="utf-8")
    sprinter = runpy.run_path(str(FOLDER / "own_agent.py"))["Sprinter"]()
    results = hpbench.run([sprinter, "agents.fixed:LibraryDefault"], tmp_path / "tiny.toml", tmp_path, 1, False)
    assert set(results.agents) == {"library-default", "sprinter"}
    row = results.suite.rows[0]
    chosen = results.record("sprinter", row).members[0]
    start = chosen.initial_values["learning_rate"]
    shares = [value / start for value in chosen.values["learning_rate"]]
    assert shares == pytest.approx([2.0, 4.0, 4.0 * 0.9, 4.0 * 0.81], rel=0.01)
    assert "sprinter" in ranking(results).to_text()


def test_grid_learning_measures_and_plots(tmp_path: Path) -> None:
    example = runpy.run_path(str(FOLDER / "grid_learning.py"))
    short = dataclasses.replace(tasks.make("grid/empty-6x6"), budgets={"small": Budget(2048, 4)})
    curve = example["learn"](short, "hand-tuned", seeds=2, episodes=3)
    assert curve["steps"] == [0, 512, 1024, 1536, 2048]
    assert [len(row) for row in curve["score"]] == [2] * 5
    example["plot"]({"empty-6x6": {"default": curve, "hand-tuned": curve}}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_committed_grid_curves_are_of_the_tasks_as_they_are() -> None:
    """Learning door-key 5x5 and four rooms inside the small budget is what the family is there for."""
    curves = json.loads((FOLDER / "results" / "grid_learning.json").read_text(encoding="utf-8"))
    assert {"doorkey-5x5", "fourrooms-9x9"} <= set(curves)
    for name, settings in curves.items():
        budget = tasks.make(f"grid/{name}").budgets["small"]
        for curve in settings.values():
            assert len(curve["steps"]) == budget.decisions + 1
            assert curve["steps"][-1] == budget.steps
    for name, lowest in (("doorkey-5x5", 0.95), ("fourrooms-9x9", 0.85)):
        for curve in curves[name].values():
            assert min(curve["score"][-1]) > lowest
            assert max(curve["score"][0]) < 0.7
