"""Tiny tasks and hand-made numbers with known answers: a wrong target, bootstrap, schedule or copy fails here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench.learners.dqn import DQN, DQNConfig
from hpbench.learners.replay import Batch
from hpbench.tasks.base import COMMON_PHYSICS, Anchors, Task

DISCOUNT = 0.9


@dataclass(frozen=True)
class Probe:
    """An episode of ``length`` steps; the observation says the sign drawn at its start and how far it has got."""

    length: int = 1
    reward: str = "one"
    terminates: bool = True
    native: ClassVar[str] = ""
    physics: ClassVar[dict[str, float]] = dict(COMMON_PHYSICS)
    variation: ClassVar[dict[str, tuple[float, float]]] = {}
    state_size: ClassVar[int] = 2
    reset_draws: ClassVar[int] = 1

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        sign = torch.where(uniforms < 0.5, -1.0, 1.0)
        return torch.cat((sign, torch.zeros_like(sign)), dim=-1).double()

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        return state.float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sign, time = state.unbind(-1)
        last = time + 1 >= self.length
        reward = {
            "one": torch.ones_like(sign),
            "last": last.double(),
            "match": torch.where((action == 1) == (sign > 0), 1.0, -1.0).double(),
        }[self.reward]
        after = torch.stack((sign, time + (1 if self.terminates else 0)), dim=-1)
        return after, reward, last & self.terminates


def probe_task(probe: Probe, limit: int = 100) -> Task:
    return Task("probe/probe", 2, True, 2, limit, Anchors(0.0, 1.0, "exact"), None, {}, probe, COMMON_PHYSICS)


def learner(probe: Probe, limit: int = 100, seeds: int = 2, options: Any = None, **values: float) -> DQN:
    settings = {
        "learning_rate": 5e-3,
        "discount": DISCOUNT,
        "epsilon": 0.5,
        "tau": 0.1,
        "batch_size": 64,
        "train_frequency": 8,
    } | values
    sizes: dict[str, Any] = {"num_envs": 16, "num_steps": 16, "hidden": (32, 32)}
    sizes |= {"buffer_size": 4_096, "learning_starts": 64} | (options or {})
    config = DQNConfig(**sizes)
    return DQN(probe_task(probe, limit), range(seeds), config, settings, engine="torch")


def trained(probe: Probe, limit: int = 100, rollouts: int = 8, options: Any = None, **values: float) -> DQN:
    population = learner(probe, limit, 2, options, **values)
    population.train(rollouts)
    return population


def values_of(population: DQN, sign: float, time: float) -> Tensor:
    """Action values ``[members, actions]``."""
    x = torch.tensor([[[sign, time]]]).expand(population.members, 1, 2)
    return population.network.values(population.state["parameters"], x)[:, 0]


VARIANTS = [{}, {"double": False}, {"dueling": True}, {"prioritized": True}, {"hidden": (32,), "dueling": True}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_which_action_pays_is_learned_by_every_variant(options: dict[str, Any]) -> None:
    population = trained(Probe(reward="match"), options=options)
    for sign, expected in ((1.0, [-1.0, 1.0]), (-1.0, [1.0, -1.0])):
        torch.testing.assert_close(
            values_of(population, sign, 0.0), torch.tensor([expected] * 2), rtol=0.0, atol=0.1, check_stride=False
        )
    assert population.evaluate(20).returns.tolist() == [[1.0] * 20] * 2, "evaluation is greedy, whatever epsilon"


@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_value_is_discounted(n_step: int) -> None:
    population = trained(Probe(length=2, reward="last"), rollouts=12, n_step=n_step)
    assert values_of(population, 1.0, 0.0).flatten().tolist() == pytest.approx([DISCOUNT] * 4, abs=0.06)
    assert values_of(population, 1.0, 1.0).flatten().tolist() == pytest.approx([1.0] * 4, abs=0.06)


@pytest.mark.parametrize("n_step", [1, 4])
def test_time_limit_is_bootstrapped_but_termination_is_not(n_step: int) -> None:
    """One reward per step, three steps: cut by the limit it is worth 1 / (1 - discount), terminated a finite sum."""
    settings = {"discount": 0.8, "tau": 0.2, "n_step": n_step}
    endless = trained(Probe(length=3, terminates=False), limit=3, rollouts=10, **settings)
    assert values_of(endless, 1.0, 0.0).flatten().tolist() == pytest.approx([5.0] * 4, rel=0.1)
    ended = trained(Probe(length=3), rollouts=10, **settings)
    assert values_of(ended, 1.0, 0.0).flatten().tolist() == pytest.approx([1.0 + 0.8 + 0.64] * 4, rel=0.1)


def test_bias_is_what_the_first_value_lacks() -> None:
    population = trained(Probe(length=3), rollouts=14, discount=0.8, tau=0.2)
    assert population.train(1)["q_bias"] == pytest.approx([0.0, 0.0], abs=0.2)
    # Members that know nothing yet: no gradient step, values near 0, and the return of an episode is 1 + 0.8 + 0.64.
    fresh = learner(Probe(length=3), options={"learning_starts": 10_000}, discount=0.8)
    first = torch.stack([values_of(fresh, sign, 0.0) for sign in (-1.0, 1.0)]).mean(dim=(0, 2)).numpy()
    metrics = fresh.train(4)
    np.testing.assert_allclose(metrics["q_bias"], first - 2.44, atol=0.1)
    assert np.isnan(metrics["td_loss"]).all(), "nothing was learned, so there is no loss"
    # Cut by the time limit, the value of the final observation is what follows.
    cut = learner(Probe(terminates=False), limit=3, options={"learning_starts": 10_000}, discount=0.8)
    best = torch.stack([values_of(cut, sign, 0.0).amax(dim=1) for sign in (-1.0, 1.0)]).mean(dim=0).numpy()
    first = torch.stack([values_of(cut, sign, 0.0) for sign in (-1.0, 1.0)]).mean(dim=(0, 2)).numpy()
    np.testing.assert_allclose(cut.train(4)["q_bias"], first - 2.44 - 0.512 * best, atol=0.1)


def test_target_network_follows_by_tau() -> None:
    still = learner(Probe(), tau=0.25, seeds=1, options={"num_envs": 4, "num_steps": 17}, train_frequency=4)
    before = {name: still.state[name].clone() for name in ("parameters", "targets")}
    assert torch.equal(before["parameters"], before["targets"])
    still.train(1)  # 68 steps, learning starts after 64: one gradient step
    assert still.state["adam_steps"].tolist() == [1]
    assert not torch.equal(still.state["parameters"], before["parameters"])
    expected = before["targets"] + 0.25 * (still.state["parameters"] - before["targets"])
    torch.testing.assert_close(still.state["targets"], expected)
    copied = trained(Probe(), rollouts=2, tau=1.0)
    torch.testing.assert_close(copied.state["targets"], copied.state["parameters"])


def targets(double: bool, online: list[float], target: list[float]) -> float:
    """The mean absolute error of one transition with reward 0, for an online value of 0 of the action taken."""
    population = learner(Probe(), seeds=1, options={"double": double, "hidden": (2,), "num_envs": 1, "buffer_size": 8})
    # Nothing but the biases of the last layer: both observations have the same values.
    rows = torch.zeros(2, 1, population.network.size)
    rows[:, 0, -2:] = torch.tensor([online, target])
    transition = torch.zeros(1, 1, population.tasks[0].observation_size)
    batch = Batch(transition, torch.zeros(1, 1, 1), torch.zeros(1, 1), transition, torch.full((1, 1), DISCOUNT))
    _, error, _ = population._loss(rows[0].requires_grad_(), rows[1], batch, None, None, None)
    return error.item()


def test_double_q_lets_the_online_network_choose() -> None:
    # The stored action is 0, worth 0 online; online prefers 1, the target network 0.
    assert targets(False, online=[0.0, 1.0], target=[3.0, 2.0]) == pytest.approx(DISCOUNT * 3.0)
    assert targets(True, online=[0.0, 1.0], target=[3.0, 2.0]) == pytest.approx(DISCOUNT * 2.0)


@pytest.mark.parametrize("frequency", [1, 3, 4, 10, 64])
def test_gradient_steps_are_counted_exactly(frequency: int) -> None:
    options = {"learning_starts": 0, "num_envs": 4, "num_steps": 11}
    population = learner(Probe(), seeds=1, options=options, train_frequency=frequency, batch_size=8)
    for rollouts in (1, 2, 1):
        population.train(rollouts)
    assert population.state["adam_steps"].tolist() == [4 * 44 // frequency]


def test_a_lower_frequency_does_not_ask_for_the_past() -> None:
    options = {"learning_starts": 0, "num_envs": 4, "num_steps": 15}
    population = learner(Probe(), seeds=1, options=options, train_frequency=64)
    population.train(1)
    assert population.state["train_credit"].tolist() == [60]
    population.set_values("train_frequency", 4)
    population.train(1)
    assert population.state["adam_steps"].tolist() == [15]


def test_actions_are_random_in_the_warm_up_and_by_epsilon_afterwards() -> None:
    population = learner(
        Probe(reward="match"), seeds=1, options={"learning_starts": 2_048, "num_steps": 512}, epsilon=1e-3
    )
    population.train(1)
    share = population.state["replay_action"][0, :2_048].mean().item()
    assert share == pytest.approx(0.5, abs=5 * 0.011)  # standard deviation of a fair coin: 0.011
    trained_one = trained(Probe(reward="match"), epsilon=0.5)
    # Half of the actions are greedy, the others right half of the time: 0.75 right, a mean reward of 0.5.
    trained_one.set_values("train_frequency", 64)
    assert trained_one.train(4)["return_mean"] == pytest.approx([0.5, 0.5], abs=5 * 0.027)  # five standard errors


def test_dueling_values_are_the_state_value_plus_centred_advantages() -> None:
    population = learner(Probe(), seeds=3, options={"dueling": True})
    x = torch.randn(3, 5, 2)
    rows = population.network._split(population.state["parameters"])
    from hpbench.learners.relu import forward, relu_layers

    features = relu_layers(rows[0], x)[-1]
    values = population.network.values(population.state["parameters"], x)
    torch.testing.assert_close(values.mean(dim=-1, keepdim=True), forward(rows[1], features))
    advantages = forward(rows[2], features)
    torch.testing.assert_close(values[..., 0] - values[..., 1], advantages[..., 0] - advantages[..., 1])
