"""The Doom family: its data, what encoders make of its images, and PPO on it from end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.learners.encoders import make_encoder
from hpbench.learners.impala import IMPALA, IMPALA_SMALL
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.base import Task
from hpbench.tasks.doom import ROLLOUTS, SCENARIOS, TASKS
from hpbench.tasks.doom_simulator import BUTTONS, LIMITS, DoomMaker
from replayed import check_copies

MEASURED = Path(__file__).parents[2] / "examples" / "results" / "doom_anchors.json"
CONFIG = PPOConfig(num_envs=4, num_steps=16, normalize_reward=True)
VALUES = {"update_epochs": 1, "minibatches": 2}


# -- data


def test_every_scenario_is_a_task_and_in_one_part() -> None:
    assert [name.replace("-", "_") for name in TASKS] == list(BUTTONS)
    assert sorted(name for part in SCENARIOS.values() for name in part) == sorted(TASKS)
    for name, task in TASKS.items():
        assert task == tasks.make(f"doom/{name}")
        scenario = name.replace("-", "_")
        assert task.simulator == DoomMaker(scenario, LIMITS[scenario])
        assert (task.action_count, task.max_episode_steps) == (BUTTONS[scenario] + 1, LIMITS[scenario])
        assert task.anchors.low < task.anchors.high
        variant = tasks.make(f"doom/{name}@train-3")
        assert variant.simulator == task.simulator
        assert variant.physics["observation_noise"] == 0.0


@pytest.mark.parametrize("tier", ROLLOUTS)
def test_segments_are_whole_rollouts(tier: str) -> None:
    config = PPOConfig(**ROLLOUTS[tier])  # type: ignore[arg-type]
    budget = TASKS["basic"].budgets[tier]
    assert budget.steps % (budget.decisions * config.num_envs * config.num_steps) == 0
    assert make_encoder(config.encoder or TASKS["basic"].encoder, TASKS["basic"].observation_size)


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measurements are part of the source checkout only")
def test_low_anchors_are_those_that_were_measured() -> None:
    rows = {row["scenario"]: row for row in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]}
    for name, task in TASKS.items():
        row = rows[name.replace("-", "_")]
        assert row["limit"] == task.max_episode_steps
        assert row["episodes"] >= 200
        assert task.anchors.low == pytest.approx(row["mean"], abs=0.01)
        assert task.anchors.high > row["mean"] + 20 * row["standard_error"]


def test_a_return_tells_whether_the_monster_of_basic_was_killed() -> None:
    vizdoom = pytest.importorskip("vizdoom", reason='needs pip install "hpbench[doom]"')
    task = TASKS["basic"]
    simulator = DoomMaker("basic", task.max_episode_steps).make(1)
    generator, killed = np.random.default_rng(0), []
    for seed in range(16):
        simulator.reset([0], [seed])
        total, trigger = 0.0, generator.random()
        while not simulator.terminated[0] and len(simulator.save(0)) < 8 + task.max_episode_steps:
            action = 3 if generator.random() < trigger else generator.integers(3)
            simulator.step(np.array([action]))
            total += float(simulator.reward[0])
        game = simulator.games[0].game  # type: ignore[attr-defined]
        killed.append(game.get_game_variable(vizdoom.GameVariable.KILLCOUNT) > 0)
        assert killed[-1] == simulator.terminated[0] == (total >= task.success_return)
    assert 0 < sum(killed) < 16
    simulator.close()


# -- encoders


@pytest.mark.parametrize(("name", "like"), [("first-person", IMPALA), ("first-person-small", IMPALA_SMALL)])
def test_the_networks_are_those_of_procgen(name: str, like: object) -> None:
    encoder = make_encoder(name, TASKS["basic"].observation_size)
    assert dataclasses.asdict(encoder) == dataclasses.asdict(like)  # type: ignore[call-overload]
    assert encoder.parts == like.parts  # type: ignore[attr-defined]


def test_a_summary_tells_colours_and_the_status() -> None:
    encoder = make_encoder("first-person-small", TASKS["basic"].observation_size)
    images = torch.zeros(2, 5, 64, 64, 3, dtype=torch.uint8)
    images[..., 0] = 51
    images[1, 4, -2:] = torch.tensor([80, 12, 3], dtype=torch.uint8)
    summary = encoder.summary(images.flatten(2))
    assert summary.shape == (2, 5, encoder.summary_size)
    torch.testing.assert_close(summary[0, 0], torch.tensor([0.2, 0.0, 0.0, 0.0, 0.0, 51.0, 0.0, 0.0]))
    assert summary[1, 4, 5:].tolist() == [80.0, 12.0, 3.0]
    words = DoomMaker.describe(summary[1, 4].tolist())
    assert words.startswith("health 80 ammo 12 kills 3 image rgb 0.20 0.00 0.00 contrast ")


# -- training


@pytest.fixture
def task() -> Task:
    """A task with short episodes, so that they end and begin within these tests."""
    pytest.importorskip("vizdoom", reason='needs pip install "hpbench[doom]"')
    return dataclasses.replace(TASKS["health-gathering"], max_episode_steps=30)


def test_ppo_trains_and_members_do_not_depend_on_their_company(task: Task) -> None:
    both, alone = PPO(task, [3, 4], CONFIG, values=VALUES), PPO(task, [4], CONFIG, values=VALUES)
    before = both.state["parameters"].clone()
    metrics = both.train(3)
    alone.train(3)
    assert (both.state["parameters"] != before).any(dim=1).all()
    assert both.digests()[1] == alone.digests()[0]
    assert metrics["episodes"].tolist() == [4.0, 4.0]  # 4 environments, 48 steps, episodes of 30
    assert metrics["return_mean"].tolist() == [120.0, 120.0]  # 1 for each of 4 tics: nobody dies so soon
    np.testing.assert_array_equal(both.evaluate(2).returns[1], alone.evaluate(2).returns[0])


def test_forks_and_copies_go_on_as_the_original(task: Task) -> None:
    check_copies(PPO(task, [3, 4], CONFIG, values=VALUES))


def test_agents_read_the_status_in_words() -> None:
    pytest.importorskip("vizdoom", reason='needs pip install "hpbench[doom]"')
    env = gym.make(
        "HPControl-Doom-v0",
        task="doom/basic",
        observation="text",
        steps=32,
        decisions=2,
        evaluation_episodes=1,
        learner_config={"num_envs": 2, "num_steps": 8},
    )
    env.reset(seed=3)
    text = env.step(np.zeros(env.action_space.shape or (), dtype=np.float32))[0]
    assert "doom/basic" in text
    assert "shown: health 100 ammo " in text
    env.close()
