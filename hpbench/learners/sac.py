"""Soft actor-critic for a population (Haarnoja et al. 2018, "Soft actor-critic algorithms and applications").

The second version of the paper: twin critics without a value network, target critics that follow by Polyak averaging, a
temperature that is learned so that the policy keeps a target entropy. Tasks with discrete actions get the variant of
Christodoulou 2019, whose expectations over actions are exact. Order of the updates, Adam (epsilon 1e-8), loss of the
logarithm of the temperature, initialisation and warm-up with uniformly random actions are those of Stable-Baselines3.

This file is the reference. The native engine does the same on the same state, one member after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners import native, native_sac
from hpbench.learners.play import PLAY_CALLS, play
from hpbench.learners.population import SNIPPET, Evaluation, Floats, Population, State
from hpbench.learners.relu import forward, relu_layers
from hpbench.learners.replay import Batch, append, initial_replay, n_step, uniform_index
from hpbench.learners.representation import SAMPLE, covariance, dormant_share, feature_rank
from hpbench.learners.rollout import Environments, Transition, physics_of
from hpbench.learners.sac_metrics import METRICS, PER_OPTIMISER_STEP, TOTALS, summary
from hpbench.learners.sac_networks import SoftActorCritic
from hpbench.seeding import Stream, normal_from_uniform, random_words, uniform
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

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8

_LEARNED = (
    "hyperparameters", "rng_keys", "rng_calls", "parameters", "targets", "adam_mean", "adam_square", "adam_steps",
)  # fmt: skip
"""What a gradient step reads and writes, beside the memory."""


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


class SAC(Population):
    """A population of SAC learners on a tensor task. See :class:`~hpbench.learners.population.Population`.

    :meth:`evaluate` plays the most likely actions, as the paper and Stable-Baselines3 do; training samples.

    Args:
        engine: ``native`` (C++, CPU), ``torch`` (any device), or ``auto``: native where it is built and can do the
            task.
    """

    name = "sac"
    hyperparameters = HYPERPARAMETERS
    config_type = SACConfig
    config: SACConfig

    def __init__(
        self,
        tasks: Task | Sequence[Task],
        seeds: Sequence[int],
        config: SACConfig | None = None,
        values: Mapping[str, float | ArrayLike] | None = None,
        device: str = "cpu",
        engine: str = "auto",
        threads: int = 1,
    ) -> None:
        super().__init__(tasks, seeds, SACConfig() if config is None else config, values, device, threads)
        task, envs, members = self.tasks[0], self.config.num_envs, self.members
        self.networks = SoftActorCritic.build(task, self.config.hidden)
        self.environments = Environments(task, envs)
        self.engine = self._choose(engine)
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        temperature = 1.0 if self.config.temperature is None else self.config.temperature
        parameters = self.networks.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION], temperature)
        self.state |= {
            "parameters": parameters,
            "targets": self.networks.split(parameters)[1].clone(),
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(members, dtype=torch.int64),
            "update_credit": torch.zeros(members, dtype=torch.int64),
            "episode_value": torch.zeros(members, envs, dtype=torch.float64),
            "episode_discounted": torch.zeros(members, envs, dtype=torch.float64),
            "episode_weight": torch.ones(members, envs, dtype=torch.float64),
            **initial_replay(members, self.config.buffer_size, envs, task.observation_size, self.environments.width),
            "snippet_observation": torch.zeros(members, SNIPPET, task.observation_size),
            "snippet_action": torch.zeros(members, SNIPPET, self.environments.width),
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
        if engine == "native" and obstacle is not None:
            raise InvalidConfiguration(f"engine='native' cannot be used: {obstacle}. Use engine='auto' or 'torch'.")
        return "native" if obstacle is None else "torch"

    @property
    def steps_per_rollout(self) -> int:
        """Environment steps of one rollout of one member."""
        return self.config.num_envs * self.config.num_steps

    @classmethod
    def metric_names(cls) -> tuple[str, ...]:
        """Keys of what :meth:`train` returns."""
        return METRICS

    # -- training

    def _train(self, rollouts: int) -> dict[str, Floats]:
        totals = native_sac.train(self, rollouts) if self.engine == "native" else self._run(rollouts)
        self._measure(totals)
        self._keep_snippet()
        finite = (self.state["parameters"], self.state["targets"], totals)
        self.state["diverged"] |= ~torch.stack([torch.isfinite(part).all(dim=1) for part in finite]).all(dim=0)
        metrics = summary(totals.cpu().numpy(), self.tasks[0].success_return is not None)
        return {name: np.where(self.diverged, np.nan, values) for name, values in metrics.items()}

    def _run(self, rollouts: int) -> Tensor:
        """A segment. Returns its totals, float64 ``[members, len(TOTALS)]``."""
        totals = torch.zeros(self.members, len(TOTALS), dtype=torch.float64, device=self.device)
        steps = self.config.num_steps
        schedule = self._schedule(self._due(rollouts * steps))
        for start in range(0, rollouts * steps, steps):
            before = self.state["parameters"].clone()
            self._rollout(schedule[start : start + steps], totals)
            moved = torch.linalg.vector_norm(self.state["parameters"] - before, dim=1)
            totals[:, TOTALS.index("update_ratio")] += moved / torch.linalg.vector_norm(before, dim=1)
            totals[:, TOTALS.index("rollouts")] += 1
        return totals

    def _due(self, steps: int) -> NDArray[np.int64]:
        """How many gradient steps follow each of the next steps of the environments: ``[steps, members]``.

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

    def _schedule(self, due: NDArray[np.int64]) -> list[list[tuple[Tensor, int]]]:
        """Gradient steps after each step of the environments, as batches: members of one batch size, and that size.

        Made before the segment starts, so that nothing in it waits for the device.
        """
        sizes = self.values()["batch_size"].astype(np.int64)
        known: dict[bytes, list[tuple[Tensor, int]]] = {}
        schedule = []
        for counts in due:
            if counts.tobytes() not in known:
                known[counts.tobytes()] = [
                    (torch.from_numpy(np.flatnonzero((counts > k) & (sizes == size))).to(self.device), int(size))
                    for k in range(int(counts.max()))
                    for size in np.unique(sizes[counts > k])
                ]
            schedule.append(known[counts.tobytes()])
        return schedule

    def _rollout(self, schedule: Sequence[Sequence[tuple[Tensor, int]]], totals: Tensor) -> None:
        """Step all environments, and learn after every step."""
        state, envs, steps = self.state, self.environments, self.config.num_steps
        per_step = (steps, self.config.num_envs)
        action_draws = self._uniform(Stream.ACTION, (*per_step, self.networks.policy.action_draws))
        reset_draws = self._uniform(Stream.ENVIRONMENT, (*per_step, envs.reset_draws))
        noise_draws = self._uniform(Stream.NOISE, (*per_step, envs.noise_draws))
        for t in range(steps):
            observation = state["env_observation"]
            action = self._explore(observation, action_draws[:, t])
            fresh = state["env_elapsed"] == 0
            state["episode_value"] = torch.where(fresh, self._value(observation, action), state["episode_value"])
            step = envs.step(state, state["env_physics"], self._scaled(action), reset_draws[:, t], noise_draws[:, t])
            append(state, observation, action, step.reward, step.final_observation, step.terminated, step.truncated)
            state["steps"] += self.config.num_envs
            self._count(step, totals)
            for rows, size in schedule[t]:
                self._learn(rows, size, totals)

    def _count(self, step: Transition, totals: Tensor) -> None:
        """Statistics of the episodes that ended with this step.

        ``q_bias`` is the value that the episode's first action was thought to have, minus the discounted return that
        followed (with the value of the most likely action after a time limit): van Hasselt et al. 2016, figure 3. The
        critics' values include the entropy to come, weighted with the temperature; the return does not.
        """
        state, threshold = self.state, self.tasks[0].success_return
        done = step.terminated | step.truncated
        state["episode_discounted"] = state["episode_discounted"] + state["episode_weight"] * step.reward
        discount = state["hyperparameters"][:, self.hyperparameters.index("discount"), None]
        state["episode_weight"] = state["episode_weight"] * discount
        rest = self._value(step.final_observation, self._likely(step.final_observation))
        followed = state["episode_discounted"] + torch.where(step.truncated, state["episode_weight"] * rest, 0.0)
        bias = torch.where(done, state["episode_value"] - followed, 0.0)
        state["episode_discounted"] = torch.where(done, 0.0, state["episode_discounted"])
        state["episode_weight"] = torch.where(done, 1.0, state["episode_weight"])
        finished = torch.where(done, step.episode_return, 0.0)
        success = done & (step.episode_return >= threshold) if threshold is not None else torch.zeros_like(done)
        lengths = torch.where(done, step.episode_length, 0)
        for column, values in enumerate((done, finished, finished**2, lengths, success, bias)):
            totals[:, column] += values.sum(dim=1)

    @torch.no_grad()
    def _value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Smaller value of the two critics, float64 ``[members, batch]``, of actions in the policy's unit."""
        values = self.networks.values(self.networks.split(self.state["parameters"])[1], observation, action)
        return self.networks.policy.taken(values, action).amin(dim=1).double()

    @torch.no_grad()
    def _likely(self, observation: Tensor) -> Tensor:
        """The most likely actions, in the policy's unit."""
        actor = self.networks.actor.unpack(self.networks.split(self.state["parameters"])[0])
        return self.networks.policy.mode(forward(actor, observation))

    @torch.no_grad()
    def _explore(self, observation: Tensor, draws: Tensor) -> Tensor:
        """Actions in the policy's unit, ``[members, envs, width]``: uniformly random ones during the warm-up."""
        actor = self.networks.actor.unpack(self.networks.split(self.state["parameters"])[0])
        policy = self.networks.policy
        warm_up = (self.state["steps"] < self.config.learning_starts)[:, None, None]
        return torch.where(warm_up, policy.explore(draws), policy.sample(forward(actor, observation), draws))

    # -- one gradient step

    def _learn(self, rows: Tensor, size: int, totals: Tensor) -> None:
        """One gradient step of the members ``rows``, with ``size`` transitions each."""
        part = {name: self.state[name][rows] for name in _LEARNED}
        keys, calls = part["rng_keys"][:, Stream.MINIBATCH], part["rng_calls"][:, Stream.MINIBATCH]
        index = uniform_index(self.state, rows, random_words(keys, calls, size))
        calls += 1
        noises = self.networks.policy.noises
        draws = uniform(keys, calls, size * 4 * noises).view(len(rows), size, 2, noises, 2)
        calls += 1
        noise = normal_from_uniform(draws[..., 0], draws[..., 1])
        one = torch.ones_like(rows)
        discount = self._column(part, "discount")
        batch = n_step(self.state, rows, index, one, 1, discount, self.config.num_envs)
        statistics = self._improve(part, batch, noise[:, :, 0], noise[:, :, 1])
        for name in _LEARNED[2:]:
            self.state[name][rows] = part[name]
        first = TOTALS.index(PER_OPTIMISER_STEP[0])
        columns = torch.stack((*statistics, torch.ones_like(statistics[0])), dim=1).double()
        totals[rows, first : first + columns.shape[1]] += columns

    def _improve(self, part: State, batch: Batch, next_noise: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Critics, actor, temperature and targets of ``part``, in place. Returns what ``PER_OPTIMISER_STEP`` names.

        All of them see the temperature from before the step, the actor sees the critics from after it.
        """
        networks, policy = self.networks, self.networks.policy
        part["adam_steps"] += 1
        actor, critics, log_temperature = networks.split(part["parameters"])
        actor, critics, temperature = actor.clone(), critics.clone(), log_temperature.exp()

        with torch.no_grad():
            output = forward(networks.actor.unpack(actor), batch.next_observation)
            value, entropy = policy.expected(
                lambda action: networks.values(part["targets"], batch.next_observation, action), output, next_noise
            )
            target = batch.reward + batch.bootstrap * (value + temperature * entropy)
        critics.requires_grad_()
        q = policy.taken(networks.values(critics, batch.observation, batch.action), batch.action)
        error = q - target[:, None]
        critic_loss = 0.5 * error.square().mean(dim=2).sum(dim=1)
        (critic_gradient,) = torch.autograd.grad(critic_loss.sum(), critics)
        self._adam(part, slice(networks.actor.size, -1), critic_gradient, "critic_learning_rate")

        critics = networks.split(part["parameters"])[1]
        actor.requires_grad_()
        output = forward(networks.actor.unpack(actor), batch.observation)
        value, entropy = policy.expected(
            lambda action: networks.values(critics, batch.observation, action), output, noise
        )
        actor_loss = -(value + temperature * entropy).mean(dim=1)
        (actor_gradient,) = torch.autograd.grad(actor_loss.sum(), actor)
        self._adam(part, slice(0, networks.actor.size), actor_gradient, "actor_learning_rate")

        entropy = entropy.detach().mean(dim=1)
        if self.config.temperature is None:
            # The loss is log(temperature) * (entropy - target).
            surplus = entropy - policy.target_entropy(self._column(part, "target_entropy"))
            self._adam(part, slice(-1, None), surplus[:, None], "temperature_learning_rate")
        part["targets"] += self._column(part, "tau")[:, None] * (
            networks.split(part["parameters"])[1] - part["targets"]
        )

        size = error.abs().detach().mean(dim=1)
        norm = torch.linalg.vector_norm(torch.cat((actor_gradient, critic_gradient), dim=1), dim=1)
        losses = (critic_loss.detach(), actor_loss.detach(), entropy / self._entropy_unit, temperature[:, 0])
        return (*losses, size.mean(dim=1), percentile_95(size), q.detach().mean(dim=(1, 2)), norm)

    def _adam(self, part: State, columns: slice, gradient: Tensor, rate: str) -> None:
        """Kingma and Ba 2015, on some columns of the parameters, with a learning rate per member."""
        beta1, beta2 = ADAM_BETAS
        count = part["adam_steps"].double()
        mean, square = part["adam_mean"][:, columns], part["adam_square"][:, columns]
        mean.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        step = part["hyperparameters"][:, self.hyperparameters.index(rate)] / (1.0 - beta1**count)
        correction = torch.sqrt(1.0 - beta2**count).float()[:, None]
        part["parameters"][:, columns] -= step.float()[:, None] * mean / (square.sqrt() / correction + ADAM_EPSILON)

    def _column(self, part: State, name: str) -> Tensor:
        return part["hyperparameters"][:, self.hyperparameters.index(name)].float()

    # -- evaluation

    def _evaluate(self, episodes: int) -> Evaluation:
        return native_sac.evaluate(self, episodes) if self.engine == "native" else self._play(episodes)

    @torch.no_grad()
    def _play(self, episodes: int) -> Evaluation:
        keys, calls = self.state["rng_keys"][:, Stream.EVALUATION], self.state["rng_calls"][:, Stream.EVALUATION]

        def act(observation: Tensor, draws: Tensor) -> Tensor:
            return self._scaled(self._likely(observation))

        result = play(self.tasks[0], self.state["env_physics"], act, 1, keys, calls, episodes)
        calls += PLAY_CALLS
        return result

    # -- actions, random numbers, metrics

    def _scaled(self, action: Tensor) -> Tensor:
        """What the environments receive: indices as they are, vectors from ``[-1, 1]`` to the task's bounds."""
        task = self.tasks[0]
        if task.discrete:
            return action
        return task.action_low + 0.5 * (task.action_high - task.action_low) * (action + 1.0)

    @property
    def _entropy_unit(self) -> float:
        """Discrete: the largest possible entropy. Continuous: the number of dimensions."""
        task = self.tasks[0]
        return math.log(task.action_count) if task.discrete else float(task.action_count)

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

    def _latest(self, name: str, count: int, stride: int) -> Tensor:
        """The newest ``count`` entries of the memory, every ``stride``-th of them, the oldest first."""
        memory = self.state[f"replay_{name}"]
        back = torch.arange(count * stride, 0, -stride, device=self.device)
        index = (self.state["replay_position"][:, None] - back) % memory.shape[1]
        return memory[torch.arange(self.members, device=self.device)[:, None], index]

    @torch.no_grad()
    def _measure(self, totals: Tensor) -> None:
        """Plasticity of the actor on the latest observations, and how full the memory is."""
        capacity = self.config.buffer_size
        seen = self._latest("observation", min(SAMPLE, self.steps_per_rollout, capacity), 1)
        actor = self.networks.actor.unpack(self.networks.split(self.state["parameters"])[0])
        covariances = [covariance(layer) for layer in relu_layers(actor[:-1], seen)]
        totals[:, TOTALS.index("dormant_share")] = dormant_share(covariances)
        totals[:, TOTALS.index("feature_rank")] = feature_rank(covariances[-1])
        totals[:, TOTALS.index("buffer_fill")] = self.state["replay_size"].double() / capacity

    def _keep_snippet(self) -> None:
        envs = self.config.num_envs
        last = min(SNIPPET, self.config.num_steps, self.config.buffer_size // envs)
        for name in ("observation", "action", "reward"):
            latest = self._latest(name, last, envs)
            self.state[f"snippet_{name}"][:, SNIPPET - last :] = self._scaled(latest) if name == "action" else latest


def percentile_95(values: Tensor) -> Tensor:
    """The 95th percentile of each row, without interpolation: ``[rows, batch] -> [rows]``."""
    return torch.kthvalue(values, -(-95 * values.shape[1] // 100), dim=1).values
