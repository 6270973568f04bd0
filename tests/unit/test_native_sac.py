"""The native engine does what the torch engine, the reference, does, up to rounding: for SAC."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import native
from hpbench.learners.sac import SAC, SACConfig

needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TASKS = tasks.task_ids("classic")


def pair(task_ids: list[str], config: SACConfig, **values: list[float]) -> tuple[SAC, SAC]:
    chosen = [tasks.make(task_id) for task_id in task_ids]
    seeds = range(len(chosen))
    return SAC(chosen, seeds, config, values, engine="torch"), SAC(chosen, seeds, config, values, engine="native")


def assert_equal(reference: SAC, fast: SAC, tolerance: float) -> None:
    for name, expected in reference.state.items():
        torch.testing.assert_close(
            fast.state[name], expected, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
@pytest.mark.parametrize("temperature", [None, 0.2])
def test_steps_and_updates_agree(task_id: str, temperature: float | None) -> None:
    # Members differ in all that shapes an update, and in their variant's physics (noise, delay, reward scale).
    ids = [task_id, f"{task_id}@train-1", f"{task_id}@train-5", f"{task_id}@train-8"]
    reference, fast = pair(
        ids,
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
    expected, found = reference.train(1), fast.train(1)
    assert reference.state["adam_steps"].tolist() == [18, 9, 23, 4]
    assert_equal(reference, fast, 1e-4)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
def test_evaluation_agrees(task_id: str) -> None:
    reference, fast = pair([task_id, f"{task_id}@train-5"], SACConfig(num_envs=2, num_steps=8))
    expected, found = reference.evaluate(3), fast.evaluate(3)
    # The double pendulum is chaotic: over hundreds of steps the last bit of a sine becomes visible.
    tolerance = 0.05 if task_id == "classic/acrobot" else 1e-4
    np.testing.assert_allclose(found.lengths, expected.lengths, rtol=tolerance)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=tolerance, atol=1e-4)
    assert torch.equal(reference.state["rng_calls"], fast.state["rng_calls"])


@needs_native
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("task_id", ["classic/acrobot", "classic/pendulum"])
def test_threads_do_not_change_results(task_id: str, threads: int) -> None:
    config = SACConfig(num_envs=2, num_steps=32, learning_starts=30)
    one, many = (SAC(tasks.make(task_id), range(4), config, engine="native", threads=n) for n in (1, threads))
    one.train(2)
    many.train(2)
    assert one.digests() == many.digests()


def test_obstacles_are_named() -> None:
    task = tasks.make("classic/pendulum")
    with pytest.raises(InvalidConfiguration, match=r"multiples of 8.*engine='auto'"):
        SAC(task, [0], SACConfig(hidden=(20, 20)), engine="native")
    assert SAC(task, [0], SACConfig(hidden=(20, 20))).engine == "torch"
    with pytest.raises(LookupError, match="native"):
        SAC(task, [0], engine="nativ")
