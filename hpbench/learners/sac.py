"""Soft actor-critic for a population (Haarnoja et al. 2018, "Soft actor-critic algorithms and applications").

The second version of the paper: twin critics without a value network, target critics that follow by Polyak averaging, a
temperature that is learned so that the policy keeps a target entropy. Tasks with discrete actions get the variant of
Christodoulou 2019, whose expectations over actions are exact. Order of the updates, Adam (epsilon 1e-8), loss of the
logarithm of the temperature, initialisation and warm-up with uniformly random actions are those of Stable-Baselines3.

This file is the reference. The native engine does the same on the same state, one member after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.averages import average, percentile_95, shares
from hpbench.learners.native import Binding
from hpbench.learners.off_policy import OffPolicy
from hpbench.learners.optimiser import adam
from hpbench.learners.relu import forward, relu_layers
from hpbench.learners.replay import MEMORY, Batch, n_step, uniform_index
from hpbench.learners.representation import SAMPLE
from hpbench.learners.sac_networks import SoftActorCritic
from hpbench.learners.snapshot import State
from hpbench.learners.totals import Totals
from hpbench.seeding import Stream, normal_from_uniform
from hpbench.tasks.base import Task

HYPERPARAMETERS = HyperparameterSpace(
    Hyperparameter("actor_learning_rate", 1e-5, 1e-1, 3e-4, "log", meaning="step size of Adam for the policy"),
    Hyperparameter("critic_learning_rate", 1e-5, 1e-1, 3e-4, "log", meaning="step size of Adam for both critics"),
    Hyperparameter("temperature_learning_rate", 1e-5, 1e-1, 3e-4, "log", meaning="step size of Adam for temperature"),
    Hyperparameter("tau", 1e-4, 1.0, 5e-3, "log", meaning="how fast target critics follow: share per gradient step"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m", meaning="how much later rewards count"),
    Hyperparameter("target_entropy", 0.02, 0.98, 0.5, meaning="randomness to keep: 1 would be uniform, 0 almost none"),
    Hyperparameter("batch_size", 8, 1024, 256, "log", integer=True, meaning="transitions per gradient step"),
    Hyperparameter("updates_per_step", 0.01, 8.0, 1.0, "log", meaning="gradient steps per environment step"),
)
"""Defaults are those of Stable-Baselines3 2.x.

``target_entropy`` is a place between little and the most randomness that a policy can have, so that it means the same
on every task. Discrete actions: the share ``x`` of the largest entropy, ``x log(actions)``. Continuous actions: per
dimension of ``[-1, 1]``, ``(2 x - 1) (1 + log 2) - 1`` nats; so 1 is the uniform distribution (log 2), and the default
of 0.5 is the usual choice, minus the number of dimensions (Haarnoja et al. 2018). Christodoulou's choice is 0.98.
"""

CREDIT = 1_000_000
"""Parts of a gradient step that credit is counted in: ``updates_per_step`` has no finer digits."""

TOTALS = Totals(
    metrics=(
        "episodes", "return_mean", "return_sem", "episode_length", "success_rate",
        "critic_loss", "actor_loss", "entropy", "temperature", "td_error_mean", "td_error_p95", "q_mean", "q_bias",
        "buffer_fill", "gradient_norm", "update_ratio", "dormant_share", "feature_rank",
    ),
    per_episode=("q_bias",),
    per_optimiser_step=(
        "critic_loss", "actor_loss", "entropy", "temperature", "td_error_mean", "td_error_p95", "q_mean",
        "gradient_norm",
    ),
    per_rollout=("update_ratio",),
    at_the_end=("dormant_share", "feature_rank", "buffer_fill"),
)  # fmt: skip

BINDING = Binding(
    "sac",
    sizes=("buffer_size", "learning_starts", "fixed_temperature"),
    state=(
        "parameters", "targets", "adam_mean", "adam_square", "adam_steps", "update_credit", "steps",
        "episode_value", "episode_discounted", "episode_weight",
        "replay_observation", "replay_action", "replay_reward", "replay_next_observation",
        "replay_terminated", "replay_truncated", "replay_position", "replay_size",
    ),
    measures=False,
)  # fmt: skip

ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class SACConfig:
    """Frozen options.

    Args:
        num_envs: environments per member.
        num_steps: steps of each environment per rollout, the unit of segments. Learning happens at every step.
        hidden: widths of the relu layers of actor and critics.
        buffer_size: transitions that the replay memory holds; a multiple of ``num_envs``.
        learning_starts: environment steps with uniformly random actions before the first gradient step.
        temperature: the entropy's weight where it is to stay fixed; None: it is learned, from 1.
    """

    num_envs: int = 1
    num_steps: int = 512
    hidden: tuple[int, ...] = (64, 64)
    buffer_size: int = 50_000
    learning_starts: int = 100
    temperature: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.num_envs, self.num_steps, *self.hidden) < 1 or not self.hidden:
            raise InvalidConfiguration(f"sizes must be at least 1: {self}")
        if self.learning_starts < 0:
            raise InvalidConfiguration(f"learning_starts must be 0 or more: {self}")
        if self.temperature is not None and not 0.0 < self.temperature < math.inf:
            raise InvalidConfiguration(f"a fixed temperature must be positive: {self}")


class SAC(OffPolicy):
    """A population of SAC learners. See :class:`~hpbench.learners.tensor.TensorPopulation`.

    :meth:`evaluate` plays the most likely actions, as the paper and Stable-Baselines3 do; training samples. Actions are
    remembered in the policy's unit.
    """

    name = "sac"
    hyperparameters = HYPERPARAMETERS
    totals = TOTALS
    binding = BINDING
    config_type = SACConfig
    config: SACConfig
    compiled = (
        "_interact", "_sample", "_target", "_critic_loss", "_actor_loss", "_adam", "_finish", "_words", "_draws",
    )  # fmt: skip
    evaluation_draws = 0

    def _build(self, task: Task) -> None:
        self.networks = SoftActorCritic.build(task, self.config.hidden)
        self.action_draws = self.networks.policy.action_draws

    def _initial(self) -> State:
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        temperature = 1.0 if self.config.temperature is None else self.config.temperature
        parameters = self.networks.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION], temperature)
        return {
            "parameters": parameters,
            "targets": self.networks.split(parameters)[1].clone(),
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(self.members, dtype=torch.int64),
            "update_credit": torch.zeros(self.members, dtype=torch.int64),
            **self._memory(torch.float64),
        }

    def _native_options(self) -> dict[str, int]:
        config = self.config
        return {
            "buffer_size": config.buffer_size,
            "learning_starts": config.learning_starts,
            "fixed_temperature": int(config.temperature is not None),
        }

    # -- acting

    def _act(
        self, parameters: Tensor, table: Tensor, observation: Tensor, warm_up: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        networks, policy = self.networks, self.networks.policy
        output = forward(networks.actor.unpack(networks.split(parameters)[0]), observation)
        action = torch.where(warm_up[..., None], policy.explore(draws), policy.sample(output, draws))
        return action, self._value(parameters, observation, action)

    def _value(self, parameters: Tensor, observation: Tensor, action: Tensor) -> Tensor:
        """Smaller value of the two critics, float64 ``[members, batch]``. It includes the entropy to come, weighted
        with the temperature."""
        values = self.networks.values(self.networks.split(parameters)[1], observation, action)
        return self.networks.policy.taken(values, action).amin(dim=1).double()

    def _likely(self, parameters: Tensor, observation: Tensor) -> Tensor:
        """The most likely actions, in the policy's unit."""
        actor = self.networks.actor.unpack(self.networks.split(parameters)[0])
        return self.networks.policy.mode(forward(actor, observation))

    def _worth(self, parameters: Tensor, observation: Tensor) -> Tensor:
        return self._value(parameters, observation, self._likely(parameters, observation))

    def _policy(self) -> Callable[[Tensor, Tensor], Tensor]:
        def act(observation: Tensor, _: Tensor) -> Tensor:
            return self._scaled(self._likely(self.state["parameters"], observation))

        return act

    # -- learning

    def _due(self, steps: int) -> NDArray[np.int64]:
        """How many gradient steps follow each of the next steps of the environments, ``[steps, members]``.

        Every environment step after the warm-up earns ``updates_per_step``, in whole parts of a step. What is left over
        stays in the state, so that the number of gradient steps is exact over any number of segments.
        """
        rate = np.rint(self.values()["updates_per_step"] * CREDIT).astype(np.int64)
        credit, taken, envs = self.array("update_credit").copy(), self.steps, self.config.num_envs
        due = np.zeros((steps, self.members), dtype=np.int64)
        for t in range(steps):
            started = taken + envs * (t + 1) > self.config.learning_starts
            credit += np.where(started, rate * envs, 0)
            due[t], credit = credit // CREDIT, credit % CREDIT
        self.state["update_credit"].copy_(torch.from_numpy(credit))
        return due

    def _learn(self, rows: Tensor, size: int, totals: Tensor, active: Tensor | None = None) -> None:
        counts = None if active is None else self._sizes()
        table, learned = self._part("hyperparameters", rows), {name: self._part(name, rows) for name in self.LEARNED}
        keys, calls = (self._part(name, rows)[:, Stream.MINIBATCH] for name in ("rng_keys", "rng_calls"))
        words, noises = self._words(keys, calls, size), self.networks.policy.noises
        draws = self._draws(keys, calls + 1, size * 4 * noises).view(len(rows), size, 2, noises, 2)
        self.state["rng_calls"][rows, Stream.MINIBATCH] += 2 if active is None else 2 * active.long()
        batch, noise = self._sample({name: self.state[name] for name in MEMORY}, rows, table, words, draws)
        share = None if counts is None else shares(counts, size)
        new, statistics = self._improve(learned, table, batch, noise[:, :, 0], noise[:, :, 1], share, counts)
        self._keep(rows, new, active)
        self._add_statistics(rows, statistics, totals, active)

    def _sample(self, memory: State, rows: Tensor, table: Tensor, words: Tensor, draws: Tensor) -> tuple[Batch, Tensor]:
        """The transitions that ``words`` choose, and normal numbers out of ``draws``."""
        index, one = uniform_index(memory, rows, words), torch.ones_like(rows)
        batch = n_step(memory, rows, index, one, 1, self._column(table, "discount"), self.config.num_envs)
        return batch, normal_from_uniform(draws[..., 0], draws[..., 1])

    def _improve(
        self,
        learned: State,
        table: Tensor,
        batch: Batch,
        next_noise: Tensor,
        noise: Tensor,
        share: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> tuple[State, tuple[Tensor, ...]]:
        """Critics, actor, temperature and targets after a step, and the totals per optimiser step.

        All of them see the temperature from before the step, the actor sees the critics from after it.
        """
        steps = learned["adam_steps"] + 1
        parts = [self.networks.split(learned[name]) for name in ("parameters", "adam_mean", "adam_square")]
        (actor, critics, log_temperature), *moments = parts
        temperature = log_temperature.exp()

        def step(part: int, parameters: Tensor, gradient: Tensor, name: str) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            rate = table[:, self.hyperparameters.index(f"{name}_learning_rate")]
            return self._adam(parameters, (moments[0][part], moments[1][part]), steps, gradient, rate, ADAM_EPSILON)

        target = self._target(learned["parameters"], learned["targets"], batch, next_noise)
        critics = critics.detach().requires_grad_()
        critic_loss, values = self._critic_loss(critics, batch, target, share, counts)
        (critic_gradient,) = torch.autograd.grad(critic_loss.sum(), critics)
        new_critics, critic_moments = step(1, critics.detach(), critic_gradient, "critic")

        actor = actor.detach().requires_grad_()
        actor_loss, entropy = self._actor_loss(actor, new_critics, temperature, batch, noise, share)
        (actor_gradient,) = torch.autograd.grad(actor_loss.sum(), actor)
        new_actor, actor_moments = step(0, actor.detach(), actor_gradient, "actor")

        new_temperature, temperature_moments = log_temperature, (moments[0][2], moments[1][2])
        if self.config.temperature is None:
            # The loss is log(temperature) * (entropy - target).
            surplus = entropy - self.networks.policy.target_entropy(self._column(table, "target_entropy"))
            new_temperature, temperature_moments = step(2, log_temperature, surplus[:, None], "temperature")
        changed = zip(
            (new_actor, *actor_moments), (new_critics, *critic_moments), (new_temperature, *temperature_moments),
            strict=True,
        )  # fmt: skip
        parameters, mean, square = (torch.cat(pieces, dim=1) for pieces in changed)
        targets, norm = self._finish(learned["targets"], new_critics, table, actor_gradient, critic_gradient)
        losses = (critic_loss.detach(), actor_loss.detach(), entropy / self._entropy_unit, temperature[:, 0])
        new = dict(zip(self.LEARNED, (parameters, targets, mean, square, steps), strict=True))
        return new, (*losses, *values, norm)

    @torch.no_grad()
    def _target(self, parameters: Tensor, targets: Tensor, batch: Batch, noise: Tensor) -> Tensor:
        """What the critics are drawn to, ``[rows, batch]``."""
        networks = self.networks
        actor, _, log_temperature = networks.split(parameters)
        value, entropy = networks.policy.expected(
            lambda action: networks.values(targets, batch.next_observation, action),
            forward(networks.actor.unpack(actor), batch.next_observation),
            noise,
        )
        return batch.reward + batch.bootstrap * (value + log_temperature.exp() * entropy)

    def _critic_loss(
        self, critics: Tensor, batch: Batch, target: Tensor, share: Tensor | None, counts: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss of both critics, and mean and 95th percentile of the size of their errors and mean of their values, each
        ``[rows]``."""
        networks = self.networks
        q = networks.policy.taken(networks.values(critics, batch.observation, batch.action), batch.action)
        error = q - target[:, None]
        loss = 0.5 * average(error.square(), share).sum(dim=1)
        size = error.abs().detach().mean(dim=1)
        return loss, (average(size, share), percentile_95(size, counts), average(q.detach().mean(dim=1), share))

    def _actor_loss(
        self,
        actor: Tensor,
        critics: Tensor,
        temperature: Tensor,
        batch: Batch,
        noise: Tensor,
        share: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Loss of the actor, and the policy's entropy in nats, each ``[rows]``."""
        networks = self.networks
        value, entropy = networks.policy.expected(
            lambda action: networks.values(critics, batch.observation, action),
            forward(networks.actor.unpack(actor), batch.observation),
            noise,
        )
        return -average(value + temperature * entropy, share), average(entropy.detach(), share)

    def _finish(self, targets: Tensor, critics: Tensor, table: Tensor, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Target critics after the step, and the norm of all gradients together."""
        norm = torch.linalg.vector_norm(torch.cat(gradients, dim=1), dim=1)
        return targets + self._column(table, "tau")[:, None] * (critics - targets), norm

    # What the graph engine replaces by a compiled version.
    _adam = staticmethod(adam)

    # -- at the end of a segment

    @property
    def _entropy_unit(self) -> float:
        """Discrete: the largest possible entropy. Continuous: the number of dimensions."""
        task = self.tasks[0]
        return math.log(task.action_count) if task.discrete else float(task.action_count)

    def _hidden(self, observation: Tensor) -> list[Tensor]:
        actor = self.networks.actor.unpack(self.networks.split(self.state["parameters"])[0])
        return relu_layers(actor[:-1], observation)

    def _measured(self, recent: int) -> range:
        return range(min(SAMPLE, recent) - 1, -1, -1)
