"""The native engine does what the torch engine, the reference, does, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import make, native
from hpbench.learners.dqn import DQN, DQNConfig
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.sac import SAC, SACConfig
from hpbench.learners.tensor import TensorPopulation

needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TASKS = tasks.task_ids("classic")
CASES = [
    (learner, task_id)
    for learner in ("ppo", "dqn", "sac")
    for task_id in TASKS
    if make(learner).can_learn(tasks.make(task_id))
]
SMALL: dict[str, Any] = {
    "ppo": PPOConfig(num_envs=2, num_steps=32),
    "dqn": DQNConfig(num_envs=2, num_steps=32, learning_starts=16),
    "sac": SACConfig(num_envs=2, num_steps=32, learning_starts=30),
}
INTEGERS = (torch.int64, torch.bool)


def pair(task_ids: list[str], config: Any, **values: list[float]) -> tuple[TensorPopulation, TensorPopulation]:
    """The same members on both engines."""
    learner: Any = {PPOConfig: PPO, DQNConfig: DQN, SACConfig: SAC}[type(config)]
    chosen, seeds = [tasks.make(task_id) for task_id in task_ids], range(len(task_ids))
    return learner(chosen, seeds, config, values, engine="torch"), learner(
        chosen, seeds, config, values, engine="native"
    )


def different(task_id: str) -> list[str]:
    """The task and variants of it that differ in physics: noise, delay, reward scale."""
    return [task_id, *(f"{task_id}@train-{i}" for i in (1, 5, 8))]


def assert_equal(reference: TensorPopulation, fast: TensorPopulation, tolerance: float) -> None:
    for name, expected in reference.state.items():
        close = 0.0 if expected.dtype in INTEGERS else tolerance
        torch.testing.assert_close(
            fast.state[name], expected, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
        )


def train_both(reference: TensorPopulation, fast: TensorPopulation, tolerance: float, of_metrics: float) -> None:
    expected, found = reference.train(1), fast.train(1)
    assert_equal(reference, fast, tolerance)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=of_metrics, atol=of_metrics / 10, err_msg=name)


# -- all learners


@needs_native
@pytest.mark.parametrize(("learner", "task_id"), CASES)
def test_evaluation_agrees(learner: str, task_id: str) -> None:
    reference, fast = pair([task_id, f"{task_id}@train-5"], SMALL[learner])
    expected, found = reference.evaluate(3), fast.evaluate(3)
    # The double pendulum is chaotic: over hundreds of steps the last bit of a sine becomes visible.
    tolerance = 0.05 if task_id == "classic/acrobot" else 1e-4
    np.testing.assert_allclose(found.lengths, expected.lengths, rtol=tolerance)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=tolerance, atol=1e-4)
    assert torch.equal(reference.state["rng_calls"], fast.state["rng_calls"])


@needs_native
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize(
    ("learner", "task_id"),
    [("ppo", "classic/acrobot"), ("dqn", "classic/acrobot"), ("sac", "classic/acrobot"), ("sac", "classic/pendulum")],
)
def test_threads_do_not_change_results(learner: str, task_id: str, threads: int) -> None:
    made: Any = make(learner)
    one, many = (
        made(tasks.make(task_id), range(4), SMALL[learner], engine="native", threads=count) for count in (1, threads)
    )
    one.train(2)
    many.train(2)
    assert one.digests() == many.digests()


@needs_native
@pytest.mark.parametrize(("learner", "task_id"), [("ppo", "classic/cartpole"), ("sac", "classic/pendulum")])
def test_replaced_tensors_and_other_tasks_are_seen(learner: str, task_id: str) -> None:
    """What goes over to the engine is kept between calls."""
    reference, fast = pair([task_id, f"{task_id}@train-5"], SMALL[learner])
    for each in (reference, fast):
        each.train(1)
        snapshot = each.snapshot()
        each.evaluate(1)
        each.train(1)
        each.restore(snapshot)
        each.set_tasks([tasks.make(f"{task_id}@train-5"), tasks.make(f"{task_id}@train-1")])
        each.state["parameters"] = 0.5 * each.state["parameters"]
        each.train(1)
    assert_equal(reference, fast, 1e-3)


@pytest.mark.parametrize("learner", ["ppo", "dqn", "sac"])
def test_obstacles_are_named(learner: str) -> None:
    made: Any = make(learner)
    task, config = tasks.make("classic/cartpole"), made.config_type(hidden=(20, 20))
    with pytest.raises(InvalidConfiguration, match=r"multiples of 8.*engine='auto'"):
        made(task, [0], config, engine="native")
    assert made(task, [0], config).engine == "torch"
    with pytest.raises(LookupError, match="native"):
        made(task, [0], engine="nativ")


# -- PPO


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
def test_ppo_agrees(task_id: str) -> None:
    # Members differ in all that shapes an update.
    reference, fast = pair(
        different(task_id),
        PPOConfig(num_envs=3, num_steps=37),
        learning_rate=[3e-4, 1e-3, 1e-3, 3e-3],
        update_epochs=[2, 4, 4, 1],
        minibatches=[4, 4, 3, 32],
        clip_range=[0.2, 0.01, 0.3, 0.2],
        discount=[0.99, 0.9, 0.99, 0.999],
        max_gradient_norm=[0.5, 10.0, 0.05, 0.5],
        entropy_coefficient=[0.01, 0.2, 1e-5, 0.05],
    )
    train_both(reference, fast, 1e-5, 1e-3)


@needs_native
@pytest.mark.parametrize("task_id", ["classic/cartpole", "classic/pendulum"])
def test_normalisation_agrees(task_id: str) -> None:
    config = PPOConfig(num_envs=4, num_steps=64, normalize_observation=True, normalize_reward=True)
    reference, fast = pair([task_id, f"{task_id}@train-3"], config)
    for _ in range(2):
        reference.train(1)
        fast.train(1)
        assert_equal(reference, fast, 1e-4)
    assert (fast.state["observation_count"] > 500).all()


@needs_native
def test_time_limits_are_bootstrapped_alike() -> None:
    reference, fast = pair(["classic/mountaincar"], PPOConfig(num_envs=2, num_steps=256))
    reference.train(1)
    fast.train(1)
    cut = reference.buffer["truncated"] == 1
    assert cut.any()
    torch.testing.assert_close(fast.buffer["final_value"][cut], reference.buffer["final_value"][cut])
    torch.testing.assert_close(fast.buffer["advantage"], reference.buffer["advantage"], rtol=1e-4, atol=1e-4)


# -- DQN


@needs_native
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("task_id", [task_id for learner, task_id in CASES if learner == "dqn"])
def test_dqn_agrees(task_id: str, double: bool) -> None:
    # Members differ in all that shapes a segment. The memory wraps around, and the gradient steps do not fit into
    # rollouts evenly.
    reference, fast = pair(
        different(task_id),
        DQNConfig(num_envs=3, num_steps=37, buffer_size=180, learning_starts=50, double=double),
        learning_rate=[3e-4, 1e-3, 1e-3, 3e-3],
        discount=[0.99, 0.9, 0.99, 0.999],
        epsilon=[0.05, 0.3, 1.0, 0.1],
        tau=[0.005, 1.0, 0.1, 0.01],
        batch_size=[32, 32, 17, 64],
        train_frequency=[4, 1, 7, 2],
        n_step=[1, 3, 5, 1],
        max_gradient_norm=[10.0, 0.1, 0.5, 100.0],
    )
    for tolerance in (3e-4, 1e-3):
        # Rounding grows with hundreds of gradient steps: an error moves over the kink of a relu or of the Huber loss.
        train_both(reference, fast, tolerance, 10 * tolerance)
    # One for every multiple of the frequency, except those inside the warm-up: its last step ends at 48.
    assert reference.state["adam_steps"].tolist() == [222 // every - 48 // every for every in (4, 1, 7, 2)]


@needs_native
def test_time_limits_and_terminations_are_stored_alike() -> None:
    reference, fast = pair(["classic/mountaincar", "classic/mountaincar@train-2"], DQNConfig(num_envs=2, num_steps=256))
    reference.train(1)
    fast.train(1)
    assert reference.state["replay_truncated"].any()
    assert_equal(reference, fast, 1e-4)
    np.testing.assert_allclose(fast.train(1)["q_bias"], reference.train(1)["q_bias"], rtol=1e-4)


def test_what_dqn_cannot_do_is_named() -> None:
    task = tasks.make("classic/cartpole")
    with pytest.raises(InvalidConfiguration, match=r"no dueling=True.*engine='auto'"):
        DQN(task, [0], DQNConfig(dueling=True), engine="native")
    assert DQN(task, [0], DQNConfig(prioritized=True)).engine == "torch"
    with pytest.raises(InvalidConfiguration, match="discrete actions"):
        DQN(tasks.make("classic/pendulum"), [0])
    with pytest.raises(InvalidConfiguration, match="multiple of num_envs=3"):
        DQN(task, [0], DQNConfig(num_envs=3))


# -- SAC


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
@pytest.mark.parametrize("temperature", [None, 0.2])
def test_sac_agrees(task_id: str, temperature: float | None) -> None:
    # Members differ in all that shapes an update.
    reference, fast = pair(
        different(task_id),
        SACConfig(num_envs=3, num_steps=20, buffer_size=48, learning_starts=42, temperature=temperature),
        actor_learning_rate=[3e-4, 1e-3, 1e-4, 3e-4],
        critic_learning_rate=[1e-3, 3e-4, 1e-4, 1e-3],
        temperature_learning_rate=[1e-3, 1e-2, 1e-4, 3e-3],
        tau=[0.005, 0.1, 1.0, 0.01],
        discount=[0.99, 0.9, 0.99, 0.999],
        target_entropy=[0.5, 0.9, 0.1, 0.6],
        batch_size=[32, 64, 17, 32],
        updates_per_step=[1.0, 0.5, 1.3, 0.25],
    )
    train_both(reference, fast, 1e-4, 1e-3)
    assert reference.state["adam_steps"].tolist() == [18, 9, 23, 4]
