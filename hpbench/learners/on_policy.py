"""What learners share that learn from rollouts of their present policy: act for a while, and estimate advantages.

Observations and rewards may be normalised on the way. What a rollout gives is kept in the buffer until it is learned
from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpbench.learners import encoded, encoded_actors, encoded_gpu
from hpbench.learners.advantage import generalised_advantage
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.networks import ActorCritic, Weights, forward
from hpbench.learners.normalisation import scaled, standardised, update_moments
from hpbench.learners.representation import plasticity, sample
from hpbench.learners.snapshot import State
from hpbench.learners.tensor import SNIPPET, TensorPopulation

BUFFER = ("log_prob", "value", "reward", "done", "truncated", "final_value", "advantage", "return")
"""Per-step numbers of a rollout, float32 ``[members, steps, envs]``, beside observations and actions."""


class OnPolicy(TensorPopulation):
    """Base of the learners with an actor, a critic and rollouts."""

    networks: ActorCritic | EncodedActorCritic

    # -- rollouts

    @torch.no_grad()
    def _collect(self, totals: Tensor) -> None:
        """One rollout into the buffer, with advantages and returns."""
        if isinstance(self.networks, EncodedActorCritic):
            way = encoded_gpu if encoded_gpu.suits(self) else encoded_actors if encoded_actors.suits(self) else encoded
            way.collect(self, totals)
            self._estimate(totals)
            return
        state, buffer, steps = self.state, self.buffer, self.config.num_steps
        action_draws, reset_draws, noise_draws = self._rollout_draws(self.networks.action_draws)
        actor, critic, log_std = self.networks.unpack(state["parameters"])
        moments = {name: state[name] for name in ("observation_mean", "observation_variance")}
        worlds = {name: state[name] for name in self.environments.NAMES}
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
        finished, lengths = (
            torch.stack([record[name] for record in records], dim=1) for name in ("episode_return", "episode_length")
        )
        self._count(buffer["done"], finished, lengths, totals)
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
        """One step of all environments: their next state, and what there is to record. Changes no tensor."""
        raw, worlds = worlds["env_observation"], dict(worlds)
        observation = self._normalised(raw, moments)
        action, log_prob = self.networks.sample(forward(actor, observation), log_std, action_draws)
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

    def _count(self, done: Tensor, finished: Tensor, lengths: Tensor, totals: Tensor) -> None:
        """Add the episodes that ended in a rollout to the totals. All are ``[members, steps, envs]``; where no episode
        ended, ``finished`` returns and ``lengths`` are 0."""
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
        totals[:, self.totals.index("explained_variance")] += torch.where(variance > 0, 1.0 - residual / variance, 0.0)

    # -- at the end of a segment

    @torch.no_grad()
    def _measure(self, totals: Tensor) -> None:
        """Plasticity of the actor on the observations of the last rollout."""
        observation = sample(self.buffer["observation"].flatten(1, 2))
        share, rank = plasticity(self.networks.activations(self.state["parameters"], observation))
        totals[:, self.totals.index("dormant_share")] = share
        totals[:, self.totals.index("feature_rank")] = rank

    def _keep_snippet(self) -> None:
        last = min(SNIPPET, self.config.num_steps)
        for name in ("observation", "action", "reward"):
            newest = self.buffer[name][:, -last:, 0]
            if name == "observation" and isinstance(self.networks, EncodedActorCritic):
                # Member by member: on a GPU, the order of a sum depends on the shape of the whole.
                newest = torch.cat([self.networks.encoder.summary(member) for member in torch.split(newest, 1)])
            self.state[f"snippet_{name}"][:, SNIPPET - last :] = newest

    def _snippet_width(self) -> int:
        if isinstance(self.networks, EncodedActorCritic):
            return self.networks.encoder.summary_size
        return super()._snippet_width()

    def _policy(self) -> Callable[[Tensor, Tensor], Tensor]:
        networks, parameters = self.networks, self.state["parameters"]
        if isinstance(networks, EncodedActorCritic):

            def look(observation: Tensor, draws: Tensor) -> Tensor:
                output, _, log_std = networks.outputs(parameters, observation)
                return networks.sample(output, log_std, draws)[0]

            return look
        actor, _, log_std = networks.unpack(parameters)

        def act(observation: Tensor, draws: Tensor) -> Tensor:
            output = forward(actor, self._normalised(observation, self.state))
            return networks.sample(output, log_std, draws)[0]

        return act

    # What the graph engine replaces by compiled versions.
    _forward = staticmethod(forward)
    _advantages = staticmethod(generalised_advantage)

    # -- normalisation and buffers

    def _normalised(self, observation: Tensor, moments: State) -> Tensor:
        """``[members, batch, size]`` by the running moments ``observation_mean`` and ``observation_variance``."""
        return standardised(moments, "observation", observation) if self.config.normalize_observation else observation

    def _scaled_reward(self, reward: Tensor, done: Tensor) -> Tensor:
        """Rewards over the running deviation of the discounted return (as Gymnasium's NormalizeReward)."""
        discount = self.state["hyperparameters"][:, self.hyperparameters.index("discount"), None]
        running, history = self.state["return_running"], []
        for gained, goes_on in zip(reward.double().unbind(1), (1.0 - done.double()).unbind(1), strict=True):
            running = running * discount + gained
            history.append(running)
            running = running * goes_on
        self.state["return_running"] = running
        apart = isinstance(self.networks, EncodedActorCritic)
        update_moments(self.state, "return", torch.stack(history, dim=1).flatten(1)[..., None], apart)
        return scaled(self.state, "return", reward)

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
        # What an encoder reads is kept as it comes: in float32, images would take four times the memory.
        kept = {"observation": self.state["env_observation"].dtype}
        self.buffer = {
            name: torch.zeros(self.members, *shape, dtype=kept.get(name), device=self.device)
            for name, shape in shapes.items()
        }
