"""The NetHack family: what its tasks say of themselves, and that PPO trains on them, exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.base import Task
from hpbench.tasks.nethack import GOAL_RETURN, ROLLOUTS, TASKS
from hpbench.tasks.nethack_layout import OBSERVATION_SIZE
from hpbench.tasks.nethack_simulator import CLASSES, PENALTY, NetHackMaker
from replayed import check_copies

MEASURED = Path(__file__).parents[2] / "examples" / "results" / "nethack_anchors.json"
CONFIG = PPOConfig(num_envs=3, num_steps=16)
GOALS = {"staircase", "staircase-pet", "oracle"}


def test_all_tasks_of_nle_are_there() -> None:
    assert list(TASKS) == list(CLASSES)
    for name, task in TASKS.items():
        assert task == tasks.make(f"nethack/{name}")
        assert task.simulator == NetHackMaker(name, task.max_episode_steps)
        assert (task.observation_size, task.observation_dtype, task.encoder) == (OBSERVATION_SIZE, "int16", "glyphs")
        for budget in task.budgets.values():
            assert budget.steps % (ROLLOUTS["num_envs"] * ROLLOUTS["num_steps"] * budget.decisions) == 0
        variant = tasks.make(f"nethack/{name}@train-3")
        assert variant.simulator == task.simulator
        assert variant.physics["observation_noise"] == 0.0


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measurements are part of the source checkout only")
def test_low_anchors_are_those_that_were_measured() -> None:
    rows = {row["task"]: row for row in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]}
    for task in TASKS.values():
        row = rows[task.id]
        assert row["limit"] == task.max_episode_steps
        assert row["episodes"] >= 200
        assert task.anchors.low == pytest.approx(row["mean"], rel=1e-3)
        assert task.anchors.high > row["p95"]


def test_a_positive_return_is_a_goal_that_was_reached() -> None:
    for name, task in TASKS.items():
        if name not in GOALS:
            assert task.success_return is None
            continue
        assert task.success_return == GOAL_RETURN
        longest = task.max_episode_steps - 1  # steps before the one that reaches the goal
        assert 0.0 < GOAL_RETURN < 1.0 + longest * PENALTY


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task with short episodes, so that they end and begin within these tests."""
    pytest.importorskip("nle", reason='needs pip install "hpbench[nethack]"')
    return dataclasses.replace(TASKS["scout"], max_episode_steps=30)


def test_ppo_trains_and_members_do_not_depend_on_their_company(task: Task) -> None:
    both, alone = PPO(task, [3, 4], CONFIG), PPO(task, [4], CONFIG)
    before = both.state["parameters"].clone()
    metrics = both.train(3)
    alone.train(3)
    assert (both.state["parameters"] != before).any(dim=1).all()
    assert both.digests()[1] == alone.digests()[0]
    assert metrics["episodes"].tolist() == [3.0, 3.0]  # 3 environments, 48 steps, episodes of 30
    assert (metrics["return_mean"] > 0).all()  # there is always something new to see at first
    np.testing.assert_array_equal(both.evaluate(2).returns[1], alone.evaluate(2).returns[0])


def test_forks_and_copies_go_on_as_the_original(task: Task) -> None:
    check_copies(PPO(task, [3, 4], CONFIG))
