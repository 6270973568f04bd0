"""The examples run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import hpbench
from hpbench.evaluation.tables import ranking

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
