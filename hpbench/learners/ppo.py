"""Proximal policy optimisation for a population (Schulman et al. 2017), in the form of its well-tested implementations.

Clipped surrogate, generalised advantage estimation with time limits bootstrapped (Schulman et al. 2016; Pardo et al.
2018), advantages normalised per minibatch, mean squared value loss without clipping, Adam (epsilon 1e-5), gradients
clipped by their global norm: the choices of Stable-Baselines3 and CleanRL (Huang et al. 2022, "The 37 implementation
details of PPO").

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

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners import graph, native, native_ppo
from hpbench.learners.advantage import generalised_advantage
from hpbench.learners.networks import ActorCritic, Weights, forward
from hpbench.learners.normalisation import initial_moments, scaled, standardised, update_moments
from hpbench.learners.play import PLAY_CALLS, play
from hpbench.learners.population import SNIPPET, Evaluation, Floats, Population, State
from hpbench.learners.ppo_metrics import METRICS, TOTALS, summary
from hpbench.learners.representation import plasticity
from hpbench.learners.rollout import Environments, physics_of
from hpbench.seeding import Stream, normal_from_uniform, random_words, uniform
from hpbench.tasks.base import Task

HYPERPARAMETERS = HyperparameterSpace(
    Hyperparameter("learning_rate", 1e-5, 1e-1, 3e-4, "log", meaning="step size of Adam"),
    Hyperparameter("entropy_coefficient", 1e-5, 0.2, 1e-3, "log", meaning="weight of the entropy bonus: exploration"),
    Hyperparameter("value_coefficient", 0.05, 2.0, 0.5, "log", meaning="weight of the value loss"),
    Hyperparameter("clip_range", 0.01, 0.6, 0.2, "log", meaning="how far one update may move the policy"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m", meaning="how much later rewards count"),
    Hyperparameter("gae_lambda", 0.5, 0.999, 0.95, "log1m", meaning="bias-variance trade-off of advantages"),
    Hyperparameter("max_gradient_norm", 0.05, 10.0, 0.5, "log", meaning="gradients longer than this are scaled down"),
    Hyperparameter("update_epochs", 1, 20, 10, "log", integer=True, meaning="passes over each rollout"),
    Hyperparameter("minibatches", 1, 32, 8, "log", integer=True, meaning="parts that each pass is split into"),
)
"""Defaults are those of Stable-Baselines3 2.x (minibatches of 64, as 8 parts of 512 steps), but for the entropy
coefficient: there it is 0, which a log scale does not have."""

BUFFER = ("log_prob", "value", "reward", "done", "truncated", "final_value", "advantage", "return")
"""Per-step numbers of a rollout, float32 ``[members, steps, envs]``, beside observations and actions."""

OPTIMISER = ("parameters", "adam_mean", "adam_square", "adam_steps")
"""What an optimiser step changes in the state."""

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-5


@dataclass(frozen=True)
class PPOConfig:
    """Frozen options.

    Args:
        num_envs: environments per member.
        num_steps: steps of each environment per rollout.
        hidden: widths of the tanh layers of actor and critic.
        normalize_observation: running mean and variance, updated once per rollout.
        normalize_reward: divide rewards by the running deviation of the discounted return.
    """

    num_envs: int = 8
    num_steps: int = 64
    hidden: tuple[int, ...] = (64, 64)
    normalize_observation: bool = False
    normalize_reward: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.num_envs, self.num_steps, *self.hidden) < 1 or not self.hidden:
            raise InvalidConfiguration(f"sizes must be at least 1: {self}")


class PPO(Population):
    """A population of PPO learners on a tensor task. See :class:`~hpbench.learners.population.Population`.

    Args:
        engine: ``native`` (C++, CPU), ``graph`` (CUDA graphs of compiled kernels), ``torch`` (any device), or ``auto``:
            the fastest that works here.
    """

    name = "ppo"
    hyperparameters = HYPERPARAMETERS
    config_type = PPOConfig
    config: PPOConfig

    def __init__(
        self,
        tasks: Task | Sequence[Task],
        seeds: Sequence[int],
        config: PPOConfig | None = None,
        values: Mapping[str, float | ArrayLike] | None = None,
        device: str = "cpu",
        engine: str = "auto",
        threads: int = 1,
    ) -> None:
        super().__init__(tasks, seeds, PPOConfig() if config is None else config, values, device, threads)
        task = self.tasks[0]
        self.networks = ActorCritic.build(task.observation_size, self.config.hidden, task.action_count, task.discrete)
        self.environments = Environments(task, self.config.num_envs)
        self.engine = self._choose(engine)
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        parameters = self.networks.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION])
        members, size = self.members, task.observation_size
        self.state |= {
            "parameters": parameters,
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(members, dtype=torch.int64),
            "return_running": torch.zeros(members, self.config.num_envs, dtype=torch.float64),
            **initial_moments("observation", members, size),
            **initial_moments("return", members, 1),
            "snippet_observation": torch.zeros(members, SNIPPET, size),
            "snippet_action": torch.zeros(members, SNIPPET, self.environments.width),
            "snippet_reward": torch.zeros(members, SNIPPET),
        }
        self.state = {name: tensor.to(self.device) for name, tensor in self.state.items()}
        self.state["env_physics"] = physics_of(self.tasks, self.device)
        shape = (members, self.config.num_envs)
        reset = self._uniform(Stream.ENVIRONMENT, (*shape[1:], self.environments.reset_draws))
        noise = self._uniform(Stream.NOISE, (*shape[1:], self.environments.noise_draws))
        self.state |= self.environments.start(self.state["env_physics"], reset, noise)
        self._forget()

    def _choose(self, engine: str) -> str:
        names = ("native", "graph", "torch")
        if engine not in ("auto", *names):
            raise UnknownName("engine", engine, ("auto", *names))
        obstacles = {
            "native": native.obstacle(self.tasks[0], self.config.hidden, self.device),
            "graph": graph.obstacle(self.device),
            "torch": None,
        }
        if engine == "auto":
            return next(name for name in names if obstacles[name] is None)
        if obstacles[engine] is not None:
            raise InvalidConfiguration(
                f"engine={engine!r} cannot be used: {obstacles[engine]}. Use engine='auto' or 'torch'."
            )
        return engine

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
        totals = self._segment(rollouts)
        self.state["steps"] += rollouts * self.steps_per_rollout
        healthy = torch.isfinite(self.state["parameters"]).all(dim=1) & torch.isfinite(totals).all(dim=1)
        self.state["diverged"] |= ~healthy
        return self._metrics(totals)

    def _train_some(self, members: NDArray[np.int64], rollouts: int) -> dict[str, Floats]:
        if self.engine != "graph":
            return super()._train_some(members, rollouts)
        # Another number of members would be other graphs: the others train along, and are put back.
        others = self._index(np.setdiff1d(np.arange(self.members), members))
        kept = {name: tensor[others] for name, tensor in self.state.items()}
        metrics = self._train(rollouts)
        for name, tensor in kept.items():
            self.state[name][others] = tensor
        return {name: values[members] for name, values in metrics.items()}

    def _segment(self, rollouts: int) -> Tensor:
        """Train. Returns the segment's totals, float64 ``[members, len(TOTALS)]``."""
        if self.engine == "graph":
            return graph.train(self, rollouts)
        if self.engine == "native":
            totals = native_ppo.train(self, rollouts)
        else:
            totals = torch.zeros(self.members, len(TOTALS), dtype=torch.float64, device=self.device)
            for _ in range(rollouts):
                self._collect(totals)
                self._update(totals)
            self._measure(totals)
        self._keep_snippet()
        return totals

    @torch.no_grad()
    def _collect(self, totals: Tensor) -> None:
        """One rollout into the buffer, with advantages and returns."""
        state, buffer, steps = self.state, self.buffer, self.config.num_steps
        envs, per_step = self.environments, (steps, self.config.num_envs)
        action_draws = self._uniform(Stream.ACTION, (*per_step, self._action_draws))
        reset_draws = self._uniform(Stream.ENVIRONMENT, (*per_step, envs.reset_draws))
        noise_draws = self._uniform(Stream.NOISE, (*per_step, envs.noise_draws))
        actor, critic, log_std = self.networks.unpack(state["parameters"])
        moments = {name: state[name] for name in ("observation_mean", "observation_variance")}
        worlds = {name: state[name] for name in envs.NAMES}
        records: list[State] = []
        for t in range(steps):
            draws = action_draws[:, t], reset_draws[:, t], noise_draws[:, t]
            worlds, record = self._interact(actor, log_std, worlds, moments, state["env_physics"], *draws)
            records.append(record)
        state |= worlds
        for name in ("observation", "action", "log_prob", "reward", "done", "truncated"):
            torch.stack([record[name] for record in records], dim=1, out=buffer[name])
        # The critic is not needed while acting: one pass over the whole rollout is faster.
        finals = torch.stack([record["final_observation"] for record in records], dim=1)
        for name, observations in (("value", buffer["observation"]), ("final_value", finals)):
            buffer[name].copy_(self._forward(critic, observations.flatten(1, 2)).view_as(buffer[name]))
        last = self._normalised(state["env_observation"], moments)
        buffer["last_value"].copy_(self._forward(critic, last)[..., 0])
        self._count(records, totals)
        if self.config.normalize_observation:
            seen = torch.stack([record["raw_observation"] for record in records], dim=1)
            update_moments(state, "observation", seen.flatten(1, 2).double())
        self._estimate(totals)

    def _interact(
        self,
        actor: Weights,
        log_std: Tensor,
        worlds: State,
        moments: State,
        physics: Tensor,
        action_draws: Tensor,
        reset_draws: Tensor,
        noise_draws: Tensor,
    ) -> tuple[State, State]:
        """One step of all environments: their next state, and what there is to record. Changes nothing."""
        raw, worlds = worlds["env_observation"], dict(worlds)
        observation = self._normalised(raw, moments)
        action, log_prob = self._sample(forward(actor, observation), log_std, action_draws)
        step = self.environments.step(worlds, physics, action, reset_draws, noise_draws)
        done = step.terminated | step.truncated
        return worlds, {
            "observation": observation,
            "raw_observation": raw,
            "action": action,
            "log_prob": log_prob,
            "reward": step.reward.float(),
            "done": done.float(),
            "truncated": step.truncated.float(),
            "final_observation": self._normalised(step.final_observation, moments),
            "episode_return": torch.where(done, step.episode_return, 0.0),
            "episode_length": torch.where(done, step.episode_length, 0),
        }

    def _count(self, records: Sequence[State], totals: Tensor) -> None:
        """Add the episodes that ended in a rollout to the totals."""
        done = self.buffer["done"]
        finished = torch.stack([record["episode_return"] for record in records], dim=1)
        lengths = torch.stack([record["episode_length"] for record in records], dim=1)
        threshold = self.tasks[0].success_return
        success = (done > 0) & (finished >= threshold) if threshold is not None else torch.zeros_like(done)
        for column, values in enumerate((done, finished, finished.square(), lengths, success)):
            totals[:, column] += values.sum(dim=(1, 2), dtype=torch.float64)

    def _estimate(self, totals: Tensor) -> None:
        """Advantages and returns of the rollout in the buffer."""
        buffer = self.buffer
        discount, gae_lambda = self._hyperparameter("discount"), self._hyperparameter("gae_lambda")
        reward = buffer["reward"]
        if self.config.normalize_reward:
            reward = self._scaled_reward(reward, buffer["done"])
        reward = reward + discount[:, None, None] * buffer["truncated"] * buffer["final_value"]
        given = (reward, buffer["value"], buffer["done"], buffer["last_value"])
        buffer["advantage"].copy_(self._advantages(*given, discount, gae_lambda))
        torch.add(buffer["advantage"], buffer["value"], out=buffer["return"])
        variance = buffer["return"].double().flatten(1).var(dim=1, correction=0)
        residual = buffer["advantage"].double().flatten(1).var(dim=1, correction=0)
        totals[:, TOTALS.index("explained_variance")] += torch.where(variance > 0, 1.0 - residual / variance, 0.0)
        totals[:, TOTALS.index("rollouts")] += 1

    def _update(self, totals: Tensor) -> None:
        """All epochs on the rollout in the buffer, batched over members that split it in the same way."""
        before = self.state["parameters"].clone()
        for epochs, minibatches, members in self._groups():
            whole = len(members) == self.members
            part = self if whole else self.fork(members)
            if not whole:
                part.buffer = {name: values[members] for name, values in self.buffer.items()}
            part_totals = totals if whole else totals[members]
            for _ in range(epochs):
                part._epoch(minibatches, part_totals)
            if not whole:
                totals[members] = part_totals
                self._scatter(part, members)
        self._add_movement(before, totals)

    def _add_movement(self, before: Tensor, totals: Tensor) -> None:
        """Add how far a rollout's updates moved the parameters, relative to their size."""
        moved = torch.linalg.vector_norm(self.state["parameters"] - before, dim=1)
        totals[:, TOTALS.index("update_ratio")] += moved / torch.linalg.vector_norm(before, dim=1)

    def _groups(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        table = self.state["hyperparameters"].cpu().numpy()
        columns = [self.hyperparameters.index("update_epochs"), self.hyperparameters.index("minibatches")]
        pairs, group = np.unique(table[:, columns].astype(np.int64), axis=0, return_inverse=True)
        for i, (epochs, minibatches) in enumerate(pairs.tolist()):
            yield epochs, min(minibatches, self.steps_per_rollout), np.flatnonzero(group.reshape(-1) == i)

    def _epoch(self, minibatches: int, totals: Tensor, active: Tensor | None = None) -> None:
        """One pass over the rollout in the buffer.

        Args:
            minibatches: how many parts it is split into.
            totals: are added to.
            active: bool ``[members]``; the others are left as they are. None: all.
        """
        size = self.steps_per_rollout
        keys, calls = self.state["rng_keys"][:, Stream.MINIBATCH], self.state["rng_calls"][:, Stream.MINIBATCH]
        order = torch.argsort(self._words(keys, calls, size), dim=1, stable=True)
        calls += 1 if active is None else active
        names = ("observation", "action", "log_prob", "advantage", "return")
        flat = {name: self.buffer[name].flatten(1, 2) for name in names}
        rows = torch.arange(self.members, device=self.device)[:, None]
        for i in range(minibatches):
            index = order[:, i * size // minibatches : (i + 1) * size // minibatches]
            self._minibatch({name: values[rows, index] for name, values in flat.items()}, totals, active)

    def _minibatch(self, batch: State, totals: Tensor, active: Tensor | None) -> None:
        """One optimiser step of every active member."""
        parameters = self.state["parameters"].detach().requires_grad_()
        loss, statistics = self._loss(parameters, batch, self.state["hyperparameters"])
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        with torch.no_grad():
            optimiser = {name: self.state[name] for name in OPTIMISER}
            moved, norms = self._descend(optimiser, gradient, self.state["hyperparameters"], active)
            self.state |= moved
            first = TOTALS.index("policy_loss")
            columns = torch.stack((*statistics, *norms, torch.ones_like(norms[0])), dim=1)
            totals[:, first : first + columns.shape[1]] += columns if active is None else columns * active[:, None]

    def _loss(self, parameters: Tensor, batch: State, table: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss ``[members]``, and policy loss, value loss, relative entropy, KL, clip fraction, each ``[members]``."""
        actor, critic, log_std = self.networks.unpack(parameters)
        output = forward(actor, batch["observation"])
        log_prob, entropy = self._distribution(output, log_std, batch["action"])
        advantage = batch["advantage"]
        if advantage.shape[1] > 1:
            advantage = (advantage - advantage.mean(1, True)) / (advantage.std(1, keepdim=True) + 1e-8)
        clip = self._column(table, "clip_range")[:, None]
        log_ratio = log_prob - batch["log_prob"]
        ratio = log_ratio.exp()
        clipped = torch.minimum(torch.maximum(ratio, 1.0 - clip), 1.0 + clip)
        policy_loss = -torch.minimum(advantage * ratio, advantage * clipped).mean(dim=1)
        value = forward(critic, batch["observation"])[..., 0]
        value_loss = (batch["return"] - value).square().mean(dim=1)
        bonus = self._column(table, "entropy_coefficient") * entropy
        loss = policy_loss + self._column(table, "value_coefficient") * value_loss - bonus
        with torch.no_grad():
            # The low-variance estimator of Schulman 2020, joschu.net/blog/kl-approx.html
            kl = (ratio - 1.0 - log_ratio).mean(dim=1)
            clip_fraction = ((ratio - 1.0).abs() > clip).float().mean(dim=1)
        statistics = (policy_loss, value_loss, entropy / self._entropy_unit, kl, clip_fraction)
        return loss, tuple(s.detach() for s in statistics)

    def _descend(
        self, optimiser: State, gradient: Tensor, table: Tensor, active: Tensor | None
    ) -> tuple[State, tuple[Tensor, Tensor]]:
        """Adam (Kingma and Ba 2015) with a learning rate and a limit of the gradient's norm per member.

        Returns:
            The next parameters and moments, and per member the norm before clipping and whether it was clipped.
        """
        beta1, beta2 = ADAM_BETAS
        norm = torch.linalg.vector_norm(gradient, dim=1)
        scale = self._column(table, "max_gradient_norm") / (norm + 1e-6)
        gradient = gradient * scale.clamp(max=1.0)[:, None]
        steps = optimiser["adam_steps"] + 1
        count = steps.double()
        mean = torch.add(optimiser["adam_mean"] * beta1, gradient, alpha=1.0 - beta1)
        square = torch.addcmul(optimiser["adam_square"] * beta2, gradient, gradient, value=1.0 - beta2)
        rate = table[:, self.hyperparameters.index("learning_rate")]
        step = (rate / (1.0 - beta1**count)).float()[:, None]
        correction = torch.sqrt(1.0 - beta2**count).float()[:, None]
        parameters = optimiser["parameters"] - step * mean / (square.sqrt() / correction + ADAM_EPSILON)
        moved = {"parameters": parameters, "adam_mean": mean, "adam_square": square, "adam_steps": steps}
        if active is not None:
            chosen = {1: active, 2: active[:, None]}
            moved = {name: torch.where(chosen[new.dim()], new, optimiser[name]) for name, new in moved.items()}
        return moved, (norm, (scale < 1.0).float())

    @torch.no_grad()
    def _measure(self, totals: Tensor) -> None:
        """Plasticity of the actor on the observations of the last rollout."""
        actor, _, _ = self.networks.unpack(self.state["parameters"])
        share, rank = plasticity(actor, self.buffer["observation"].flatten(1, 2))
        totals[:, TOTALS.index("dormant_share")] = share
        totals[:, TOTALS.index("feature_rank")] = rank

    # -- policy

    @property
    def _action_draws(self) -> int:
        return 1 if self.tasks[0].discrete else 2 * self.tasks[0].action_count

    @property
    def _entropy_unit(self) -> float:
        """Discrete: the largest possible entropy. Continuous: the number of dimensions."""
        task = self.tasks[0]
        return math.log(task.action_count) if task.discrete else float(task.action_count)

    def _sample(self, output: Tensor, log_std: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Actions float32 ``[members, envs, width]`` and their log-probabilities ``[members, envs]``."""
        if self.tasks[0].discrete:
            cumulative = torch.softmax(output, dim=-1).cumsum(dim=-1)[..., :-1]
            action = (draws >= cumulative).sum(dim=-1, keepdim=True).float()
        else:
            action = output + log_std.exp() * normal_from_uniform(draws[..., ::2], draws[..., 1::2])
        return action, self._distribution(output, log_std, action)[0]

    def _distribution(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[members, batch]`` of the actions, and the mean entropy ``[members]`` in nats."""
        if self.tasks[0].discrete:
            log_probs = torch.log_softmax(output, dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1).mean(dim=1)
            return log_probs.gather(-1, action.long()).squeeze(-1), entropy
        z = (action - output) * torch.exp(-log_std)
        log_prob = (-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)
        return log_prob, (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=(1, 2))

    # -- evaluation

    def _evaluate(self, episodes: int) -> Evaluation:
        if self.engine == "native":
            return native_ppo.evaluate(self, episodes)
        return self._play(episodes)

    @torch.no_grad()
    def _play(self, episodes: int) -> Evaluation:
        keys, calls = self.state["rng_keys"][:, Stream.EVALUATION], self.state["rng_calls"][:, Stream.EVALUATION]
        actor, _, log_std = self.networks.unpack(self.state["parameters"])

        def act(observation: Tensor, draws: Tensor) -> Tensor:
            return self._sample(forward(actor, self._normalised(observation, self.state)), log_std, draws)[0]

        result = play(self.tasks[0], self.state["env_physics"], act, self._action_draws, keys, calls, episodes)
        calls += PLAY_CALLS
        return result

    # -- what engines may replace by compiled versions

    _forward = staticmethod(forward)
    _advantages = staticmethod(generalised_advantage)
    _words = staticmethod(random_words)
    _draws = staticmethod(uniform)

    # -- normalisation, buffers, metrics

    def _normalised(self, observation: Tensor, moments: State) -> Tensor:
        """``[members, batch, size]`` by the running moments ``observation_mean`` and ``observation_variance``."""
        return standardised(moments, "observation", observation) if self.config.normalize_observation else observation

    def _scaled_reward(self, reward: Tensor, done: Tensor) -> Tensor:
        """Rewards over the running deviation of the discounted return (as Gymnasium's NormalizeReward)."""
        discount = self.state["hyperparameters"][:, self.hyperparameters.index("discount"), None]
        running, history = self.state["return_running"], []
        for t in range(reward.shape[1]):
            running = running * discount + reward[:, t].double()
            history.append(running)
            running = running * (1.0 - done[:, t].double())
        self.state["return_running"] = running
        update_moments(self.state, "return", torch.stack(history, dim=1).flatten(1)[..., None])
        return scaled(self.state, "return", reward)

    def _hyperparameter(self, name: str) -> Tensor:
        return self._column(self.state["hyperparameters"], name)

    def _column(self, table: Tensor, name: str) -> Tensor:
        return table[:, self.hyperparameters.index(name)].float()

    def _uniform(self, stream: Stream, shape: tuple[int, ...]) -> Tensor:
        """One call of a stream: ``[members, *shape]``. The call counters advance."""
        keys, calls = self.state["rng_keys"][:, stream], self.state["rng_calls"][:, stream]
        draws = self._draws(keys.to(self.device), calls.to(self.device), math.prod(shape)).view(-1, *shape)
        calls += 1
        return draws

    def _forget(self) -> None:
        self.buffer: State = {}
        if self.engine == "graph":
            return  # it has buffers of its own
        steps, envs, task = self.config.num_steps, self.config.num_envs, self.tasks[0]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(BUFFER, (steps, envs))
        shapes |= {
            "observation": (steps, envs, task.observation_size),
            "action": (steps, envs, self.environments.width),
        }
        shapes["last_value"] = (envs,)
        self.buffer = {name: torch.zeros(self.members, *shape, device=self.device) for name, shape in shapes.items()}

    def _tasks_changed(self) -> None:
        self.state["env_physics"] = physics_of(self.tasks, self.device)

    def _keep_snippet(self) -> None:
        last = min(SNIPPET, self.config.num_steps)
        for name in ("observation", "action", "reward"):
            self.state[f"snippet_{name}"][:, SNIPPET - last :] = self.buffer[name][:, -last:, 0]

    def _metrics(self, totals: Tensor) -> dict[str, Floats]:
        metrics = summary(totals.cpu().numpy(), self.tasks[0].success_return is not None)
        broken = self.diverged
        if broken.any():
            metrics = {name: np.where(broken, np.nan, values) for name, values in metrics.items()}
        return {name: metrics[name] for name in METRICS}
