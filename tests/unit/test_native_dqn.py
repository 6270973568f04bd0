"""DQN on the native engine does what the torch engine, the reference, does, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import native
from hpbench.learners.dqn import DQN, DQNConfig

needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TASKS = [task_id for task_id in tasks.task_ids("classic") if tasks.make(task_id).discrete]
INTEGERS = (torch.int64, torch.bool)


def pair(task_ids: list[str], config: DQNConfig, **values: list[float]) -> tuple[DQN, DQN]:
    chosen = [tasks.make(task_id) for task_id in task_ids]
    seeds = range(len(chosen))
    return DQN(chosen, seeds, config, values, engine="torch"), DQN(chosen, seeds, config, values, engine="native")


def assert_equal(reference: DQN, fast: DQN, tolerance: float) -> None:
    for name, expected in reference.state.items():
        close = 0.0 if expected.dtype in INTEGERS else tolerance
        torch.testing.assert_close(
            fast.state[name], expected, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_native
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("task_id", TASKS)
def test_segments_agree(task_id: str, double: bool) -> None:
    # Members differ in all that shapes a segment, and in their variant's physics (noise, delay, reward scale). The
    # memory wraps around, and the gradient steps do not fit into rollouts evenly.
    ids = [task_id, f"{task_id}@train-1", f"{task_id}@train-5", f"{task_id}@train-8"]
    reference, fast = pair(
        ids,
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
        expected, found = reference.train(1), fast.train(1)
        assert_equal(reference, fast, tolerance)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=10 * tolerance, atol=tolerance, err_msg=name)
    # One for every multiple of the frequency, except those inside the warm-up: its last step ends at 48.
    assert reference.state["adam_steps"].tolist() == [222 // every - 48 // every for every in (4, 1, 7, 2)]


@needs_native
@pytest.mark.parametrize("task_id", TASKS)
def test_evaluation_agrees(task_id: str) -> None:
    reference, fast = pair([task_id, f"{task_id}@train-5"], DQNConfig(num_envs=2, num_steps=8))
    expected, found = reference.evaluate(3), fast.evaluate(3)
    # The double pendulum is chaotic: over hundreds of steps the last bit of a sine becomes visible.
    tolerance = 0.05 if task_id == "classic/acrobot" else 1e-4
    np.testing.assert_allclose(found.lengths, expected.lengths, rtol=tolerance)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=tolerance)
    assert torch.equal(reference.state["rng_calls"], fast.state["rng_calls"])


@needs_native
def test_time_limits_and_terminations_are_stored_alike() -> None:
    reference, fast = pair(["classic/mountaincar", "classic/mountaincar@train-2"], DQNConfig(num_envs=2, num_steps=256))
    reference.train(1)
    fast.train(1)
    assert reference.state["replay_truncated"].any()
    assert_equal(reference, fast, 1e-4)
    np.testing.assert_allclose(fast.train(1)["q_bias"], reference.train(1)["q_bias"], rtol=1e-4)


@needs_native
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_results(threads: int) -> None:
    task, config = tasks.make("classic/acrobot"), DQNConfig(num_steps=64, learning_starts=16)
    one, many = (DQN(task, range(4), config, engine="native", threads=n) for n in (1, threads))
    one.train(2)
    many.train(2)
    assert one.digests() == many.digests()


def test_obstacles_are_named() -> None:
    task = tasks.make("classic/cartpole")
    with pytest.raises(InvalidConfiguration, match=r"no dueling=True.*engine='auto'"):
        DQN(task, [0], DQNConfig(dueling=True), engine="native")
    assert DQN(task, [0], DQNConfig(prioritized=True)).engine == "torch"
    with pytest.raises(InvalidConfiguration, match="discrete actions"):
        DQN(tasks.make("classic/pendulum"), [0])
    with pytest.raises(InvalidConfiguration, match="multiple of num_envs=3"):
        DQN(task, [0], DQNConfig(num_envs=3))
