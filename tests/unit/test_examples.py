"""The examples run."""

from __future__ import annotations

import json
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


def test_population_study_runs(tmp_path: Path) -> None:
    pytest.importorskip("pettingzoo")
    pytest.importorskip("sklearn")
    program = runpy.run_path(str(FOLDER / "population_study.py"))
    study = program["run_study"](2, tmp_path, {"classic/cartpole": 5120}, members=3)
    assert json.loads((tmp_path / "population_study.json").read_text()) == study
    assert len(study["games"]) == 2 * len(program["AGENTS"])
    for row in study["comparisons"]:
        games = {(g["seed"], g["agent"]): g[row["score"]] for g in study["games"]}
        differences = [games[seed, row["agent"]] - games[seed, "independent"] for seed in (100, 101)]
        assert row["difference"] == pytest.approx(sum(differences) / 2)
        assert row["wins"] == sum(difference > 0 for difference in differences)
        assert row["interval_95"] == pytest.approx(sorted(differences))
    assert "| pb2 | all | mean of members | 2 |" in (tmp_path / "population_study.md").read_text()


def test_the_committed_population_study_is_what_its_games_say() -> None:
    program = runpy.run_path(str(FOLDER / "population_study.py"))
    study = json.loads((FOLDER / "results" / "population_study.json").read_text())
    settings = study["settings"]
    assert program["compare_agents"](study["games"], settings["steps_per_member"]) == study["comparisons"]
    assert program["to_markdown"](study) == (FOLDER / "results" / "population_study.md").read_text()
    for game in study["games"]:
        steps = settings["steps_per_member"][game["task"].partition("@")[0]]
        assert game["diverged"] or game["steps"] == settings["members"] * steps
    found = {(row["agent"], row["task"], row["score"]): row for row in study["comparisons"]}
    assert all(row["pairs"] >= 10 for row in found.values())
    # The claim: copying pays.
    assert found["pbt", "all", "best_score"]["interval_95"][0] > 0
    for task in settings["steps_per_member"]:
        assert found["pbt", task, "mean_score"]["interval_95"][0] > 0
