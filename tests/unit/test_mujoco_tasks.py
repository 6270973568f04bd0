"""MuJoCo tasks: Gymnasium's own environments step for step, and exact copies of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpbench import tasks
from hpbench.learners import LEARNERS, make
from hpbench.learners.tensor import TensorPopulation
from hpbench.tasks.mujoco import ENVIRONMENTS, TASKS
from hpbench.tasks.mujoco_simulator import MujocoSimulator

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("imageio", reason="Gymnasium's MuJoCo environments import imageio")

SEED = 7


def actions(name: str, count: int, envs: int = 2) -> np.ndarray[Any, Any]:
    task = TASKS[name]
    shape = (count, envs, task.action_count)
    return np.random.default_rng(SEED).uniform(task.action_low, task.action_high, shape).astype(np.float32)


def simulator(name: str, envs: int = 2) -> MujocoSimulator:
    made = TASKS[name].simulator
    assert made is not None
    result = made.make(envs)
    assert isinstance(result, MujocoSimulator)
    return result


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_step_for_step_gymnasiums(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file there
    running, task = simulator(name, envs=1), TASKS[name]
    env = gym.make(ENVIRONMENTS[name])
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    assert env.observation_space.shape == (task.observation_size,)
    assert (space.low == task.action_low).all()
    assert (space.high == task.action_high).all()
    assert space.shape == (task.action_count,)
    assert env.spec is not None
    assert env.spec.max_episode_steps == task.max_episode_steps
    assert env.spec.reward_threshold == task.success_return
    running.reset([0], [SEED])
    observation, _ = env.reset(seed=SEED)
    assert np.array_equal(running.observation[0], observation.astype(np.float32))
    ends = 0
    for i, action in enumerate(actions(name, 150, envs=1)):
        running.step(action)
        observation, reward, terminated, truncated, _ = env.step(action[0])
        assert np.array_equal(running.observation[0], observation.astype(np.float32))
        assert running.reward[0] == reward
        assert running.terminated[0] == terminated
        if terminated or truncated:
            ends += 1
            running.reset([0], [i])
            observation, _ = env.reset(seed=i)
    env.close()
    running.close()
    assert ends > 0 or name in ("halfcheetah", "swimmer", "ant")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_loaded_copy_goes_on_bit_for_bit(name: str) -> None:
    one, other = simulator(name), simulator(name)
    given = actions(name, 12)
    one.reset([0, 1], [1, 2])
    other.reset([0, 1], [3, 4])
    for action in given[:6]:
        one.step(action)
        other.step(action[::-1])
    saved = one.save(0)
    assert len(saved) <= one._maker.state_bytes
    other.load(1, saved)
    assert np.array_equal(other.observation[1], one.observation[0])
    assert other.save(1) == saved
    for action in given[6:]:
        one.step(action)
        other.step(action[::-1])
        assert np.array_equal(other.observation[1], one.observation[0])
        assert other.reward[1] == one.reward[0]
        assert other.save(1) == one.save(0)
    one.close()
    one.close()


def test_only_those_that_matter_are_stepped() -> None:
    running = simulator("hopper", envs=3)
    running.reset(range(3), [1, 2, 3])
    before = running.observation.copy()
    running.step(np.ones((3, 3), np.float32), which=[1])
    assert (running.observation != before).any(axis=1).tolist() == [False, True, False]


def test_nothing_is_written_where_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes a file of warnings about Gymnasium's models."""
    monkeypatch.chdir(tmp_path)
    simulator("halfcheetah").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("learner", ["ppo", "sac"])
def test_populations_fork_and_go_on_exactly(learner: str) -> None:
    kind: Any = make(learner)
    config = kind.config_type(num_envs=2, num_steps=32)
    values = {"update_epochs": 2, "minibatches": 2} if learner == "ppo" else {"batch_size": 16, "updates_per_step": 0.1}
    population: TensorPopulation = kind(tasks.make("mujoco/hopper"), [0, 1], config, values)
    assert population.train(2)["episodes"].min() > 0
    fork = population.fork([1, 0])
    fork.train(1)
    population.train(1)
    assert fork.digests() == population.digests()[::-1]
    assert population.evaluate(2).lengths.min() > 0


def test_the_anchors_are_those_that_were_measured() -> None:
    path = Path(__file__).parents[2] / "examples" / "results" / "mujoco_anchors.json"
    rows = {row["environment"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    assert rows.keys() == set(ENVIRONMENTS.values())
    for name, task in TASKS.items():
        row = rows[ENVIRONMENTS[name]]
        assert row["episodes"] >= 100
        assert task.anchors.low == pytest.approx(row["mean"], abs=0.6)
        assert task.anchors.high > task.anchors.low + 3 * row["standard_error"]


@pytest.mark.parametrize("name", TASKS)
def test_published_values_are_inside_the_bounds(name: str) -> None:
    task = TASKS[name]
    assert "ppo" in task.hand_tuned
    for learner, tuned in task.hand_tuned.items():
        space = LEARNERS.load(learner).hyperparameters
        for hyperparameter, value in tuned.values.items():
            assert space[hyperparameter].low <= value <= space[hyperparameter].high, hyperparameter
    for budget in task.budgets.values():
        assert budget.steps % (budget.decisions * 512) == 0
