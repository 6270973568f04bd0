"""Action-value networks of a population, plain or dueling, in flat parameter rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpbench.learners.networks import Weights
from hpbench.learners.relu import ReluMLP, forward, relu_layers


@dataclass(frozen=True)
class QNetwork:
    """Observation to one value per action. Relu layers, initialised as PyTorch does.

    Args:
        observation_size: inputs.
        hidden: widths of the hidden layers.
        actions: outputs.
        dueling: the last hidden layer is split into two streams of that width each, one for the state's value and one
            for the advantages, whose mean is taken off (Wang et al. 2016, eq. 9). In the row they follow each other
            after the shared layers.
    """

    observation_size: int
    hidden: tuple[int, ...]
    actions: int
    dueling: bool = False

    @property
    def parts(self) -> tuple[ReluMLP, ...]:
        """The plain network; or shared layers, value stream and advantage stream."""
        if not self.dueling:
            return (ReluMLP((self.observation_size, *self.hidden, self.actions)),)
        shared = (self.observation_size, *self.hidden[:-1])
        return ReluMLP(shared), *(ReluMLP((shared[-1], self.hidden[-1], outputs)) for outputs in (1, self.actions))

    @property
    def size(self) -> int:
        """Length of a parameter row."""
        return sum(part.size for part in self.parts)

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, size]``; ``calls`` is advanced."""
        return torch.cat([part.initial(keys, calls) for part in self.parts if part.size], dim=1)

    def values(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Action values ``[members, batch, actions]`` of observations ``[members, batch, size]``."""
        rows = self._split(parameters)
        if not self.dueling:
            return forward(rows[0], x)
        shared, value, advantage = rows
        features = relu_layers(shared, x)[-1] if shared else x
        advantages = forward(advantage, features)
        return forward(value, features) + advantages - advantages.mean(dim=-1, keepdim=True)

    def activations(self, parameters: Tensor, x: Tensor) -> list[Tensor]:
        """Outputs of the hidden layers, each ``[members, batch, width]``; two streams count as one last layer."""
        rows = self._split(parameters)
        if not self.dueling:
            return relu_layers(rows[0][:-1], x)
        shared = relu_layers(rows[0], x)
        features = shared[-1] if shared else x
        return [*shared, torch.cat([relu_layers(stream[:-1], features)[-1] for stream in rows[1:]], dim=-1)]

    def _split(self, parameters: Tensor) -> list[Weights]:
        """Layers of each part."""
        rows = torch.split(parameters, [part.size for part in self.parts], dim=1)
        return [part.unpack(row) if part.size else [] for part, row in zip(self.parts, rows, strict=True)]
