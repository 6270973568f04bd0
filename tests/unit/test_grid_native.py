"""The native engine plays the grid worlds as the torch engine does, step for step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.learners import native
from hpbench.learners.ppo import PPO, PPOConfig

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")


@pytest.mark.parametrize("task_id", tasks.task_ids("grid"))
def test_long_play_and_evaluation_agree(task_id: str) -> None:
    ids = [task_id, *(f"{task_id}@train-{i}" for i in (0, 1))]
    chosen, config = [tasks.make(name) for name in ids], PPOConfig(num_envs=16, num_steps=48)
    values = {"update_epochs": 1, "minibatches": 1}
    reference, fast = (PPO(chosen, range(3), config, values, engine=engine) for engine in ("torch", "native"))
    expected, found = reference.train(1), fast.train(1)
    for name, tensor in reference.state.items():
        torch.testing.assert_close(
            fast.state[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{task_id}, {n}: {m}"
        )
    for name in ("observation", "action", "reward", "done", "truncated"):
        torch.testing.assert_close(fast.buffer[name], reference.buffer[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["episode_length"], expected["episode_length"])
    np.testing.assert_allclose(found["success_rate"], expected["success_rate"])


@pytest.mark.parametrize("task_id", ["grid/multiroom-n2", "grid/obstacles-5x5", "grid/lavagap-5x5"])
def test_evaluation_on_held_out_levels_agrees(task_id: str) -> None:
    chosen = [tasks.make(task_id), tasks.make(f"{task_id}@test-3")]
    config = PPOConfig(num_envs=2, num_steps=8)
    reference, fast = (PPO(chosen, [3, 4], config, engine=engine) for engine in ("torch", "native"))
    expected, found = reference.evaluate(20), fast.evaluate(20)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.returns, expected.returns, atol=1e-12)


@pytest.mark.parametrize("task_id", tasks.task_ids("grid"))
def test_a_member_depends_neither_on_its_batch_nor_on_a_detour(task_id: str) -> None:
    chosen, config = [tasks.make(f"{task_id}@train-{i}") for i in range(6)], PPOConfig(num_envs=4, num_steps=32)
    many = PPO(chosen, range(6), config, engine="native")
    alone = PPO(chosen[4:5], [4], config, engine="native")
    many.train(1)
    snapshot, fork = many.snapshot(), many.fork([4])
    for population in (many, fork):
        population.train(2)
        population.evaluate(2)
    alone.train(3)
    alone.evaluate(2)
    assert many.digests()[4] == fork.digests()[0] == alone.digests()[0]
    expected = many.digests()
    many.restore(snapshot)
    many.train(2)
    many.evaluate(2)
    assert many.digests() == expected
