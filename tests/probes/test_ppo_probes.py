"""Tiny tasks and hand-made numbers with known answers: a wrong advantage, bootstrap, clip or entropy fails here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from hpbench.learners.advantage import generalised_advantage
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.base import COMMON_PHYSICS, Anchors, Task

DISCOUNT, LAMBDA = 0.9, 0.8


def advantages(reward: list[float], value: list[float], done: list[float], last: float) -> list[float]:
    shape = (1, len(reward), 1)
    result = generalised_advantage(
        torch.tensor(reward).view(shape),
        torch.tensor(value).view(shape),
        torch.tensor(done).view(shape),
        torch.tensor([[last]]),
        torch.tensor([DISCOUNT]),
        torch.tensor([LAMBDA]),
    )
    return result.flatten().tolist()


def test_advantage_by_hand() -> None:
    # delta_1 = 2 + 0.9 * 4 - 3 = 2.6; delta_0 = 1 + 0.9 * 3 - 2 = 1.7; A_0 = 1.7 + 0.72 * 2.6
    assert advantages([1.0, 2.0], [2.0, 3.0], [0.0, 0.0], 4.0) == pytest.approx([1.7 + 0.72 * 2.6, 2.6])


def test_advantage_stops_at_episode_end() -> None:
    # The first step ends its episode: neither the next value nor the next advantage reaches back over the end.
    assert advantages([1.0, 2.0], [2.0, 3.0], [1.0, 0.0], 4.0) == pytest.approx([1.0 - 2.0, 2.6])
    assert advantages([1.0, 2.0], [2.0, 3.0], [0.0, 1.0], 4.0) == pytest.approx([1.7 + 0.72 * -1.0, -1.0])


def test_advantage_limits_of_lambda() -> None:
    reward, value = torch.rand(2, 6, 3), torch.rand(2, 6, 3)
    done, last, discount = torch.zeros(2, 6, 3), torch.rand(2, 3), torch.tensor([0.9, 0.99])
    one_step = generalised_advantage(reward, value, done, last, discount, torch.zeros(2))
    following = torch.cat((value[:, 1:], last[:, None]), dim=1)
    torch.testing.assert_close(one_step, reward + discount[:, None, None] * following - value)
    monte_carlo = generalised_advantage(reward, value, done, last, discount, torch.ones(2))
    target = last
    for t in reversed(range(6)):
        target = reward[:, t] + discount[:, None] * target
        torch.testing.assert_close(monte_carlo[:, t], target - value[:, t])


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
            "sign": sign,
            "last": last.double(),
            "match": torch.where((action == 1) == (sign > 0), 1.0, -1.0).double(),
        }[self.reward]
        after = torch.stack((sign, time + (1 if self.terminates else 0)), dim=-1)
        return after, reward, last & self.terminates


def probe_task(probe: Probe, limit: int = 100) -> Task:
    return Task("probe/probe", 2, True, 2, limit, Anchors(0.0, 1.0, "exact"), None, {}, probe, COMMON_PHYSICS)


def trained(probe: Probe, limit: int = 100, rollouts: int = 30, **values: float) -> PPO:
    settings = {
        "learning_rate": 1e-2,
        "entropy_coefficient": 1e-5,
        "discount": DISCOUNT,
        "update_epochs": 5,
        "minibatches": 4,
    } | values
    population = PPO(probe_task(probe, limit), [0, 1], PPOConfig(32, 8), values=settings, engine="torch")
    population.train(rollouts)
    return population


def value_of(population: PPO, observation: tuple[float, float]) -> list[float]:
    from hpbench.learners.networks import forward

    _, critic, _ = population.networks.unpack(population.state["parameters"])
    return forward(critic, torch.tensor([[observation]]).expand(2, 1, 2)).flatten().tolist()


def test_value_of_a_constant_reward_is_one() -> None:
    population = trained(Probe())
    assert value_of(population, (1.0, 0.0)) == pytest.approx([1.0, 1.0], abs=0.05)


def test_value_depends_on_the_observation() -> None:
    population = trained(Probe(reward="sign"))
    assert value_of(population, (1.0, 0.0)) == pytest.approx([1.0, 1.0], abs=0.1)
    assert value_of(population, (-1.0, 0.0)) == pytest.approx([-1.0, -1.0], abs=0.1)


def test_value_is_discounted() -> None:
    population = trained(Probe(length=2, reward="last"))
    assert value_of(population, (1.0, 0.0)) == pytest.approx([DISCOUNT] * 2, abs=0.06)
    assert value_of(population, (1.0, 1.0)) == pytest.approx([1.0] * 2, abs=0.06)


def test_policy_learns_which_action_pays() -> None:
    population = trained(Probe(reward="match"))
    assert population.evaluate(50).returns.mean(axis=1) == pytest.approx([1.0, 1.0], abs=0.1)


def test_time_limit_is_bootstrapped_but_termination_is_not() -> None:
    """One reward per step, three steps: cut by the limit it is worth 1 / (1 - discount), terminated a finite sum."""
    discount = 0.8
    endless = trained(Probe(terminates=False), limit=3, rollouts=60, discount=discount)
    assert value_of(endless, (1.0, 0.0)) == pytest.approx([1.0 / (1.0 - discount)] * 2, rel=0.1)
    ended = trained(Probe(length=3), discount=discount)
    assert value_of(ended, (1.0, 0.0)) == pytest.approx([1.0 + discount + discount**2] * 2, rel=0.1)


def batch(population: PPO, log_prob_shift: float, advantage: list[float]) -> dict[str, Tensor]:
    """A minibatch of two samples whose old log-probability differs from the present one by ``-log_prob_shift``."""
    from hpbench.learners.networks import forward

    observation = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    action = torch.tensor([[[0.0], [1.0]]])
    actor, _, log_std = population.networks.unpack(population.state["parameters"])
    now, _ = population.networks.distribution(forward(actor, observation), log_std, action)
    returns = torch.zeros(1, 2)
    return {
        "observation": observation,
        "action": action,
        "log_prob": now - log_prob_shift,
        "advantage": torch.tensor([advantage]),
        "return": returns,
    }


def policy_gradient(shift: float, advantage: list[float]) -> tuple[float, float]:
    population = PPO(probe_task(Probe()), [3], PPOConfig(1, 8), values={"value_coefficient": 0.05}, engine="torch")
    parameters = population.state["parameters"].requires_grad_()
    loss, (policy_loss, _, _, _, clip_fraction) = population._loss(
        parameters, batch(population, shift, advantage), population.state["hyperparameters"]
    )
    (gradient,) = torch.autograd.grad(loss.sum(), parameters)
    actor = sum(population.networks.actor.parts)
    assert math.isfinite(policy_loss.item())
    return gradient[0, :actor].norm().item(), clip_fraction.item()


def test_clipping_stops_the_gradient_only_on_the_profitable_side() -> None:
    """Advantages are normalised to +-0.707; the first sample is good, the second bad. Ratio 1.5, clip range 0.2."""
    free, share = policy_gradient(0.0, [1.0, -1.0])
    assert share == 0.0
    assert free > 0.0
    up, share = policy_gradient(math.log(1.5), [1.0, -1.0])
    assert share == 1.0
    # Of the two, only the bad one, made 1.5 times likelier, is still pushed; with equal advantages none would differ.
    down, _ = policy_gradient(-math.log(1.5), [1.0, -1.0])
    assert 0.0 < up < 1.5 * free
    assert 0.0 < down < free


def test_entropy_of_known_policies() -> None:
    population = PPO(probe_task(Probe()), [3], PPOConfig(1, 8), engine="torch")
    output, log_std = torch.zeros(1, 4, 2), torch.zeros(1, 1, 0)
    _, entropy = population.networks.distribution(output, log_std, torch.zeros(1, 4, 1))
    assert entropy.mean().item() == pytest.approx(math.log(2.0))
    skewed = torch.log(torch.tensor([0.9, 0.1])).expand(1, 4, 2)
    log_prob, entropy = population.networks.distribution(skewed, log_std, torch.ones(1, 4, 1))
    assert entropy.mean().item() == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    assert log_prob.flatten().tolist() == pytest.approx([math.log(0.1)] * 4)


def test_relative_entropy_starts_near_one() -> None:
    metrics = PPO(probe_task(Probe()), [0], PPOConfig(8, 16), engine="torch").train(1)
    assert metrics["entropy"][0] == pytest.approx(1.0, abs=0.01)


def test_entropy_bonus_keeps_the_policy_random() -> None:
    greedy = trained(Probe(reward="match"), rollouts=20).train(1)["entropy"]
    random = trained(Probe(reward="match"), rollouts=20, entropy_coefficient=0.2).train(1)["entropy"]
    assert (random > greedy).all()
