"""The native engine does what the torch engine, the reference, does, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import native
from hpbench.learners.ppo import PPO, PPOConfig

needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TASKS = tasks.task_ids("classic")


def pair(task_ids: list[str], config: PPOConfig, **values: list[float]) -> tuple[PPO, PPO]:
    chosen = [tasks.make(task_id) for task_id in task_ids]
    seeds = range(len(chosen))
    return PPO(chosen, seeds, config, values, engine="torch"), PPO(chosen, seeds, config, values, engine="native")


def assert_equal(reference: PPO, fast: PPO, tolerance: float) -> None:
    for name, expected in reference.state.items():
        torch.testing.assert_close(
            fast.state[name], expected, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
def test_rollouts_and_updates_agree(task_id: str) -> None:
    # Members differ in all that shapes an update, and in their variant's physics (noise, delay, reward scale).
    ids = [task_id, f"{task_id}@train-1", f"{task_id}@train-5", f"{task_id}@train-8"]
    reference, fast = pair(
        ids,
        PPOConfig(num_envs=3, num_steps=37),
        learning_rate=[3e-4, 1e-3, 1e-3, 3e-3],
        update_epochs=[2, 4, 4, 1],
        minibatches=[4, 4, 3, 32],
        clip_range=[0.2, 0.01, 0.3, 0.2],
        discount=[0.99, 0.9, 0.99, 0.999],
        max_gradient_norm=[0.5, 10.0, 0.05, 0.5],
        entropy_coefficient=[0.01, 0.2, 1e-5, 0.05],
    )
    expected, found = reference.train(1), fast.train(1)
    assert_equal(reference, fast, 1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


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
@pytest.mark.parametrize("task_id", TASKS)
def test_evaluation_agrees(task_id: str) -> None:
    reference, fast = pair([task_id, f"{task_id}@train-5"], PPOConfig(num_envs=2, num_steps=8))
    expected, found = reference.evaluate(3), fast.evaluate(3)
    # The double pendulum is chaotic: over hundreds of steps the last bit of a sine becomes visible.
    tolerance = 0.05 if task_id == "classic/acrobot" else 1e-4
    np.testing.assert_allclose(found.lengths, expected.lengths, rtol=tolerance)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=tolerance)
    assert torch.equal(reference.state["rng_calls"], fast.state["rng_calls"])


@needs_native
def test_time_limits_are_bootstrapped_alike() -> None:
    reference, fast = pair(["classic/mountaincar"], PPOConfig(num_envs=2, num_steps=256))
    reference.train(1)
    fast.train(1)
    cut = reference.buffer["truncated"] == 1
    assert cut.any()
    torch.testing.assert_close(fast.buffer["final_value"][cut], reference.buffer["final_value"][cut])
    torch.testing.assert_close(fast.buffer["advantage"], reference.buffer["advantage"], rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_results(threads: int) -> None:
    task, config = tasks.make("classic/acrobot"), PPOConfig(num_envs=2, num_steps=32)
    one, many = (PPO(task, range(4), config, engine="native", threads=n) for n in (1, threads))
    one.train(2)
    many.train(2)
    assert one.digests() == many.digests()


def test_obstacles_are_named() -> None:
    task = tasks.make("classic/cartpole")
    with pytest.raises(InvalidConfiguration, match=r"multiples of 8.*engine='auto'"):
        PPO(task, [0], PPOConfig(hidden=(20, 20)), engine="native")
    assert PPO(task, [0], PPOConfig(hidden=(20, 20))).engine == "torch"
    with pytest.raises(LookupError, match="native"):
        PPO(task, [0], engine="nativ")
