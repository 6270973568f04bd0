"""Tiny tasks and hand-made numbers with known answers: a wrong target, temperature, density or average fails here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench import tasks
from hpbench.learners.replay import Batch
from hpbench.learners.sac import CREDIT, SAC, SACConfig, percentile_95
from hpbench.learners.sac_networks import Categorical, SquashedGaussian
from hpbench.learners.snapshot import State
from hpbench.tasks.base import COMMON_PHYSICS, Anchors, Task

DISCOUNT = 0.8


@dataclass(frozen=True)
class Probe:
    """An episode of ``length`` steps; the observation says how far it has got, where it terminates."""

    length: int = 1
    reward: str = "one"
    terminates: bool = True
    native: ClassVar[str] = ""
    physics: ClassVar[dict[str, float]] = dict(COMMON_PHYSICS)
    variation: ClassVar[dict[str, tuple[float, float]]] = {}
    state_size: ClassVar[int] = 1
    reset_draws: ClassVar[int] = 1

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        return torch.zeros_like(uniforms).double()

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        return state.float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = state[..., 0]
        choice = action.double() if action.ndim == 2 else action[..., 0].double()
        last = time + 1 >= self.length
        reward = {
            "one": torch.ones_like(time),
            "zero": torch.zeros_like(time),
            "last": last.double(),
            "near": -(choice - 0.5).square(),
            "second": (choice == 1).double(),
        }[self.reward]
        return (time + (1 if self.terminates else 0))[..., None], reward, last & self.terminates


def probe_task(probe: Probe, limit: int = 100, discrete: bool = False) -> Task:
    count, anchors = (3, Anchors(0.0, 1.0, "exact")) if discrete else (1, Anchors(0.0, 1.0, "exact"))
    return Task("probe/probe", 1, discrete, count, limit, anchors, None, {}, probe, COMMON_PHYSICS)


def trained(
    probe: Probe,
    limit: int = 100,
    updates: int = 200,
    discrete: bool = False,
    temperature: float | None = 1e-6,
    **values: float,
) -> SAC:
    """Two members; the temperature is fixed next to 0 unless said otherwise, so that values are those of rewards."""
    settings = {
        "actor_learning_rate": 1e-2,
        "critic_learning_rate": 1e-2,
        "tau": 0.2,
        "discount": DISCOUNT,
        "batch_size": 64,
        "updates_per_step": 0.0625,
    }
    config = SACConfig(num_envs=16, num_steps=updates, hidden=(16, 16), learning_starts=64, temperature=temperature)
    task = probe_task(probe, limit, discrete)
    population = SAC(task, [0, 1], config, values={**settings, **values}, engine="torch")
    population.train(1)
    return population


def values_at(population: SAC, observation: float) -> list[float]:
    """Both critics of both members at an observation, for the action in the middle (discrete: the first)."""
    critics = population.networks.split(population.state["parameters"])[1]
    with torch.no_grad():
        values = population.networks.values(critics, torch.full((2, 1, 1), observation), torch.zeros(2, 1, 1))
    return values[..., 0].flatten().tolist()


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [False, True])
def test_value_of_a_constant_reward_is_one(discrete: bool) -> None:
    assert values_at(trained(Probe(), discrete=discrete), 0.0) == pytest.approx([1.0] * 4, abs=0.05)


@pytest.mark.parametrize("discrete", [False, True])
def test_value_is_discounted(discrete: bool) -> None:
    population = trained(Probe(length=2, reward="last"), updates=300, discrete=discrete)
    assert values_at(population, 1.0) == pytest.approx([1.0] * 4, abs=0.06)
    assert values_at(population, 0.0) == pytest.approx([DISCOUNT] * 4, abs=0.06)


def test_time_limit_is_bootstrapped_but_termination_is_not() -> None:
    """One reward per step, three steps: cut by the limit it is worth 1 / (1 - discount), terminated a finite sum."""
    endless = trained(Probe(terminates=False), limit=3, updates=300)
    assert values_at(endless, 0.0) == pytest.approx([1.0 / (1.0 - DISCOUNT)] * 4, rel=0.05)
    ended = trained(Probe(length=3))
    assert values_at(ended, 0.0) == pytest.approx([1.0 + DISCOUNT + DISCOUNT**2] * 4, rel=0.05)


def test_bias_of_the_critics_vanishes_where_they_are_right() -> None:
    population = trained(Probe(length=3))
    population.config = replace(population.config, num_steps=20)
    assert population.train(1)["q_bias"] == pytest.approx([0.0, 0.0], abs=0.1)


def test_value_counts_the_entropy_to_come() -> None:
    """Two steps without any reward: the first is worth the temperature times the entropy of the second."""
    population = trained(Probe(length=2, reward="zero"), discrete=True, temperature=1.0)
    # With nothing to win the best policy is uniform over the three choices.
    assert values_at(population, 0.0) == pytest.approx([DISCOUNT * math.log(3.0)] * 4, abs=0.05)
    assert values_at(population, 1.0) == pytest.approx([0.0] * 4, abs=0.05)


# -- policy and temperature --------------------------------------------------------------------------------------------


def test_policy_learns_which_action_pays() -> None:
    near = trained(Probe(reward="near"), updates=300, temperature=0.05)
    assert near.evaluate(2).returns.mean(axis=1) == pytest.approx([0.0, 0.0], abs=0.03)
    second = trained(Probe(reward="second"), discrete=True)
    assert second.evaluate(2).returns.tolist() == [[1.0, 1.0]] * 2


def test_actor_minimises_what_it_is_given() -> None:
    """With the critics held still, a one-step policy becomes softmax of values over temperature (its known optimum)."""
    population = trained(Probe(reward="second"), discrete=True, temperature=0.5)
    actor = population.networks.actor.unpack(population.networks.split(population.state["parameters"])[0])
    from hpbench.learners.relu import forward

    with torch.no_grad():
        found = torch.softmax(forward(actor, torch.zeros(2, 1, 1)), dim=-1)[:, 0]
    best = torch.softmax(torch.tensor([0.0, 1.0, 0.0]) / 0.5, dim=0)
    torch.testing.assert_close(found, best.expand(2, 3), atol=0.03, rtol=0.0)


@pytest.mark.parametrize(("share", "discrete"), [(0.5, False), (0.8, False), (0.5, True), (0.9, True)])
def test_temperature_drives_the_entropy_to_its_target(share: float, discrete: bool) -> None:
    population = trained(
        Probe(reward="second" if discrete else "near"),
        updates=300,
        discrete=discrete,
        temperature=None,
        temperature_learning_rate=3e-2,
        target_entropy=share,
    )
    population.config = replace(population.config, num_steps=50)
    entropy = population.train(1)["entropy"]
    expected = share if discrete else (2.0 * share - 1.0) * (1.0 + math.log(2.0)) - 1.0
    assert entropy == pytest.approx([expected] * 2, abs=0.12)


def test_target_entropy_scale() -> None:
    """1 is the uniform distribution, 0.5 on continuous actions the usual minus one per dimension."""
    shares = torch.tensor([0.5, 1.0])
    assert SquashedGaussian(3).target_entropy(shares).tolist() == pytest.approx([-3.0, 3.0 * math.log(2.0)])
    assert Categorical(4).target_entropy(shares).tolist() == pytest.approx([math.log(2.0), math.log(4.0)])


def test_warm_up_is_uniform_and_does_not_learn() -> None:
    config = SACConfig(num_envs=16, num_steps=128, hidden=(16, 16), learning_starts=2048)
    for discrete in (False, True):
        population = SAC(probe_task(Probe(), discrete=discrete), [0], config, engine="torch")
        before = population.state["parameters"].clone()
        population.train(1)
        assert torch.equal(population.state["parameters"], before)
        taken = population.state["replay_action"][0, :2048, 0].numpy()
        cells = np.bincount((taken if discrete else np.floor((taken + 1.0) * 1.5)).astype(int), minlength=3)
        assert len(cells) == 3
        assert cells / 2048 == pytest.approx([1 / 3] * 3, abs=0.04)


# -- the squashed Gaussian ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5)])
def test_density_integrates_to_one(mean: float, log_std: float) -> None:
    """Summed over the actions that evenly spaced Gaussian arguments lead to: density times change of the action."""
    noise = torch.linspace(-8.0, 8.0, 200_001, dtype=torch.float64)[:, None]
    output = torch.tensor([mean, log_std], dtype=torch.float64).expand(len(noise), 2)
    action, log_prob = SquashedGaussian(1).act(output, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


def test_density_far_out_stays_finite() -> None:
    """Where tanh rounds to 1 in float32, the density is still known."""
    action, log_prob = SquashedGaussian(1).act(torch.tensor([[30.0, 0.0]]), torch.zeros(1, 1))
    assert action.item() == 1.0
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2.0 * math.pi) - 2.0 * (math.log(2.0) - 30.0), rel=1e-6)


def test_actions_reach_the_bounds_of_the_task() -> None:
    population = SAC(tasks.make("classic/pendulum"), [0], SACConfig(), engine="torch")
    assert population._scaled(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-2.0, 0.0, 2.0]


# -- one gradient step by hand -----------------------------------------------------------------------------------------


def one_step(**values: float) -> tuple[SAC, State, State]:
    """A member before and after a step on two transitions, the second of which terminated."""
    population = SAC(tasks.make("classic/pendulum"), [3], SACConfig(hidden=(8, 8)), values=values, engine="torch")
    part = {name: tensor.clone() for name, tensor in population.state.items()}
    before = {name: tensor.clone() for name, tensor in part.items()}
    batch = Batch(
        torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]]]),
        torch.tensor([[[0.3], [-0.7]]]),
        torch.tensor([[1.0, -2.0]]),
        torch.tensor([[[0.9, 0.1, 0.4], [0.1, 0.9, -0.4]]]),
        torch.tensor([[DISCOUNT, 0.0]]),
    )
    learned = {name: part[name] for name in population.LEARNED}
    new, _ = population._improve(learned, part["hyperparameters"], batch, torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))
    part |= new
    return population, before, part


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_target_critics_follow_by_tau(tau: float) -> None:
    population, before, after = one_step(tau=tau)
    critics = population.networks.split(after["parameters"])[1]
    torch.testing.assert_close(after["targets"], (1.0 - tau) * before["targets"] + tau * critics)
    assert not torch.equal(critics, before["targets"])


def test_first_steps_are_the_learning_rates() -> None:
    """Adam's first step is its learning rate, whatever the gradient: so each part moves by its own."""
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-4, "temperature_learning_rate": 1e-2}
    population, before, after = one_step(**rates)
    moved = population.networks.split((after["parameters"] - before["parameters"]).abs())
    for part, rate in zip(moved, rates.values(), strict=True):
        assert part.amax().item() == pytest.approx(rate, rel=0.01)


def test_gradient_steps_are_counted_exactly() -> None:
    """A third of a step per environment step, over segments of different rates: what is left over is kept."""
    config = SACConfig(num_envs=2, num_steps=5, hidden=(8, 8), learning_starts=7)
    population = SAC(
        tasks.make("classic/pendulum"),
        [0, 1],
        config,
        values={"updates_per_step": [0.33333, 1.5], "batch_size": 8},  # type: ignore[dict-item]
        engine="torch",
    )
    population.train(2)
    # Steps 8, 10, ..., 20 count: 7 times 2 of them.
    earned = 14 * np.array([333_330, 1_500_000])
    assert population.state["adam_steps"].tolist() == (earned // CREDIT).tolist() == [4, 21]
    assert population.state["update_credit"].tolist() == (earned % CREDIT).tolist()
    population.set_values("updates_per_step", [0.5, 0.01])
    population.train(1)
    earned = earned + 10 * np.array([500_000, 10_000])
    assert population.state["adam_steps"].tolist() == (earned // CREDIT).tolist()


def test_percentile_is_the_smallest_value_that_95_percent_do_not_exceed() -> None:
    values = torch.arange(1.0, 101.0)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    assert percentile_95(values[None]).item() == 95.0
    assert percentile_95(values[None] * 0 + 3.0).item() == 3.0
    assert percentile_95(torch.tensor([[2.0]])).item() == 2.0
