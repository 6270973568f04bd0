"""Every learner in the meta-environment: it can be made, checked, controlled, copied, and read."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import hpbench  # noqa: F401  (registers the ids)
from hpbench import tasks
from hpbench.control.observation import FEATURES
from hpbench.control.tracks import INITIAL_RANGES, configurations
from hpbench.learners import LEARNERS, make

pytestmark = pytest.mark.parametrize("learner", list(LEARNERS))

SIZES = {"num_envs": 4, "num_steps": 32}
OWN: dict[str, dict[str, int]] = {
    "dqn": {"buffer_size": 400, "learning_starts": 40},
    "sac": {"buffer_size": 400, "learning_starts": 200},
}
"""What small runs of a learner need beside ``SIZES``."""


def task_of(learner: str) -> str:
    """A task that the learner can learn."""
    return next(name for name in tasks.task_ids("classic") if make(learner).can_learn(tasks.make(name)))


def env_of(learner: str, **options: Any) -> gym.Env[Any, Any]:
    config = SIZES | OWN.get(learner, {})
    settings = {"task": task_of(learner), "decisions": 3, "steps": 3 * 256, "evaluation_episodes": 2}
    return gym.make("HPControl-Classic-v0", learner=learner, learner_config=config, **(settings | options))


def play(env: gym.Env[Any, Any], seed: int) -> list[Any]:
    """Observations, rewards and digests of a meta-episode with random actions."""
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    record = [observation.tobytes(), info["hpbench"]["digest"]]
    done = False
    while not done:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        record += [observation.tobytes(), reward, info["hpbench"]["digest"]]
        done = terminated or truncated
    return record


def test_gymnasium_accepts_it(learner: str) -> None:
    check_env(env_of(learner).unwrapped)


def test_a_meta_episode_is_decided_by_its_seed(learner: str) -> None:
    first, again, other = (play(env_of(learner), seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_values_act_where_they_are_read_back(learner: str) -> None:
    env = env_of(learner, action="absolute")
    _, before = env.reset(seed=0)
    _, _, _, _, after = env.step(np.full(len(make(learner).hyperparameters.hot), 0.5, dtype=np.float32))
    space = make(learner).hyperparameters
    for name in space.hot:
        assert after["hpbench"]["values"][name] == space[name].from_action(0.5)
        assert after["hpbench"]["values"][name] != before["hpbench"]["values"][name]


def test_text_names_what_the_vector_holds(learner: str) -> None:
    env = env_of(learner, observation="dict")
    env.reset(seed=0)
    observation, *_ = env.step(np.zeros(len(make(learner).hyperparameters.hot), dtype=np.float32))
    own = {feature.name for feature in FEATURES if learner in feature.learners}
    values = env.unwrapped.schema.values(observation)  # type: ignore[attr-defined]
    assert len(own & set(values)) > 3
    for name in own:
        shown = observation["text"].split(f"{name} ", 1)[1].split()[0]
        assert (shown == "-") == (name not in values), name
        if name in values:
            assert float(shown.partition("[")[0]) == pytest.approx(values[name], rel=1e-3, abs=1e-3)


def test_all_metrics_but_the_episode_count_are_features(learner: str) -> None:
    names = {feature.name for feature in FEATURES if not feature.learners or learner in feature.learners}
    assert set(make(learner).metric_names()) - {"episodes"} <= names


def test_random_track_draws_every_hyperparameter_from_its_range(learner: str) -> None:
    space = make(learner).hyperparameters
    assert tuple(INITIAL_RANGES[learner]) == space.hot
    rows = configurations(learner, space)
    for name, (low, high) in INITIAL_RANGES[learner].items():
        assert space[name].low <= low < high <= space[name].high
        assert all(low <= row[name] <= high for row in rows)
    env = env_of(learner, track="random")
    assert env.reset(seed=0)[1]["hpbench"]["values"] != space.defaults()


def test_only_tasks_that_the_learner_can_learn_are_drawn(learner: str) -> None:
    env = env_of(learner, task=None, observation="text")
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        task = observation.split("\n")[1].split()[1]
        assert make(learner).can_learn(tasks.make(task))
