"""SAC where the contract tests do not look: continuous tasks, frozen options, replay memory, meta-environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import hpbench  # noqa: F401
from hpbench import tasks
from hpbench.control.tracks import INITIAL_RANGES, configurations
from hpbench.errors import InvalidConfiguration
from hpbench.learners import native
from hpbench.learners.sac import HYPERPARAMETERS, SAC, SACConfig

ENGINES = ["torch"] if native.unavailable() else ["native", "torch"]
CONFIG = SACConfig(num_envs=2, num_steps=24, buffer_size=60, learning_starts=40)
PENDULUM = "classic/pendulum"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task_id", [PENDULUM, "classic/mountaincar-continuous", "classic/acrobot"])
def test_every_hyperparameter_acts(task_id: str, engine: str) -> None:
    values = {"batch_size": 16.0, "updates_per_step": 0.3}
    base = SAC(tasks.make(task_id), [5], CONFIG, values=values, engine=engine)
    base.train(1)
    forks = base.fork([0] * (len(HYPERPARAMETERS.hot) + 1))
    for member, name in enumerate(HYPERPARAMETERS.hot):
        row = forks.values()[name]
        row[member], clipped = HYPERPARAMETERS[name].multiply(row[member], 2.0)
        assert not clipped
        forks.set_values(name, row)
    forks.train(1)
    unchanged = forks.state["parameters"][-1]
    for member, name in enumerate(HYPERPARAMETERS.hot):
        assert not torch.equal(forks.state["parameters"][member], unchanged), name


@pytest.mark.parametrize("engine", ENGINES)
def test_continuous_forks_and_restores_are_exact(engine: str) -> None:
    original = SAC(tasks.make(PENDULUM), range(3), CONFIG, engine=engine)
    original.train(1)
    snapshot, fork = original.snapshot(), original.fork([2, 0, 1])
    for each in (original, fork):
        each.train(2)
        each.evaluate(1)
    expected = original.digests()
    assert fork.digests() == [expected[2], expected[0], expected[1]]
    original.restore(snapshot)
    original.train(2)
    original.evaluate(1)
    assert original.digests() == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fixed_temperature_stays(engine: str) -> None:
    config = SACConfig(num_envs=2, num_steps=24, buffer_size=60, learning_starts=40, temperature=0.25)
    population = SAC(tasks.make(PENDULUM), [0], config, values={"temperature_learning_rate": 0.1}, engine=engine)
    metrics = population.train(2)
    assert metrics["temperature"] == pytest.approx([0.25])
    assert population.state["adam_steps"].item() > 0
    learned = SAC(tasks.make(PENDULUM), [0], CONFIG, values={"temperature_learning_rate": 0.1}, engine=engine)
    assert learned.train(2)["temperature"][0] < 0.9


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_holds_what_was_played(engine: str) -> None:
    """The latest transitions follow each other, and the snippet shows them with the actions that were applied."""
    population = SAC(tasks.make(PENDULUM), [0], CONFIG, engine=engine)
    population.train(2)
    state = population.state
    assert state["replay_size"].item() == 60
    assert state["replay_position"].item() == 96 % 60
    newest = (96 - 2 - 2 * torch.arange(8).flip(0)) % 60
    torch.testing.assert_close(state["snippet_observation"][0], state["replay_observation"][0, newest])
    torch.testing.assert_close(state["snippet_action"][0], 2.0 * state["replay_action"][0, newest])
    torch.testing.assert_close(state["replay_next_observation"][0, newest[-1]], state["env_observation"][0, 0])
    assert population.train(1)["buffer_fill"] == pytest.approx([1.0])


@pytest.mark.parametrize("engine", ENGINES)
def test_without_gradient_steps_there_are_no_losses(engine: str) -> None:
    config = SACConfig(num_envs=2, num_steps=24, learning_starts=100)
    metrics = SAC(tasks.make(PENDULUM), [0], config, engine=engine).train(1)
    for name in ("critic_loss", "actor_loss", "td_error_mean", "td_error_p95", "entropy", "temperature"):
        assert np.isnan(metrics[name][0]), name
    assert metrics["update_ratio"][0] == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 0},
        {"hidden": ()},
        {"learning_starts": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"num_envs": 3, "buffer_size": 100},
    ],
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidConfiguration):
        SAC(tasks.make(PENDULUM), [0], SACConfig(**options))  # type: ignore[arg-type]


def test_initial_values_of_the_random_track_are_plausible() -> None:
    assert INITIAL_RANGES["sac"].keys() == set(HYPERPARAMETERS.hot)
    for values in configurations("sac", HYPERPARAMETERS):
        for name, (low, high) in INITIAL_RANGES["sac"].items():
            assert low <= values[name] <= high


@pytest.mark.parametrize("task_id", [PENDULUM, "classic/cartpole"])
def test_meta_environment(task_id: str) -> None:
    env = gym.make(
        "HPControl-Classic-v0",
        learner="sac",
        task=task_id,
        steps=512,
        decisions=2,
        evaluation_episodes=1,
        learner_config={"num_envs": 2, "num_steps": 64, "learning_starts": 40},
    ).unwrapped
    env.reset(seed=0)
    observation, _, _, _, info = env.step(np.full(env.action_space.shape, 0.5, dtype=np.float32))
    known = env.schema.values(observation)  # type: ignore[attr-defined]
    assert {"temperature", "td_error_mean", "td_error_p95", "q_mean", "buffer_fill", "critic_loss"} <= known.keys()
    assert ("entropy" in known) == (task_id == "classic/cartpole")
    assert ("entropy_per_dimension" in known) == (task_id == PENDULUM)
    assert known["hp_tau"] == pytest.approx(0.01)
    assert info["hpbench"]["values"]["tau"] == pytest.approx(0.01)
    assert env.step(np.zeros(env.action_space.shape, dtype=np.float32))[3]


@pytest.mark.slow
@pytest.mark.skipif(native.unavailable() is not None, reason="takes minutes on the torch engine")
def test_learns_to_swing_up_a_pendulum() -> None:
    """A random policy gets about -1220; SAC with these settings holds the pendulum up after 5,000 steps."""
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate"), 1e-3)
    population = SAC(tasks.make(PENDULUM), [0], SACConfig(num_steps=500), values=rates)
    population.train(10)
    assert population.evaluate(10).returns.mean() > -300.0
