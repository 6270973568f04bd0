"""Networks and policies of soft actor-critic: a squashed Gaussian, a categorical policy, twin critics.

A parameter row holds the actor, the first critic, the second critic, and the logarithm of the temperature. A target row
holds the two critics. The networks are laid out as in :mod:`hpbench.learners.relu`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from hpbench.learners.relu import ReluMLP, forward
from hpbench.seeding import normal_from_uniform
from hpbench.tasks.base import Task

CRITICS = 2
LOG_STD_RANGE = (-20.0, 2.0)
"""What the actor's log standard deviation is clamped to, as by Haarnoja et al. and Stable-Baselines3."""
_LOG_ROOT_TAU = 0.5 * math.log(2.0 * math.pi)


class Policy(Protocol):
    """What a policy makes of the actor's output ``[members, batch, outputs]``. Actions are in the policy's own unit."""

    outputs: int
    """Outputs of the actor."""
    critic_inputs: int
    """Inputs of a critic beside the observation."""
    critic_outputs: int
    action_draws: int
    """Uniform numbers that one action takes."""
    noises: int
    """Normal numbers that one value takes; 0 where the expectation over actions is exact."""

    def sample(self, output: Tensor, draws: Tensor) -> Tensor:
        """Actions float32 ``[members, batch, width]`` from uniforms ``[members, batch, action_draws]``."""
        ...

    def explore(self, draws: Tensor) -> Tensor:
        """The same from the uniform distribution over all actions."""
        ...

    def mode(self, output: Tensor) -> Tensor:
        """The most likely actions (continuous: of the Gaussian before it is squashed)."""
        ...

    def taken(self, values: Tensor, action: Tensor) -> Tensor:
        """Values ``[members, critics, batch]`` of actions, out of critic outputs ``[members, critics, batch, n]``."""
        ...

    def expected(self, values: ValueOf, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Smaller value of the two critics under the policy, and the policy's entropy, each ``[members, batch]``.

        With a squashed Gaussian both are estimates from the one action that ``noise`` gives; with a categorical policy
        they are exact expectations.
        """
        ...

    def target_entropy(self, share: Tensor) -> Tensor:
        """Entropy in nats that the hyperparameter ``target_entropy`` stands for. See :mod:`hpbench.learners.sac`."""
        ...


class ValueOf(Protocol):
    """Critic outputs ``[members, critics, batch, n]`` for observations that it knows."""

    def __call__(self, action: Tensor | None) -> Tensor: ...


class SquashedGaussian:
    """tanh of a Gaussian, every dimension in ``(-1, 1)`` (Haarnoja et al. 2018, appendix C).

    Args:
        dimensions: of an action.
    """

    def __init__(self, dimensions: int) -> None:
        self.outputs, self.action_draws, self.noises = 2 * dimensions, 2 * dimensions, dimensions
        self.critic_inputs, self.critic_outputs, self.dimensions = dimensions, 1, dimensions

    def sample(self, output: Tensor, draws: Tensor) -> Tensor:
        return self.act(output, normal_from_uniform(draws[..., ::2], draws[..., 1::2]))[0]

    def explore(self, draws: Tensor) -> Tensor:
        return 2.0 * draws[..., ::2] - 1.0

    def mode(self, output: Tensor) -> Tensor:
        return torch.tanh(output[..., : self.dimensions])

    def taken(self, values: Tensor, action: Tensor) -> Tensor:
        return values[..., 0]

    def expected(self, values: ValueOf, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, log_prob = self.act(output, noise)
        return values(action)[..., 0].amin(dim=1), -log_prob

    def target_entropy(self, share: Tensor) -> Tensor:
        # 1 - log 2 below the uniform distribution's log 2 lies -1, and as far below that the other end.
        return self.dimensions * ((2.0 * share - 1.0) * (1.0 + math.log(2.0)) - 1.0)

    def act(self, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[..., dimensions]`` for standard normal ``noise``, and their log-probabilities ``[...]``.

        The density of ``tanh(u)`` is that of ``u`` over ``1 - tanh(u)^2``, whose logarithm is computed as
        ``2 (log 2 - u - softplus(-2 u))``: exact where the square rounds to 1.
        """
        mean, log_std = output.chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        before = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - _LOG_ROOT_TAU
        log_prob = log_prob - 2.0 * (math.log(2.0) - before - functional.softplus(-2.0 * before))
        return torch.tanh(before), log_prob.sum(dim=-1)


class Categorical:
    """One of ``count`` choices (Christodoulou 2019). Actions are indices, as float32 ``[..., 1]``."""

    action_draws, noises, critic_inputs = 1, 0, 0

    def __init__(self, count: int) -> None:
        self.outputs = self.critic_outputs = self.count = count

    def sample(self, output: Tensor, draws: Tensor) -> Tensor:
        cumulative = torch.softmax(output, dim=-1).cumsum(dim=-1)[..., :-1]
        return (draws >= cumulative).sum(dim=-1, keepdim=True).float()

    def explore(self, draws: Tensor) -> Tensor:
        return torch.floor(draws * self.count)

    def mode(self, output: Tensor) -> Tensor:
        return output.argmax(dim=-1, keepdim=True).float()

    def taken(self, values: Tensor, action: Tensor) -> Tensor:
        index = action.long()[:, None].expand(-1, CRITICS, -1, -1)
        return values.gather(-1, index)[..., 0]

    def expected(self, values: ValueOf, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_prob = torch.log_softmax(output, dim=-1)
        probability = log_prob.exp()
        return (probability * values(None).amin(dim=1)).sum(dim=-1), -(probability * log_prob).sum(dim=-1)

    def target_entropy(self, share: Tensor) -> Tensor:
        return math.log(self.count) * share


@dataclass(frozen=True)
class SoftActorCritic:
    """The shapes of all networks of a member, and its policy."""

    actor: ReluMLP
    critic: ReluMLP
    policy: Policy

    @classmethod
    def build(cls, task: Task, hidden: tuple[int, ...]) -> SoftActorCritic:
        """Networks for a task."""
        policy = Categorical(task.action_count) if task.discrete else SquashedGaussian(task.action_count)
        actor = ReluMLP((task.observation_size, *hidden, policy.outputs))
        critic = ReluMLP((task.observation_size + policy.critic_inputs, *hidden, policy.critic_outputs))
        return cls(actor, critic, policy)

    @property
    def size(self) -> int:
        """Length of a parameter row."""
        return self.actor.size + CRITICS * self.critic.size + 1

    def initial(self, keys: Tensor, calls: Tensor, temperature: float) -> Tensor:
        """Fresh parameter rows, float32 ``[members, size]`` on the CPU; ``calls`` is advanced."""
        networks = [network.initial(keys, calls) for network in (self.actor, *[self.critic] * CRITICS)]
        return torch.cat((*networks, torch.full((len(keys), 1), math.log(temperature))), dim=1)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the parts of parameter rows: actor, both critics, log temperature ``[members, 1]``."""
        actor, critics, log_temperature = torch.split(rows, [self.actor.size, CRITICS * self.critic.size, 1], dim=1)
        return actor, critics, log_temperature

    def values(self, critics: Tensor, observation: Tensor, action: Tensor | None) -> Tensor:
        """Outputs of both critics, ``[members, critics, batch, critic_outputs]``.

        Args:
            critics: rows ``[members, critics * size]``.
            observation: ``[members, batch, observation_size]``.
            action: ``[members, batch, width]``; ignored by critics that have an output per action.
        """
        if self.policy.critic_inputs:
            assert action is not None
            observation = torch.cat((observation, action), dim=-1)
        members, batch, width = observation.shape
        inputs = observation[:, None].expand(-1, CRITICS, -1, -1).reshape(members * CRITICS, batch, width)
        output = forward(self.critic.unpack(critics.reshape(-1, self.critic.size)), inputs)
        return output.view(members, CRITICS, batch, -1)
