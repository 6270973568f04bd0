"""The Procgen family: its data, and PPO on it from end to end."""

from __future__ import annotations

import re
import struct

import gymnasium as gym
import numpy as np
import pytest

from hpbench import tasks
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import MissingExtra, MissingLibrary
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.procgen import BOUNDS, GAMES, LEVELS, ROLLOUTS, TASKS, rotation

IDS = tasks.task_ids("procgen")
QUICK = "procgen/starpilot"
CONFIG = PPOConfig(num_envs=4, num_steps=8, normalize_reward=True)
VALUES = {"update_epochs": 1, "minibatches": 2}


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        tasks.make(QUICK).simulator.make(1).close()  # type: ignore[union-attr]
    except (MissingExtra, MissingLibrary) as error:
        pytest.skip(str(error))


# -- data


def test_sixteen_games_easy_and_hard() -> None:
    assert len(IDS) == 32
    assert len(BOUNDS) == 16
    assert {name.removesuffix("-hard") for name in TASKS} == set(BOUNDS)


def test_anchors_are_the_published_ones() -> None:
    assert (tasks.make("procgen/starpilot").anchors.low, tasks.make("procgen/starpilot").anchors.high) == (2.5, 64.0)
    assert (TASKS["miner-hard"].anchors.low, TASKS["miner-hard"].anchors.high) == (1.5, 20.0)
    assert TASKS["coinrun"].anchors.score(7.5) == 0.5


def test_every_game_is_a_test_game_in_one_rotation() -> None:
    rotations = [rotation(index) for index in range(4)]
    assert rotations[0] == GAMES
    assert rotation(4) == GAMES
    assert rotations[1]["test"] == GAMES["validation"]
    for split in rotations:
        assert sorted(game for part in split.values() for game in part) == sorted(BOUNDS)
        assert [len(part) for part in split.values()] == [8, 4, 4]
    assert sorted(game for split in rotations for game in split["test"]) == sorted(BOUNDS)


@pytest.mark.parametrize("tier", ROLLOUTS)
def test_segments_are_whole_rollouts(tier: str) -> None:
    config = PPOConfig(**ROLLOUTS[tier])
    for task in TASKS.values():
        budget = task.budgets[tier]
        assert budget.steps % (budget.decisions * config.num_envs * config.num_steps) == 0


def test_the_published_protocol_is_a_preset() -> None:
    budget = TASKS["coinrun"].budgets["paper"]
    assert budget.decisions == 50
    assert budget.steps / 50 == pytest.approx(500_000, rel=0.02)
    assert ROLLOUTS["paper"] == {"num_envs": 64, "num_steps": 256, "normalize_reward": True, "encoder": "impala"}


def test_training_levels_are_the_published_ones() -> None:
    assert {task.simulator.levels for task in TASKS.values() if task.id.endswith("-hard")} == {LEVELS["hard"]} == {500}
    assert {task.simulator.levels for task in TASKS.values() if not task.id.endswith("-hard")} == {200}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", TASKS)
def test_time_limits_are_the_games_own(name: str) -> None:
    """A state names the limit behind its two random generators, four numbers in."""
    simulator = TASKS[name].simulator.make(1)  # type: ignore[union-attr]
    state = simulator.save(0)
    _, second, *_ = re.finditer(rb"(?:\d+ ){624}\d+", state)
    assert struct.unpack_from("<5i", state, second.end())[4] == TASKS[name].max_episode_steps
    simulator.close()


def test_variants_differ_in_rewards_and_delay_but_not_in_noise() -> None:
    variants = [tasks.make(f"procgen/maze@train-{index}") for index in range(20)]
    assert len({task.physics["reward_scale"] for task in variants}) == 20
    assert {task.physics["observation_noise"] for task in variants} == {0.0}
    assert {task.physics["action_delay"] for task in variants} >= {0.0, 1.0}


# -- end to end


@pytest.mark.usefixtures("installed")
def test_fork_snapshot_and_restore_are_exact() -> None:
    population = PPO(tasks.make(QUICK), [0, 1], CONFIG, VALUES)
    population.train(3)
    snapshot, fork = population.snapshot(), population.fork([1])
    first = population.train(2)
    after = population.digests()
    fork.train(2)
    assert fork.digests() == after[1:]
    population.restore(snapshot)
    again = population.train(2)
    assert population.digests() == after
    np.testing.assert_equal(first, again)


@pytest.mark.usefixtures("installed")
def test_evaluation_leaves_training_alone_and_does_not_depend_on_company() -> None:
    together = PPO(tasks.make(QUICK), [0, 1], CONFIG, VALUES)
    alone = PPO(tasks.make(QUICK), [1], CONFIG, VALUES)
    results = [population.evaluate(3) for population in (together, alone)]
    np.testing.assert_array_equal(results[0].returns[1], results[1].returns[0])
    together.train(1)
    alone.train(1)
    assert together.digests()[1] == alone.digests()[0]


@pytest.mark.usefixtures("installed")
def test_the_environment_shows_the_gap_and_statistics_of_images() -> None:
    small = {"num_envs": 4, "num_steps": 128}
    options = {"steps": 1024, "decisions": 2, "evaluation_episodes": 1, "learner_config": small}
    env = gym.make("HPControl-Procgen-v0", task="procgen/fruitbot", observation="text", **options)
    env.reset(seed=0)
    keep = np.zeros(env.action_space.shape, np.float32)
    observation, _, _, _, info = env.step(keep)
    assert info["hpbench"]["steps"] == 512
    assert re.search(r"test_gap [-+]?\d", observation)  # some of the short episodes have ended
    *_, last = observation.split("trajectory: state | action | reward\n")[1].split("\n")
    state, action, reward = last.split(" | ")
    numbers = [float(number) for number in state.split()]
    assert len(numbers) == 7
    assert all(0.0 < number < 1.0 for number in numbers[:4])
    assert 0 <= int(action) < 15
    assert float(reward) == pytest.approx(float(reward))
    *_, truncated, info = env.step(keep)
    assert truncated
    env.close()


@pytest.mark.usefixtures("installed")
def test_tiers_bring_their_configuration_and_users_theirs() -> None:
    options = {"family": "procgen", "task": QUICK, "learner_config": {"num_envs": 2}, "steps": 512, "decisions": 2}
    config = EpisodeBatch(EnvOptions.parse(options), [0]).population.config
    assert (config.num_envs, config.num_steps, config.normalize_reward, config.encoder) == (2, 128, True, None)
    large = EpisodeBatch(EnvOptions.parse(options | {"tier": "standard", "steps": 1024}), [0]).population
    assert (large.config.num_steps, large.config.encoder) == (256, "impala")
    assert large.state["parameters"].shape[1] > 600_000
