"""Deep Q-networks for a population (Mnih et al. 2015), with double Q-learning (van Hasselt et al. 2016) and n-step
targets, and optionally dueling networks (Wang et al. 2016) and prioritised replay (Schaul et al. 2016).

Huber loss, Adam (epsilon 1e-8), gradients clipped by their global norm, time limits bootstrapped, uniformly random
actions until learning starts, PyTorch's initialisation: the choices of Stable-Baselines3. The target network follows by
Polyak averaging, once per gradient step (Lillicrap et al. 2016); ``tau`` 1 copies it.

This file is the reference. The native engine does the same on the same state, one member after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners import native, native_dqn
from hpbench.learners.dqn_metrics import METRICS, PER_OPTIMISER_STEP, TOTALS, summary
from hpbench.learners.play import PLAY_CALLS, play
from hpbench.learners.population import SNIPPET, Evaluation, Floats, Population, State
from hpbench.learners.q_network import QNetwork
from hpbench.learners.replay import append, initial_replay, n_step, prioritized_index, uniform_index, update_priorities
from hpbench.learners.representation import SAMPLE, covariance, dormant_share, feature_rank
from hpbench.learners.rollout import Environments, Transition, physics_of
from hpbench.seeding import Stream, random_words, uniform
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

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
PERCENTILE = 0.95

_LEARNED = ("hyperparameters", "parameters", "targets", "adam_mean", "adam_square", "adam_steps")
"""What a gradient step reads or writes, beside the memory."""


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


class DQN(Population):
    """A population of DQN learners on a tensor task. See :class:`~hpbench.learners.population.Population`.

    :meth:`evaluate` plays the greedy policy, as Stable-Baselines3 does by default: ``epsilon`` explores in training
    only.

    Args:
        engine: ``native`` (C++, CPU), ``torch`` (any device), or ``auto``: native where it is built and can do the
            task. Dueling networks and prioritised replay are there with ``torch`` only.

    Raises:
        InvalidConfiguration: for a task with continuous actions, and as in the base class.
    """

    name = "dqn"
    hyperparameters = HYPERPARAMETERS
    config_type = DQNConfig
    config: DQNConfig

    def __init__(
        self,
        tasks: Task | Sequence[Task],
        seeds: Sequence[int],
        config: DQNConfig | None = None,
        values: Mapping[str, float | ArrayLike] | None = None,
        device: str = "cpu",
        engine: str = "auto",
        threads: int = 1,
    ) -> None:
        super().__init__(tasks, seeds, DQNConfig() if config is None else config, values, device, threads)
        task, envs, members = self.tasks[0], self.config.num_envs, self.members
        if not self.can_learn(task):
            raise InvalidConfiguration(f"dqn needs discrete actions, {task.id} has continuous ones: use ppo or sac")
        self.network = QNetwork(task.observation_size, self.config.hidden, task.action_count, self.config.dueling)
        self.environments = Environments(task, envs)
        self.engine = self._choose(engine)
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        parameters = self.network.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION])
        self.state |= {
            "parameters": parameters,
            "targets": parameters.clone(),
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(members, dtype=torch.int64),
            "train_credit": torch.zeros(members, dtype=torch.int64),
            "episode_value": torch.zeros(members, envs),
            "episode_discounted": torch.zeros(members, envs, dtype=torch.float64),
            "episode_weight": torch.ones(members, envs, dtype=torch.float64),
            **initial_replay(members, self.config.buffer_size, envs, task.observation_size, 1, self.config.prioritized),
            "snippet_observation": torch.zeros(members, SNIPPET, task.observation_size),
            "snippet_action": torch.zeros(members, SNIPPET, 1),
            "snippet_reward": torch.zeros(members, SNIPPET),
        }
        self.state = {name: tensor.to(self.device) for name, tensor in self.state.items()}
        self.state["env_physics"] = physics_of(self.tasks, self.device)
        reset = self._uniform(Stream.ENVIRONMENT, (envs, self.environments.reset_draws))
        noise = self._uniform(Stream.NOISE, (envs, self.environments.noise_draws))
        self.state |= self.environments.start(self.state["env_physics"], reset, noise)

    def _choose(self, engine: str) -> str:
        if engine not in ("auto", "native", "torch"):
            raise UnknownName("engine", engine, ("auto", "native", "torch"))
        if engine == "torch":
            return "torch"
        obstacle = native.obstacle(self.tasks[0], self.config.hidden, self.device)
        for option in ("dueling", "prioritized"):
            if obstacle is None and getattr(self.config, option):
                obstacle = f"it has no {option}=True"
        if engine == "native" and obstacle is not None:
            raise InvalidConfiguration(f"engine='native' cannot be used: {obstacle}. Use engine='auto' or 'torch'.")
        return "native" if obstacle is None else "torch"

    @property
    def steps_per_rollout(self) -> int:
        """Environment steps of one rollout of one member."""
        return self.config.num_envs * self.config.num_steps

    @classmethod
    def can_learn(cls, task: Task) -> bool:
        """Whether the task has discrete actions."""
        return task.discrete

    @classmethod
    def metric_names(cls) -> tuple[str, ...]:
        """Keys of what :meth:`train` returns."""
        return METRICS

    # -- training

    def _train(self, rollouts: int) -> dict[str, Floats]:
        totals = native_dqn.train(self, rollouts) if self.engine == "native" else self._run(rollouts)
        healthy = torch.isfinite(self.state["parameters"]).all(dim=1) & torch.isfinite(totals).all(dim=1)
        self.state["diverged"] |= ~healthy
        self._keep_snippet()
        metrics = summary(totals.cpu().numpy(), self.tasks[0].success_return is not None)
        broken = self.diverged
        return {name: np.where(broken, np.nan, values) if broken.any() else values for name, values in metrics.items()}

    def _run(self, rollouts: int) -> Tensor:
        """A segment. Returns its totals, float64 ``[members, len(TOTALS)]``."""
        totals = torch.zeros(self.members, len(TOTALS), dtype=torch.float64, device=self.device)
        for _ in range(rollouts):
            self._rollout(totals)
        self._measure(totals)
        return totals

    def _rollout(self, totals: Tensor) -> None:
        """``num_steps`` steps of all environments, with the gradient steps that fall due."""
        state, envs, per_step = self.state, self.environments, (self.config.num_steps, self.config.num_envs)
        before = state["parameters"].clone()
        # Read once: on a GPU every reading waits for all that was asked of it before.
        table = self.table()
        sizes = table[:, self.hyperparameters.index("batch_size")].astype(np.int64)
        longest = int(table[:, self.hyperparameters.index("n_step")].max())
        due = self._schedule(table[:, self.hyperparameters.index("train_frequency")].astype(np.int64))
        words = self._words(int((due.sum(axis=0) * sizes).max()))
        action_draws = self._uniform(Stream.ACTION, (*per_step, 2))
        reset_draws = self._uniform(Stream.ENVIRONMENT, (*per_step, envs.reset_draws))
        noise_draws = self._uniform(Stream.NOISE, (*per_step, envs.noise_draws))
        taken = np.zeros(self.members, dtype=np.int64)
        for t in range(self.config.num_steps):
            self._step(action_draws[:, t], reset_draws[:, t], noise_draws[:, t], totals)
            for turn in range(int(due[t].max())):
                for rows, batch_size in self._groups(due[t] > turn, sizes):
                    column = torch.from_numpy(taken[rows, None] * batch_size + np.arange(batch_size)).to(self.device)
                    index = torch.from_numpy(rows).to(self.device)
                    self._learn(index, words[index[:, None], column], longest, totals)
                    taken[rows] += 1
        moved = torch.linalg.vector_norm(state["parameters"] - before, dim=1)
        totals[:, TOTALS.index("update_ratio")] += moved / torch.linalg.vector_norm(before, dim=1)
        totals[:, TOTALS.index("rollouts")] += 1

    def _schedule(self, frequency: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many gradient steps follow each step of the rollout, ``[num_steps, members]``.

        A gradient step is due whenever ``train_frequency`` environment steps have been made since the last one, over
        the ends of rollouts too. They count from the first step, but nothing is learned before ``learning_starts``. A
        frequency that was just raised does not ask for more at once than it would have by itself.
        """
        envs = self.config.num_envs
        credit, steps = self.array("train_credit").copy(), self.array("steps")
        due = np.zeros((self.config.num_steps, self.members), dtype=np.int64)
        for t in range(self.config.num_steps):
            credit += envs
            count = np.minimum(credit // frequency, -(-envs // frequency))
            credit = np.minimum(credit - count * frequency, frequency - 1)
            due[t] = np.where(steps + (t + 1) * envs > self.config.learning_starts, count, 0)
        self.state["train_credit"] = torch.from_numpy(credit).to(self.device)
        return due

    def _words(self, count: int) -> Tensor:
        """Random words that choose the rollout's minibatches: one call, ``batch_size`` words per gradient step."""
        keys, calls = self.state["rng_keys"][:, Stream.MINIBATCH], self.state["rng_calls"][:, Stream.MINIBATCH]
        words = random_words(keys, calls, count)
        calls += 1
        return words

    @staticmethod
    def _groups(due: NDArray[np.bool_], sizes: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Members whose gradient step is due, by batch size: a member's products always have the same shape."""
        for size in np.unique(sizes[due]).tolist():
            yield np.flatnonzero(due & (sizes == size)), size

    @torch.no_grad()
    def _step(self, draws: Tensor, reset: Tensor, noise: Tensor, totals: Tensor) -> None:
        """One step of all environments into the memory, from uniforms ``[members, envs, ...]``."""
        state = self.state
        observation = state["env_observation"]
        values = self.network.values(state["parameters"], observation)
        warm_up = (state["steps"] < self.config.learning_starts)[:, None]
        explore = warm_up | (draws[..., 0] < self._hyperparameter("epsilon")[:, None])
        choices = self.tasks[0].action_count
        choice = torch.where(explore, (draws[..., 1] * choices).long().clamp(max=choices - 1), values.argmax(dim=-1))
        action = choice[..., None].float()
        fresh = state["env_elapsed"] == 0
        value = values.gather(-1, choice[..., None])[..., 0]
        state["episode_value"] = torch.where(fresh, value, state["episode_value"])
        step = self.environments.step(state, state["env_physics"], action, reset, noise)
        append(state, observation, action, step.reward, step.final_observation, step.terminated, step.truncated)
        state["steps"] += self.config.num_envs
        self._count(step, totals)

    def _count(self, step: Transition, totals: Tensor) -> None:
        """Statistics of the episodes that ended with this step.

        ``q_bias`` is the value that the episode's first action was thought to have, minus the discounted return that
        followed (with the value of the final observation after a time limit): van Hasselt et al. 2016, figure 3.
        """
        state, threshold = self.state, self.tasks[0].success_return
        done = step.terminated | step.truncated
        state["episode_discounted"] = state["episode_discounted"] + state["episode_weight"] * step.reward
        state["episode_weight"] = state["episode_weight"] * self._column("discount")[:, None]
        rest = self.network.values(state["parameters"], step.final_observation).amax(dim=-1).double()
        followed = state["episode_discounted"] + torch.where(step.truncated, state["episode_weight"] * rest, 0.0)
        bias = torch.where(done, state["episode_value"].double() - followed, 0.0)
        state["episode_discounted"] = torch.where(done, 0.0, state["episode_discounted"])
        state["episode_weight"] = torch.where(done, 1.0, state["episode_weight"])
        finished = torch.where(done, step.episode_return, 0.0)
        success = done & (step.episode_return >= threshold) if threshold is not None else torch.zeros_like(done)
        lengths = torch.where(done, step.episode_length, 0)
        for column, values in enumerate((done, finished, finished**2, lengths, success, bias)):
            totals[:, column] += values.sum(dim=1)

    def _learn(self, rows: Tensor, words: Tensor, longest: int, totals: Tensor) -> None:
        """One gradient step of the members ``rows``, on minibatches that ``words`` ``[rows, batch]`` choose.

        ``longest`` is the largest ``n_step`` of all members.
        """
        config, whole = self.config, len(rows) == self.members
        state: State = {name: self.state[name] if whole else self.state[name][rows] for name in _LEARNED}
        weight = torch.ones((), device=self.device)
        if config.prioritized:
            index, weight = prioritized_index(
                self.state, rows, words, config.priority_exponent, config.priority_correction
            )
        else:
            index = uniform_index(self.state, rows, words)
        error, gradient, columns = self._gradient(state, rows, index, weight, longest)
        norm = torch.linalg.vector_norm(gradient, dim=1)
        scale = state["hyperparameters"][:, self.hyperparameters.index("max_gradient_norm")].float() / (norm + 1e-6)
        self._adam(state, gradient * scale.clamp(max=1.0)[:, None])
        tau = state["hyperparameters"][:, self.hyperparameters.index("tau"), None].float()
        state["targets"] = state["targets"] + tau * (state["parameters"] - state["targets"])
        for name in _LEARNED[1:]:
            if whole:
                self.state[name] = state[name]
            else:
                self.state[name][rows] = state[name]
        if config.prioritized:
            update_priorities(self.state, rows, index, error)
        first = TOTALS.index(PER_OPTIMISER_STEP[0])
        statistics = torch.stack((*columns, norm, (scale < 1.0).float(), torch.ones_like(norm)), dim=1)
        totals[rows, first : first + statistics.shape[1]] += statistics

    def _gradient(
        self, state: State, rows: Tensor, index: Tensor, weight: Tensor, longest: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Absolute TD errors ``[rows, batch]``, gradient ``[rows, parameters]``, and loss, mean and 95th percentile of
        the errors and mean value of the actions taken, each ``[rows]``."""
        steps = state["hyperparameters"][:, self.hyperparameters.index("n_step")].long()
        discount = state["hyperparameters"][:, self.hyperparameters.index("discount")].float()
        batch = n_step(self.state, rows, index, steps, longest, discount, self.config.num_envs)
        with torch.no_grad():
            following = self.network.values(state["targets"], batch.next_observation)
            chooser = following
            if self.config.double:
                chooser = self.network.values(state["parameters"], batch.next_observation)
            best = chooser.argmax(dim=-1, keepdim=True)
            target = batch.reward + batch.bootstrap * following.gather(-1, best)[..., 0]
        parameters = state["parameters"].detach().requires_grad_()
        value = self.network.values(parameters, batch.observation).gather(-1, batch.action.long())[..., 0]
        loss = (weight * functional.smooth_l1_loss(value, target, reduction="none")).mean(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        error, count = (value.detach() - target).abs(), value.shape[1]
        high = error.sort(dim=1).values[:, math.ceil(PERCENTILE * count) - 1]
        return error, gradient, (loss.detach(), error.mean(dim=1), high, value.detach().mean(dim=1))

    def _adam(self, state: State, gradient: Tensor) -> None:
        """Kingma and Ba 2015, with a learning rate per member."""
        beta1, beta2 = ADAM_BETAS
        state["adam_steps"] = state["adam_steps"] + 1
        count = state["adam_steps"].double()
        state["adam_mean"].mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        state["adam_square"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        rate = state["hyperparameters"][:, self.hyperparameters.index("learning_rate")]
        step = (rate / (1.0 - beta1**count)).float()[:, None]
        correction = torch.sqrt(1.0 - beta2**count).float()[:, None]
        state["parameters"] = state["parameters"] - step * state["adam_mean"] / (
            state["adam_square"].sqrt() / correction + ADAM_EPSILON
        )

    @torch.no_grad()
    def _measure(self, totals: Tensor) -> None:
        """Plasticity on the observations of the last rollout, and how full the memory is."""
        capacity = self.state["replay_reward"].shape[1]
        recent = min(self.steps_per_rollout, capacity)
        observation = self._recent("observation", range(0, recent, max(1, recent // SAMPLE)))
        covariances = [covariance(layer) for layer in self.network.activations(self.state["parameters"], observation)]
        fill = self.state["replay_size"].double() / capacity
        for name, values in (
            ("dormant_share", dormant_share(covariances)),
            ("feature_rank", feature_rank(covariances[-1])),
            ("buffer_fill", fill),
        ):
            totals[:, TOTALS.index(name)] = values

    def _keep_snippet(self) -> None:
        envs = self.config.num_envs
        last = min(SNIPPET, self.config.num_steps, self.config.buffer_size // envs)
        for name in ("observation", "action", "reward"):
            newest = self._recent(name, range(last * envs - 1, -1, -envs))
            self.state[f"snippet_{name}"][:, SNIPPET - last :] = newest

    def _recent(self, name: str, ages: range) -> Tensor:
        """Rows of the memory by age, 0 the newest: ``[members, ages, ...]``."""
        rows = torch.arange(self.members, device=self.device)[:, None]
        age = torch.tensor(ages, device=self.device)
        values = self.state[f"replay_{name}"]
        return values[rows, (self.state["replay_position"][:, None] - 1 - age) % values.shape[1]]

    # -- evaluation

    def _evaluate(self, episodes: int) -> Evaluation:
        return native_dqn.evaluate(self, episodes) if self.engine == "native" else self._play(episodes)

    @torch.no_grad()
    def _play(self, episodes: int) -> Evaluation:
        keys, calls = self.state["rng_keys"][:, Stream.EVALUATION], self.state["rng_calls"][:, Stream.EVALUATION]

        def act(observation: Tensor, _: Tensor) -> Tensor:
            return self.network.values(self.state["parameters"], observation).argmax(dim=-1, keepdim=True).float()

        result = play(self.tasks[0], self.state["env_physics"], act, 0, keys, calls, episodes)
        calls += PLAY_CALLS
        return result

    # -- small things

    def _column(self, name: str) -> Tensor:
        return self.state["hyperparameters"][:, self.hyperparameters.index(name)]

    def _hyperparameter(self, name: str) -> Tensor:
        return self._column(name).float()

    def _uniform(self, stream: Stream, shape: tuple[int, ...]) -> Tensor:
        """One call of a stream: ``[members, *shape]``. The call counters advance."""
        keys, calls = self.state["rng_keys"][:, stream], self.state["rng_calls"][:, stream]
        draws = uniform(keys.to(self.device), calls.to(self.device), math.prod(shape)).view(-1, *shape)
        calls += 1
        return draws

    def _forget(self) -> None:
        """Nothing is kept outside ``state``."""

    def _tasks_changed(self) -> None:
        self.state["env_physics"] = physics_of(self.tasks, self.device)
