"""The engines on a GPU keep the guarantees that they have on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.learners import make
from hpbench.learners.dqn import DQNConfig
from hpbench.learners.population import Population
from hpbench.learners.ppo import PPOConfig
from hpbench.learners.sac import SACConfig

_DQN = {"num_envs": 4, "num_steps": 32, "buffer_size": 400, "learning_starts": 40}
CONFIGS: dict[str, Any] = {
    "ppo": PPOConfig(num_envs=4, num_steps=32),
    "dqn": DQNConfig(**_DQN),
    "dqn+prioritized": DQNConfig(**_DQN, prioritized=True),
    "sac": SACConfig(num_envs=2, num_steps=24, buffer_size=60, learning_starts=40),
}
MIXED: dict[str, dict[str, list[float]]] = {
    "ppo": {"update_epochs": [2, 4, 3], "minibatches": [4, 8, 4]},
    "dqn": {"batch_size": [16, 31, 16], "n_step": [1, 3, 2], "train_frequency": [4, 3, 1]},
    "sac": {"batch_size": [16, 31, 16], "updates_per_step": [0.3, 1.0, 0.7]},
}
ACTUATION: dict[str, dict[str, float]] = {
    "ppo": {"learning_rate": 5e-3, "clip_range": 0.02, "max_gradient_norm": 0.05, "entropy_coefficient": 0.05},
    "dqn": {"learning_rate": 1e-3, "epsilon": 0.3, "tau": 0.1, "max_gradient_norm": 0.1},
    "sac": {},
}
SUBJECTS = [
    *(("ppo", "torch", task) for task in tasks.task_ids("classic")),
    ("ppo", "graph", "classic/cartpole"),
    ("ppo", "graph", "classic/pendulum"),
    *(
        (case, engine, task)
        for engine in ("torch", "graph")
        for case, task in (
            ("dqn", "classic/cartpole"),
            ("dqn", "classic/acrobot"),
            ("dqn+prioritized", "classic/cartpole"),
            ("sac", "classic/pendulum"),
            ("sac", "classic/cartpole"),
        )
    ),
]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch._inductor"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # of the compiler's own import
    pytest.mark.parametrize(("case", "engine", "task_id"), SUBJECTS, ids=["-".join(s) for s in SUBJECTS]),
]


def population(case: str, engine: str, task_id: str, device: str = "cuda") -> Population:
    learner = case.split("+")[0]
    made: Any = make(learner)
    engine = engine if device == "cuda" else "torch"
    task, values = tasks.make(task_id), MIXED[learner] | ACTUATION[learner]
    return made(task, range(3), CONFIGS[case], values, device=device, engine=engine)  # type: ignore[no-any-return]


def test_first_rollout_and_update_agree_with_the_cpu(case: str, engine: str, task_id: str) -> None:
    reference, found = population(case, engine, task_id, "cpu"), population(case, engine, task_id)
    for each in (reference, found):
        each.train(1)
    for name, tensor in reference.state.items():
        torch.testing.assert_close(
            found.state[name].cpu(), tensor, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_everything_lives_on_the_device(case: str, engine: str, task_id: str) -> None:
    found = population(case, engine, task_id)
    found.train(1)
    assert {tensor.device.type for tensor in found.state.values()} == {"cuda"}
    assert np.isfinite(found.evaluate(2).returns).all()


def test_same_seed_same_digest(case: str, engine: str, task_id: str) -> None:
    first, second = (population(case, engine, task_id) for _ in range(2))
    for each in (first, second):
        each.train(2)
        each.evaluate(2)
    assert first.digests() == second.digests()


def test_fork_and_restore_are_exact(case: str, engine: str, task_id: str) -> None:
    original = population(case, engine, task_id)
    original.train(1)
    snapshot, fork = original.snapshot(), original.fork([0, 1, 2])
    original.train(2)
    fork.train(2)
    other = population(case, engine, task_id)
    other.restore(snapshot)
    other.train(2)
    assert original.digests() == fork.digests() == other.digests()


def test_a_snapshot_moves_between_devices(case: str, engine: str, task_id: str) -> None:
    there = population(case, engine, task_id)
    there.train(1)
    here = population(case, engine, task_id, "cpu")
    here.restore(there.snapshot())
    assert here.digests() == there.digests()
    here.train(1)
    assert np.isfinite(here.train(1)["gradient_norm"]).all()


def test_every_hyperparameter_acts(case: str, engine: str, task_id: str) -> None:
    base = population(case, engine, task_id)
    base.train(1)
    # Three at a time, beside one that keeps everything: so few members need no other graphs.
    names = base.hyperparameters.hot
    for start in range(0, len(names), 3):
        forks = base.fork([0] * 4)
        for member, name in enumerate(names[start : start + 3]):
            values = forks.values()[name]
            values[member], _ = base.hyperparameters[name].multiply(values[member], 2.0)
            forks.set_values(name, values)
        forks.train(2)
        for member, name in enumerate(names[start : start + 3]):
            assert not torch.equal(forks.state["parameters"][member], forks.state["parameters"][-1]), name


def test_divergence_stays_with_its_member(case: str, engine: str, task_id: str) -> None:
    sick, healthy = (population(case, engine, task_id) for _ in range(2))
    rate = "critic_learning_rate" if case == "sac" else "learning_rate"
    sick.state["hyperparameters"][1, sick.hyperparameters.index(rate)] = 1e30
    for each in (sick, healthy):
        each.train(2)
    assert sick.diverged.tolist() == [False, True, False]
    for name in ("parameters", "env_state"):
        torch.testing.assert_close(sick.state[name][[0, 2]], healthy.state[name][[0, 2]], rtol=1e-3, atol=1e-4)
