"""Populations on tasks of several agents: they learn, count worlds and not agents, are copied exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import make
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.learners.tensor import TensorPopulation
from hpbench.tasks.pettingzoo import TASKS

pytest.importorskip("mpe2", reason="mpe2 is not installed")
pytest.importorskip("pygame", reason="pygame is not installed")

QUICK = {"update_epochs": 2, "minibatches": 2}


def population(name: str, learner: str = "ppo", worlds: int = 2, steps: int = 16, **options: Any) -> TensorPopulation:
    kind: Any = make(learner)
    task = tasks.make(f"pettingzoo/{name}")
    given: dict[str, Any] = {"num_envs": worlds * task.agents, "num_steps": steps}
    values = QUICK if learner == "ppo" else {"batch_size": 16}
    if learner == "dqn":
        given |= {"buffer_size": 480, "learning_starts": 48}
    made: TensorPopulation = kind(task, [0, 1], kind.config_type(**given), values, **options)
    return made


def test_ppo_learns_to_line_up() -> None:
    task = TASKS["simple-line"]
    config = PPOConfig(**task.learner_config["small"]["ppo"])
    values = {"discount": 0.9, "learning_rate": 2e-3, "update_epochs": 4}
    learner = PPO(task, [0], config, values)
    before = float(learner.evaluate(100).returns.mean())
    learner.train(25)
    after = float(learner.evaluate(100).returns.mean())
    assert before < -18
    assert after > -13, "seeds 0 to 3 reached -11.5 to -11.2 in as many steps"


@pytest.mark.parametrize("learner", ["ppo", "dqn"])
@pytest.mark.parametrize("name", ["simple-spread", "pursuit"])
def test_forks_go_on_exactly(name: str, learner: str) -> None:
    ours = population(name, learner)
    ours.train(2)
    fork = ours.fork([1, 0])
    fork.train(1)
    ours.train(1)
    assert fork.digests() == ours.digests()[::-1]
    assert not ours.diverged.any()


def test_the_engines_see_the_same_worlds() -> None:
    """The torch engine and the native one round differently, and that shows only after a while."""
    native, torch_one = population("simple-reference", steps=5), population("simple-reference", steps=5, engine="torch")
    assert native.engine == "native"
    for each in (native, torch_one):
        each.train(1)
    assert torch.equal(native.state["env_elapsed"], torch_one.state["env_elapsed"])
    assert torch.equal(native.state["env_observation"], torch_one.state["env_observation"])
    assert torch.equal(native.state["env_return"], torch_one.state["env_return"])


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_episodes_are_those_of_worlds_and_steps_those_of_agents(engine: str) -> None:
    ours = population("simple-spread", worlds=4, steps=30, engine=engine)
    metrics = ours.train(1)
    assert ours.steps.tolist() == [4 * 3 * 30] * 2
    assert metrics["episodes"].tolist() == [4.0, 4.0]
    assert metrics["episode_length"].tolist() == [25.0, 25.0]
    returns = ours.state["env_return"].view(2, 4, 3)
    assert torch.equal(returns, returns[..., :1].expand_as(returns))
    assert (metrics["return_sem"] > 0).all()
    evaluation = ours.evaluate(5)
    assert evaluation.returns.shape == (2, 5)
    assert len(np.unique(evaluation.returns)) == 10
    assert evaluation.lengths.tolist() == [[75] * 5] * 2


def test_the_standard_error_is_that_of_worlds() -> None:
    """Agents of a world have the same return: they say no more than one of them."""
    metrics = population("simple-spread", worlds=8, steps=25).train(1)
    again = population("simple-spread", worlds=8, steps=24)  # the same episodes, but for their last step
    again.train(1)
    assert again.state["env_elapsed"].tolist() == [[24] * 24] * 2
    assert metrics["episodes"].tolist() == [8.0, 8.0]
    spread = again.state["env_return"].numpy()[:, ::3].std(axis=1, ddof=1) / 8**0.5
    assert metrics["return_sem"] == pytest.approx(spread, rel=0.2)


def test_environments_must_make_whole_worlds() -> None:
    with pytest.raises(
        InvalidConfiguration, match="num_envs=4 must be a multiple of the 3 agents of .*, for example 6"
    ):
        PPO(TASKS["simple-spread"], [0], PPOConfig(num_envs=4))


def test_a_pool_keeps_worlds_together() -> None:
    """Five worlds of three agents over two processes, against this process."""
    maker = TASKS["simple-spread"].simulator
    assert maker is not None
    pool = SimulatorPool(2)
    try:
        there, here = pool.make(maker, 15, together=3), maker.make(15)
        chosen = np.random.default_rng(0).integers(5, size=(4, 15))
        for each in (there, here):
            each.reset(range(15), range(15))
        for action in chosen:
            there.step(action)
            here.step(action)
            assert np.array_equal(there.observation, here.observation)
            assert there.reward.tolist() == here.reward.tolist()
        assert [there.save(env) for env in range(15)] == [here.save(env) for env in range(15)]
    finally:
        pool.close()
