"""Deep Q-networks for a population (Mnih et al. 2015), with double Q-learning (van Hasselt et al. 2016) and n-step
targets, and optionally dueling networks (Wang et al. 2016) and prioritised replay (Schaul et al. 2016).

Huber loss, Adam (epsilon 1e-8), gradients clipped by their global norm, time limits bootstrapped, uniformly random
actions until learning starts, PyTorch's initialisation: the choices of Stable-Baselines3. The target network follows by
Polyak averaging, once per gradient step (Lillicrap et al. 2016); ``tau`` 1 copies it.

This file is the reference. The native engine does the same on the same state, one member after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.averages import average, percentile_95, shares
from hpbench.learners.native import Binding
from hpbench.learners.off_policy import OffPolicy
from hpbench.learners.optimiser import adam, clip
from hpbench.learners.q_network import QNetwork
from hpbench.learners.replay import (
    MEMORY,
    PRIORITIES,
    Batch,
    n_step,
    prioritized_index,
    uniform_index,
    update_priorities,
)
from hpbench.learners.representation import SAMPLE
from hpbench.learners.snapshot import State
from hpbench.learners.totals import Totals
from hpbench.seeding import Stream, random_words_at
from hpbench.tasks.base import Task

HYPERPARAMETERS = HyperparameterSpace(
    Hyperparameter("learning_rate", 1e-5, 1e-1, 1e-4, "log", meaning="step size of Adam"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m", meaning="how much later rewards count"),
    Hyperparameter("epsilon", 1e-3, 1.0, 0.05, "log", meaning="share of random actions: exploration"),
    Hyperparameter("tau", 1e-4, 1.0, 5e-3, "log", meaning="how fast the target network follows: share per update"),
    Hyperparameter("batch_size", 8, 512, 32, "log", integer=True, meaning="transitions per gradient step"),
    Hyperparameter("train_frequency", 1, 64, 4, "log", integer=True, meaning="environment steps per gradient step"),
    Hyperparameter("n_step", 1, 16, 1, "log", integer=True, meaning="rewards summed before the target bootstraps"),
    Hyperparameter("max_gradient_norm", 0.05, 100.0, 10.0, "log", meaning="longer gradients are scaled down"),
)
"""Defaults are those of Stable-Baselines3 2.x, but for the target network: it is copied every 10,000 steps there, which
suits millions of steps; here it follows by 0.005 per gradient step, as in SAC. ``epsilon`` is the final one there; its
decay from 1 is for agents to find."""

TOTALS = Totals(
    metrics=(
        "episodes", "return_mean", "return_sem", "episode_length", "success_rate",
        "td_loss", "td_error_mean", "td_error_p95", "q_mean", "q_bias", "buffer_fill",
        "gradient_norm", "gradient_clipped", "update_ratio", "dormant_share", "feature_rank",
    ),
    per_episode=("q_bias",),
    per_optimiser_step=("td_loss", "td_error_mean", "td_error_p95", "q_mean", "gradient_norm", "gradient_clipped"),
    per_rollout=("update_ratio",),
    at_the_end=("dormant_share", "feature_rank", "buffer_fill"),
)  # fmt: skip

BINDING = Binding(
    "dqn",
    sizes=("capacity", "learning_starts", "double_q"),
    state=(
        "steps", "parameters", "targets", "adam_mean", "adam_square", "adam_steps", "train_credit",
        "episode_value", "episode_discounted", "episode_weight",
        "replay_observation", "replay_action", "replay_reward", "replay_next_observation",
        "replay_terminated", "replay_truncated", "replay_position", "replay_size",
    ),
)  # fmt: skip

ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class DQNConfig:
    """Frozen options.

    Args:
        num_envs: environments per member.
        num_steps: steps of each environment per rollout, the unit of segments. Learning goes on at every step.
        hidden: widths of the relu layers.
        buffer_size: transitions that the replay memory holds; a multiple of ``num_envs``.
        learning_starts: environment steps with uniformly random actions before the first gradient step.
        double: the online network chooses the action that the target network values (van Hasselt et al. 2016).
        dueling: separate streams for value and advantages (Wang et al. 2016).
        prioritized: draw transitions in proportion to their TD error (Schaul et al. 2016).
        priority_exponent: 0 draws uniformly, 1 in full proportion.
        priority_correction: exponent of the importance weights. The paper anneals it to 1; here it stays.
    """

    num_envs: int = 1
    num_steps: int = 512
    hidden: tuple[int, ...] = (64, 64)
    buffer_size: int = 50_000
    learning_starts: int = 1_000
    double: bool = True
    dueling: bool = False
    prioritized: bool = False
    priority_exponent: float = 0.6
    priority_correction: float = 0.4

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.num_envs, self.num_steps, *self.hidden) < 1 or not self.hidden:
            raise InvalidConfiguration(f"sizes must be at least 1: {self}")
        if self.learning_starts < 0:
            raise InvalidConfiguration(f"learning_starts must be 0 or more: {self}")
        if not (0.0 <= self.priority_exponent <= 1.0 and 0.0 <= self.priority_correction <= 1.0):
            raise InvalidConfiguration(f"the exponents of prioritised replay must be in [0, 1]: {self}")


class DQN(OffPolicy):
    """A population of DQN learners. See :class:`~hpbench.learners.tensor.TensorPopulation`.

    :meth:`evaluate` plays the greedy policy, as Stable-Baselines3 does by default: ``epsilon`` explores in training
    only. Dueling networks and prioritised replay are there with the engines ``torch`` and ``graph`` only.

    Raises:
        InvalidConfiguration: for a task with continuous actions, and as in the base class.
    """

    name = "dqn"
    hyperparameters = HYPERPARAMETERS
    totals = TOTALS
    binding = BINDING
    config_type = DQNConfig
    config: DQNConfig
    compiled = ("_interact", "_sample", "_loss", "_descend", "_words_at", "_draws")
    action_draws, evaluation_draws = 2, 0

    @classmethod
    def can_learn(cls, task: Task) -> bool:
        """Whether the task has discrete actions."""
        return task.discrete

    def _build(self, task: Task) -> None:
        if not self.can_learn(task):
            raise InvalidConfiguration(f"dqn needs discrete actions, {task.id} has continuous ones: use ppo or sac")
        self.network = QNetwork(task.observation_size, self.config.hidden, task.action_count, self.config.dueling)

    def _initial(self) -> State:
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        parameters = self.network.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION])
        return {
            "parameters": parameters,
            "targets": parameters.clone(),
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(self.members, dtype=torch.int64),
            "train_credit": torch.zeros(self.members, dtype=torch.int64),
            **self._memory(torch.float32, self.config.prioritized),
        }

    def _native_options(self) -> dict[str, int]:
        config = self.config
        return {
            "capacity": config.buffer_size,
            "learning_starts": config.learning_starts,
            "double_q": int(config.double),
        }

    def _native_obstacle(self) -> str | None:
        for option in ("dueling", "prioritized"):
            if getattr(self.config, option):
                return f"it has no {option}=True"
        return super()._native_obstacle()

    # -- acting

    def _act(
        self, parameters: Tensor, table: Tensor, observation: Tensor, warm_up: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        values, choices = self.network.values(parameters, observation), self.tasks[0].action_count
        explore = warm_up | (draws[..., 0] < self._column(table, "epsilon")[:, None])
        choice = torch.where(explore, (draws[..., 1] * choices).long().clamp(max=choices - 1), values.argmax(dim=-1))
        return choice[..., None].float(), values.gather(-1, choice[..., None])[..., 0]

    def _worth(self, parameters: Tensor, observation: Tensor) -> Tensor:
        return self.network.values(parameters, observation).amax(dim=-1)

    def _policy(self) -> Callable[[Tensor, Tensor], Tensor]:
        def act(observation: Tensor, _: Tensor) -> Tensor:
            return self.network.values(self.state["parameters"], observation).argmax(dim=-1, keepdim=True).float()

        return act

    # -- learning

    def _due(self, steps: int) -> NDArray[np.int64]:
        """How many gradient steps follow each of the next steps of the environments, ``[steps, members]``.

        A gradient step is due whenever ``train_frequency`` environment steps have been made since the last one. They
        count from the first step, but nothing is learned before ``learning_starts``. A frequency that was just raised
        does not ask for more at once than it would have by itself.
        """
        frequency = self.values()["train_frequency"].astype(np.int64)
        envs, taken, credit = self.config.num_envs, self.steps, self.array("train_credit").copy()
        due = np.zeros((steps, self.members), dtype=np.int64)
        for t in range(steps):
            credit += envs
            count = np.minimum(credit // frequency, -(-envs // frequency))
            credit = np.minimum(credit - count * frequency, frequency - 1)
            due[t] = np.where(taken + (t + 1) * envs > self.config.learning_starts, count, 0)
        self.state["train_credit"].copy_(torch.from_numpy(credit))
        return due

    def _begin_rollout(self, due: NDArray[np.int64] | None) -> None:
        if due is None:
            # Graphs serve any number of steps, and draw where they need it.
            self._longest = int(self.hyperparameters["n_step"].high)
            return
        table, index = self.table(), self.hyperparameters.index
        self._longest = int(table[:, index("n_step")].max())
        # One call of the stream chooses all minibatches of a rollout: batch_size words per gradient step.
        count = int((due.sum(axis=0) * table[:, index("batch_size")].astype(np.int64)).max())
        keys, calls = self.state["rng_keys"][:, Stream.MINIBATCH], self.state["rng_calls"][:, Stream.MINIBATCH]
        self.buffer["words"] = self._words(keys, calls, count)
        self.buffer["taken"] = torch.zeros(self.members, dtype=torch.int64, device=self.device)

    def _end_rollout(self) -> None:
        self.state["rng_calls"][:, Stream.MINIBATCH] += 1

    def _learn(self, rows: Tensor, size: int, totals: Tensor, active: Tensor | None = None) -> None:
        state, prioritized = self.state, self.config.prioritized
        counts = None if active is None else self._sizes()
        table, learned = self._part("hyperparameters", rows), {name: self._part(name, rows) for name in self.LEARNED}
        memory = {name: state[name] for name in (*MEMORY, *(PRIORITIES if prioritized else ()))}
        index, weight, batch = self._sample(memory, rows, table, self._minibatch_words(rows, size, counts), counts)
        share = None if counts is None else shares(counts, size)
        parameters = learned["parameters"].detach().requires_grad_()
        loss, error, statistics = self._loss(parameters, learned["targets"], batch, weight, share, counts)
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        new, norms = self._descend(learned, gradient, table)
        self._keep(rows, new, active)
        if prioritized:
            update_priorities(state, rows, index, error, None if active is None else active * self._sizes())
        self._add_statistics(rows, (*statistics, *norms), totals, active)

    def _minibatch_words(self, rows: Tensor, size: int, counts: Tensor | None) -> Tensor:
        """The words that choose a minibatch, ``[rows, size]``: those that the rollout's earlier ones have left."""
        taken, place = self.buffer["taken"], torch.arange(size, device=self.device)
        if counts is None:
            words = self.buffer["words"][rows[:, None], taken[rows, None] * size + place]
            taken[rows] += 1
            return words
        keys, calls = self.state["rng_keys"][:, Stream.MINIBATCH], self.state["rng_calls"][:, Stream.MINIBATCH]
        return self._words_at(keys, calls, (taken * counts)[:, None] + place)

    def _sample(
        self, memory: State, rows: Tensor, table: Tensor, words: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Batch]:
        """The transitions that ``words`` choose: where they are, what they weigh, and what they are."""
        config, weight = self.config, None
        if config.prioritized:
            exponents = config.priority_exponent, config.priority_correction
            index, weight = prioritized_index(memory, rows, words, *exponents, counts)
        else:
            index = uniform_index(memory, rows, words)
        steps, discount = self._column(table, "n_step").long(), self._column(table, "discount")
        return index, weight, n_step(memory, rows, index, steps, self._longest, discount, config.num_envs)

    def _loss(
        self,
        parameters: Tensor,
        targets: Tensor,
        batch: Batch,
        weight: Tensor | None,
        share: Tensor | None,
        counts: Tensor | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Huber loss ``[rows]``, absolute TD errors ``[rows, batch]``, and loss, mean and 95th percentile of the errors
        and mean value of the actions taken, each ``[rows]``."""
        with torch.no_grad():
            following = self.network.values(targets, batch.next_observation)
            chooser = self.network.values(parameters, batch.next_observation) if self.config.double else following
            best = chooser.argmax(dim=-1, keepdim=True)
            target = batch.reward + batch.bootstrap * following.gather(-1, best)[..., 0]
        value = self.network.values(parameters, batch.observation).gather(-1, batch.action.long())[..., 0]
        losses = functional.smooth_l1_loss(value, target, reduction="none")
        loss = average(losses if weight is None else weight * losses, share)
        value, error = value.detach(), (value.detach() - target).abs()
        statistics = (loss.detach(), average(error, share), percentile_95(error, counts), average(value, share))
        return loss, error, statistics

    def _descend(self, learned: State, gradient: Tensor, table: Tensor) -> tuple[State, list[Tensor]]:
        """Adam on clipped gradients, and the target network's step.

        Returns:
            What is learned after it, and per member the norm before clipping and whether it was clipped.
        """
        gradient, *norms = clip(gradient, self._column(table, "max_gradient_norm"))
        steps, rate = learned["adam_steps"] + 1, table[:, self.hyperparameters.index("learning_rate")]
        moments = learned["adam_mean"], learned["adam_square"]
        parameters, (mean, square) = adam(learned["parameters"], moments, steps, gradient, rate, ADAM_EPSILON)
        targets = learned["targets"] + self._column(table, "tau")[:, None] * (parameters - learned["targets"])
        moved = (parameters, targets, mean, square, steps)
        return dict(zip(self.LEARNED, moved, strict=True)), norms

    # What the graph engine replaces by a compiled version.
    _words_at = staticmethod(random_words_at)

    # -- at the end of a segment

    def _hidden(self, observation: Tensor) -> list[Tensor]:
        return self.network.activations(self.state["parameters"], observation)

    def _measured(self, recent: int) -> range:
        return range(0, recent, max(1, recent // SAMPLE))
