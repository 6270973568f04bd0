"""Populations and the matched random agent on the suites of HyperPrompt's results."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hpbench
from hpbench import tasks
from hpbench.control.options import EnvOptions
from hpbench.control.tracks import starting_task
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.suite import load_suite, parse_suite

FOLDER = Path(__file__).parents[2] / "reproduce" / "hyperprompt"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reproduce/ is part of the source checkout only")

CARTPOLE = "classic/cartpole@test"
SHORT: dict[str, Any] = {"evaluation_episodes": 2}


@pytest.fixture(scope="module")
def populations() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "populations.py"), run_name="populations"))


@pytest.fixture(scope="module")
def controls() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "controls.py"), run_name="controls"))


def short(populations: SimpleNamespace, seed: int, task: str = CARTPOLE, track: str = "random") -> Any:
    return populations.Game("pbt", 2, True, task, track, seed, 1024, 2)


def suite(**changes: Any) -> Any:
    row = {
        "env": "HPControl-Classic-v0", "tasks": [CARTPOLE], "tracks": ["random"], "learner": "ppo", "tier": "small",
        "seeds": [100, 101], "steps": 1024, "decisions": 2, "evaluation_episodes": 2,
    }  # fmt: skip
    return parse_suite(json.dumps({"format": 1, "name": "test-v0", "rows": [row | changes]}), "test", "json")


@pytest.mark.parametrize("name", ["held-out", "grid", "learners"])
def test_every_suite_is_on_test_seeds_and_nothing_of_it_was_trained_on(name: str) -> None:
    found = load_suite(FOLDER / f"{name}.toml")
    assert found.name == f"hyperprompt-{name}-v0"
    for row in found.rows:
        assert row.seeds == tuple(range(100, 120))
        assert row.task.endswith("@test") or row.env == "HPControl-Grid-v0"


@pytest.mark.parametrize("members", [4, 8])
@pytest.mark.parametrize("task", load_suite(FOLDER / "held-out.toml").tasks if FOLDER.is_dir() else [])
def test_a_charged_population_takes_no_more_than_one_run(populations: SimpleNamespace, task: str, members: int) -> None:
    whole = tasks.of_split(task).budgets["small"].steps
    steps, decisions = populations.budget(task, members, True)
    assert 0.95 * whole < members * steps <= whole
    assert 5 <= decisions <= 10
    assert steps % (decisions * populations.ROLLOUT) == 0
    assert populations.budget(task, members, False)[0] == whole


def test_more_members_than_rollouts_are_too_many(populations: SimpleNamespace) -> None:
    with pytest.raises(InvalidConfiguration, match="fewer members"):
        populations.budget(CARTPOLE, 1000, True)


def test_a_game_is_on_the_variant_that_single_runs_of_its_seed_have(populations: SimpleNamespace) -> None:
    line = populations.play(short(populations, 103), **SHORT)
    assert line["variant"] == starting_task(EnvOptions(task=CARTPOLE, family="classic"), 103).id
    assert line["taken"] == 2 * 1024
    assert line["meta_score"] == pytest.approx(0.5 * line["scores"][-1] + 0.5 * np.mean(line["scores"][1:]))
    assert line["scores"][-1] in line["final_scores"]
    assert populations.play(short(populations, 103), **SHORT) == line


def test_a_killed_script_goes_on(populations: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl"
    games = [short(populations, seed) for seed in (100, 101)]
    assert populations.run(games, path, **SHORT) == 2
    whole = path.read_text()
    path.write_text(whole[:-40])  # killed while it wrote the second game
    assert len(populations.lines.read(path)) == 1
    assert populations.run(games, path, **SHORT) == 1
    assert path.read_text() == whole
    assert populations.run(games, path, **SHORT) == 0


@pytest.mark.slow
def test_the_script_plays_in_several_processes_what_one_process_plays(
    populations: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "games.jsonl"
    command = [sys.executable, str(FOLDER / "populations.py"), "--output", str(path), "--processes", "2"]
    options = ["--agent", "pbt", "--members", "4", "--track", "random", "--task", CARTPOLE, "--seeds", "100-101"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 games, 2 of them played now" in done.stdout
    games = sorted(populations.lines.read(path), key=lambda line: line["seed"])
    assert [line["seed"] for line in games] == [100, 101]
    (game,) = populations.plan(["pbt"], 4, True, ["random"], [CARTPOLE], [101])
    assert populations.play(game) == games[1]


def test_populations_stand_next_to_agents_once_they_are_complete(populations: SimpleNamespace, tmp_path: Path) -> None:
    results = hpbench.run("library-default", suite(), tmp_path, processes=1, progress=False)
    games = [populations.play(short(populations, seed), **SHORT) for seed in (100, 101)]
    assert populations.table(games[:1], results, ["library-default"]).rows == ()
    (row,) = populations.table(games, results, ["library-default"]).rows
    (ours,) = [np.array([game["meta_score"] for game in games])]
    (theirs,) = results.strata("library-default")
    assert row[0] == "pbt, 2 members"
    assert row[3].estimate == pytest.approx(ours.mean())
    assert row[4].estimate == pytest.approx((ours - theirs).mean())


def test_matched_updates_are_made_as_often_as_the_model_makes_them(controls: SimpleNamespace, tmp_path: Path) -> None:
    row, weights = suite().rows[0], ((30.0, 0.5), (10.0, 0.1))
    costs = iter([SimpleNamespace(agent={"decisions": n, "edit_rate": rate}) for n, rate in weights])
    results = SimpleNamespace(rows=lambda agent: [row, row], costs=lambda agent, row: next(costs))
    assert controls.edit_rate(results) == pytest.approx(0.4)
    file = tmp_path / "rate.json"
    with pytest.raises(InvalidConfiguration, match="not been measured"):
        controls.MatchedRandom(file)
    file.write_text('{"agent": "hyperprompt", "edit_rate": 0.25}')
    played = hpbench.run(controls.MatchedRandom(file), suite(decisions=4, steps=2048), tmp_path, 1, False)
    record = played.record("random-matched-to-model", played.suite.rows[0])
    edited = np.array([member.actions for member in record.members]) != 0.0
    assert 0.05 < edited.mean() < 0.5


def test_rows_without_costs_have_no_rate(controls: SimpleNamespace, tmp_path: Path) -> None:
    results = hpbench.run("library-default", suite(), tmp_path, processes=1, progress=False)
    with pytest.raises(InvalidConfiguration, match="no costs"):
        controls.edit_rate(results, "library-default")
