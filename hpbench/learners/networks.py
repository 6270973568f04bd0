"""Networks of a whole population: each member's parameters are one flat row, and every layer is one batched product.

A row holds the layers one after the other, each as its weights ``[inputs, outputs]`` and then its biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpbench.seeding import normal_from_uniform, uniform

Weights = list[tuple[Tensor, Tensor]]
"""Per layer: weights ``[members, inputs, outputs]`` and biases ``[members, 1, outputs]``."""

HIDDEN_GAIN = math.sqrt(2.0)
"""Gain of hidden layers, as is usual for PPO (Engstrom et al. 2020; Andrychowicz et al. 2021)."""


@dataclass(frozen=True)
class MLP:
    """A tanh multilayer perceptron with a linear last layer.

    Args:
        sizes: inputs, hidden widths, outputs.
        output_gain: gain of the last layer's orthogonal initialisation.
    """

    sizes: tuple[int, ...]
    output_gain: float

    @property
    def parts(self) -> list[int]:
        """Lengths of the pieces in a parameter row: weights, biases, weights, biases, ..."""
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        return [size for inputs, outputs in pairs for size in (inputs * outputs, outputs)]

    def unpack(self, pieces: list[Tensor]) -> Weights:
        """Shape the pieces of a split parameter row."""
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        return [
            (pieces[2 * i].view(-1, inputs, outputs), pieces[2 * i + 1].unsqueeze(1))
            for i, (inputs, outputs) in enumerate(pairs)
        ]

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, parameters]`` on the CPU: orthogonal weights (Saxe et al. 2014), zero
        biases.

        One call of the stream per layer; ``calls`` is advanced. The decompositions run in float64, member by member,
        so that a member's start depends on nothing but its own stream.
        """
        pieces = []
        last = len(self.sizes) - 2
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            gain = self.output_gain if i == last else HIDDEN_GAIN
            rows, columns = max(inputs, outputs), min(inputs, outputs)
            draws = uniform(keys, calls, 2 * rows * columns).double().cpu()
            calls += 1
            for_member = []
            for matrix in normal_from_uniform(draws[:, ::2], draws[:, 1::2]).view(-1, rows, columns):
                q, r = torch.linalg.qr(matrix)
                q = q * torch.sign(torch.diagonal(r))
                for_member.append(gain * (q if inputs >= outputs else q.T))
            pieces += [torch.stack(for_member).flatten(1), torch.zeros(len(keys), outputs, dtype=torch.float64)]
        return torch.cat(pieces, dim=1).float()


NARROW = 4
"""Up to this many outputs, a compiled layer is a sum of products: matrix kernels have nothing to gain from it."""


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One layer without its activation: ``[members, batch, inputs] -> [members, batch, outputs]``.

    Compiled, the bias is added apart: the compiler merges that into the activation, where ``baddbmm`` would first write
    it out for the whole batch.
    """
    if not torch.compiler.is_compiling():
        return torch.baddbmm(bias, x, weight)
    if weight.shape[-1] <= NARROW:
        return (x.unsqueeze(-1) * weight.unsqueeze(1)).sum(dim=-2) + bias
    return torch.bmm(x, weight) + bias


def hidden_layers(weights: Weights, x: Tensor) -> list[Tensor]:
    """Activations of the hidden layers, each ``[members, batch, width]``."""
    activations = []
    for weight, bias in weights[:-1]:
        x = torch.tanh(affine(x, weight, bias))
        activations.append(x)
    return activations


def forward(weights: Weights, x: Tensor) -> Tensor:
    """Output of the network: ``[members, batch, inputs] -> [members, batch, outputs]``."""
    weight, bias = weights[-1]
    return affine(hidden_layers(weights, x)[-1], weight, bias)


@dataclass(frozen=True)
class Policy:
    """What an actor's output stands for: a softmax over the choices, or a Gaussian with independent dimensions and a
    state-independent log standard deviation."""

    actor: MLP
    critic: MLP
    log_std: int
    """Number of log standard deviations: the action dimensions, or 0 for discrete actions."""

    @property
    def action_draws(self) -> int:
        """Uniform numbers that one action takes."""
        return 2 * self.log_std if self.log_std else 1

    @property
    def entropy_unit(self) -> float:
        """Discrete: the largest possible entropy. Continuous: the number of dimensions."""
        return float(self.log_std) if self.log_std else math.log(self.actor.sizes[-1])

    def sample(self, output: Tensor, log_std: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Actions float32 ``[members, envs, width]`` and their log-probabilities ``[members, envs]``.

        Args:
            output: of the actor, ``[members, envs, outputs]``.
            log_std: ``[members, 1, log_std]``.
            draws: uniform, ``[members, envs, action_draws]``.
        """
        if self.log_std:
            action = output + log_std.exp() * normal_from_uniform(draws[..., ::2], draws[..., 1::2])
        else:
            cumulative = torch.softmax(output, dim=-1).cumsum(dim=-1)[..., :-1]
            action = (draws >= cumulative).sum(dim=-1, keepdim=True).float()
        return action, self._log_prob(output, log_std, action)

    def distribution(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[members, batch]`` of the actions, and entropies in nats: ``[members, batch]``, or
        ``[members, 1]`` where they are the same for all observations."""
        if not self.log_std:
            log_probs = torch.log_softmax(output, dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
            return log_probs.gather(-1, action.long()).squeeze(-1), entropy
        entropy = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=2)
        return self._log_prob(output, log_std, action), entropy

    def _log_prob(self, output: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        if not self.log_std:
            return torch.log_softmax(output, dim=-1).gather(-1, action.long()).squeeze(-1)
        z = (action - output) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


@dataclass(frozen=True)
class ActorCritic(Policy):
    """Separate actor and critic, and log standard deviations, in one row."""

    @classmethod
    def build(cls, observation_size: int, hidden: tuple[int, ...], actions: int, discrete: bool) -> ActorCritic:
        """Networks for observations of that size and that many choices (discrete) or dimensions (continuous)."""
        actor = MLP((observation_size, *hidden, actions), output_gain=0.01)
        critic = MLP((observation_size, *hidden, 1), output_gain=1.0)
        return cls(actor, critic, 0 if discrete else actions)

    @property
    def size(self) -> int:
        """Length of a parameter row."""
        return sum(self.actor.parts) + sum(self.critic.parts) + self.log_std

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, size]`` on the CPU; ``calls`` is advanced."""
        actor = self.actor.initial(keys, calls)
        critic = self.critic.initial(keys, calls)
        return torch.cat((actor, critic, torch.zeros(len(keys), self.log_std)), dim=1)

    def unpack(self, parameters: Tensor) -> tuple[Weights, Weights, Tensor]:
        """Actor weights, critic weights and log standard deviations ``[members, 1, log_std]`` of parameter rows."""
        split = len(self.actor.parts)
        pieces = list(torch.split(parameters, [*self.actor.parts, *self.critic.parts, self.log_std], dim=1))
        return self.actor.unpack(pieces[:split]), self.critic.unpack(pieces[split:-1]), pieces[-1].unsqueeze(1)

    def activations(self, parameters: Tensor, observation: Tensor) -> list[Tensor]:
        """The actor's hidden layers, each ``[members, batch, width]``, whose plasticity is measured."""
        return hidden_layers(self.unpack(parameters)[0], observation)

    def outputs(self, parameters: Tensor, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actor output ``[members, batch, outputs]``, value ``[members, batch]``, log standard deviations."""
        actor, critic, log_std = self.unpack(parameters)
        return forward(actor, observation), forward(critic, observation)[..., 0], log_std
