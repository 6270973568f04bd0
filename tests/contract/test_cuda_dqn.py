"""DQN on a GPU keeps the guarantees it has on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.learners.dqn import DQN, DQNConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.parametrize("prioritized", [False, True]),
]

MIXED = {"batch_size": [16, 32, 16], "n_step": [1, 3, 2], "train_frequency": [4, 3, 1]}


def population(device: str, prioritized: bool) -> DQN:
    config = DQNConfig(num_envs=4, num_steps=32, buffer_size=400, learning_starts=40, prioritized=prioritized)
    return DQN(tasks.make("classic/cartpole"), range(3), config, MIXED, device=device, engine="torch")


def test_first_rollout_agrees_with_the_cpu(prioritized: bool) -> None:
    reference, found = population("cpu", prioritized), population("cuda", prioritized)
    for each in (reference, found):
        each.train(1)
    for name, tensor in reference.state.items():
        torch.testing.assert_close(
            found.state[name].cpu(), tensor, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_everything_lives_on_the_device(prioritized: bool) -> None:
    found = population("cuda", prioritized)
    found.train(2)
    assert {tensor.device.type for tensor in found.state.values()} == {"cuda"}
    assert np.isfinite(found.evaluate(2).returns).all()


def test_fork_and_restore_are_exact(prioritized: bool) -> None:
    original = population("cuda", prioritized)
    original.train(1)
    snapshot, fork = original.snapshot(), original.fork([0, 1, 2])
    original.train(2)
    fork.train(2)
    other = population("cuda", prioritized)
    other.restore(snapshot)
    other.train(2)
    assert original.digests() == fork.digests() == other.digests()
