"""Relu networks of a whole population, for learners with a replay memory: flat rows, every layer one batched product.

A row holds the layers one after the other, each as its weights ``[inputs, outputs]`` and then its biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpbench.learners.networks import Weights
from hpbench.seeding import uniform


@dataclass(frozen=True)
class ReluMLP:
    """A relu multilayer perceptron with a linear last layer.

    Args:
        sizes: inputs, hidden widths, outputs.
    """

    sizes: tuple[int, ...]

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every layer."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def size(self) -> int:
        """Length of a parameter row."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers)

    def unpack(self, rows: Tensor) -> Weights:
        """Layers of parameter rows ``[members, size]``."""
        lengths = [length for inputs, outputs in self.layers for length in (inputs * outputs, outputs)]
        pieces = torch.split(rows, lengths, dim=1)
        return [
            (pieces[2 * i].view(-1, inputs, outputs), pieces[2 * i + 1].unsqueeze(1))
            for i, (inputs, outputs) in enumerate(self.layers)
        ]

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, size]``: all uniform in ``±1 / sqrt(inputs)``, PyTorch's own choice.

        One call of the stream per layer; ``calls`` is advanced.
        """
        pieces = []
        for inputs, outputs in self.layers:
            pieces.append((2.0 * uniform(keys, calls, (inputs + 1) * outputs) - 1.0) / math.sqrt(inputs))
            calls += 1
        return torch.cat(pieces, dim=1)


def relu_layers(weights: Weights, x: Tensor) -> list[Tensor]:
    """Relu of each layer's output in turn, each ``[members, batch, width]``."""
    activations = []
    for weight, bias in weights:
        x = torch.relu(torch.baddbmm(bias, x, weight))
        activations.append(x)
    return activations


def forward(weights: Weights, x: Tensor) -> Tensor:
    """Output of a network with at least one hidden layer: ``[members, batch, inputs] -> [members, batch, outputs]``."""
    weight, bias = weights[-1]
    return torch.baddbmm(bias, relu_layers(weights[:-1], x)[-1], weight)
