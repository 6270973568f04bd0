"""The torch engine on a GPU keeps the guarantees it has on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.parametrize("task_id", tasks.task_ids("classic")),
]


def population(task_id: str, device: str, members: int = 3, **values: float) -> PPO:
    config = PPOConfig(num_envs=4, num_steps=32)
    return PPO(tasks.make(task_id), range(members), config, values, device=device, engine="torch")


def test_first_rollout_and_update_agree_with_the_cpu(task_id: str) -> None:
    reference, found = population(task_id, "cpu"), population(task_id, "cuda")
    for each in (reference, found):
        each.train(1)
    for name, tensor in reference.state.items():
        torch.testing.assert_close(
            found.state[name].cpu(), tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_everything_lives_on_the_device(task_id: str) -> None:
    found = population(task_id, "cuda")
    found.train(1)
    assert {tensor.device.type for tensor in (*found.state.values(), *found.buffer.values())} == {"cuda"}


def test_same_seed_same_digest(task_id: str) -> None:
    first, second = population(task_id, "cuda"), population(task_id, "cuda")
    for each in (first, second):
        each.train(2)
        each.evaluate(2)
    assert first.digests() == second.digests()


def test_fork_and_restore_are_exact(task_id: str) -> None:
    original = population(task_id, "cuda")
    original.train(1)
    snapshot, fork = original.snapshot(), original.fork([0, 1, 2])
    original.train(2)
    fork.train(2)
    other = population(task_id, "cuda")
    other.restore(snapshot)
    other.train(2)
    assert original.digests() == fork.digests() == other.digests()


def test_a_snapshot_moves_between_devices(task_id: str) -> None:
    there = population(task_id, "cuda")
    there.train(1)
    here = population(task_id, "cpu")
    here.restore(there.snapshot())
    assert here.digests() == there.digests()
    here.train(1)
    assert np.isfinite(here.train(1)["approx_kl"]).all()


def test_every_hyperparameter_acts(task_id: str) -> None:
    start = {"learning_rate": 5e-3, "clip_range": 0.02, "max_gradient_norm": 0.05, "entropy_coefficient": 0.05}
    base = population(task_id, "cuda", 1, **start)
    base.train(1)
    names = base.hyperparameters.hot
    forks = base.fork([0] * (len(names) + 1))
    for member, name in enumerate(names):
        values = forks.values()[name]
        values[member], _ = base.hyperparameters[name].multiply(values[member], 2.0)
        forks.set_values(name, values)
    forks.train(2)
    for member, name in enumerate(names):
        assert not torch.equal(forks.state["parameters"][member], forks.state["parameters"][-1]), name


def test_divergence_stays_with_its_member(task_id: str) -> None:
    sick, healthy = population(task_id, "cuda"), population(task_id, "cuda")
    sick.state["hyperparameters"][1, sick.hyperparameters.index("learning_rate")] = 1e30
    for each in (sick, healthy):
        each.train(2)
    assert sick.diverged.tolist() == [False, True, False]
    for name in ("parameters", "env_state"):
        torch.testing.assert_close(sick.state[name][[0, 2]], healthy.state[name][[0, 2]], rtol=1e-3, atol=1e-4)
