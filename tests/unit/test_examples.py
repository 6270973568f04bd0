"""The examples run."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import hpbench
from hpbench import tasks
from hpbench.evaluation.statistics import compare
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


def test_a_meta_agent_is_trained(tmp_path: Path) -> None:
    """A few decisions are enough to see that the policy is what Stable-Baselines3 trained, and survives its file."""
    pytest.importorskip("stable_baselines3")
    example = runpy.run_path(str(FOLDER / "train_meta_agent.py"))
    options = {**example["TRAIN"], "steps": 1024, "decisions": 2, "evaluation_episodes": 1}
    trained, untrained, decisions = example["train"](1.0, 240, 6, 0, options)
    assert decisions == 240
    observation = np.linspace(-1.0, 1.0, 164, dtype=np.float32)
    assert not np.array_equal(trained.act(observation), untrained.act(observation))
    trained.save(tmp_path / "policy.npz")
    np.testing.assert_array_equal(
        example["MetaAgent"](tmp_path / "policy.npz").act(observation), trained.act(observation)
    )
    names, scores = example["test"](lambda: trained, 2, "classic/cartpole", {**example["TEST"], "steps": 5120})
    assert all(name.startswith("classic/cartpole@test-") for name in names)
    assert np.isfinite(scores).all()


def test_the_committed_meta_agent_is_the_one_of_the_table() -> None:
    """The numbers follow from the committed scores; the policy beats the default on the first test variant again."""
    example = runpy.run_path(str(FOLDER / "train_meta_agent.py"))
    data = json.loads((FOLDER / "results" / "meta_agent.json").read_text(encoding="utf-8"))
    scores = {name: np.array(values) for name, values in data["meta_scores"].items()}
    rows = np.array([name.partition("@")[0] for name in data["tasks"]])
    strata = {name: [values[rows == task] for task in sorted(set(rows))] for name, values in scores.items()}
    found = compare(strata["meta-agent"], strata["library-default"]).difference
    assert found.low == pytest.approx(data["against"]["library-default"]["low"])
    assert found.low > 0.0
    table = (FOLDER / "results" / "meta_agent.md").read_text(encoding="utf-8")
    assert f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" in table
    names, again = example["test"](example["MetaAgent"], 1, "classic/cartpole", example["TEST"])
    assert names == data["tasks"][:1]
    # Not exactly the same score: on another processor the policy may round differently, which training amplifies.
    assert again[0] > scores["library-default"][0] + 0.1


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


def test_what_undoing_is_worth() -> None:
    """The study runs, and its committed numbers follow from the committed scores."""
    study = runpy.run_path(str(FOLDER / "roll_back_study.py"))
    committed = json.loads((FOLDER / "results" / "roll_back.json").read_text())
    for agent in ("random", "reckless", "careless"):
        rows = committed[agent]["tasks"].values()
        found = study["interval"]([np.subtract(row["restore"], row["never"]) for row in rows])
        assert found == (pytest.approx(committed[agent]["difference"]), pytest.approx(committed[agent]["interval"]))
        assert all(row["steps"] == 10 * steps for row, steps in zip(rows, (51_200, *[102_400] * 3), strict=True))
    options = {**study["OPTIONS"], "steps": 12_800, "decisions": 5}
    compared = study["compare"](study["Reckless"](rate=1.0), ["classic/cartpole"], [0, 1], options)
    row = compared["tasks"]["classic/cartpole"]
    assert row["steps"] == 25_600
    assert compared["difference"] == pytest.approx(np.mean(row["restore"]) - np.mean(row["never"]), abs=1e-5)
    alarms = study["false_alarms"]("classic/cartpole", "default", range(2), options)
    assert alarms["judged"] == 8
