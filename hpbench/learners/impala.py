"""The residual CNN that reads images, in two sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hpbench.learners import images_native
from hpbench.seeding import uniform

KERNEL = 3
BRIGHTEST = 255.0


@dataclass(frozen=True)
class Impala:
    """The residual CNN of IMPALA (Espeholt et al. 2018, figure 3 on the right), as Procgen's PPO has it (Cobbe et al.
    2020).

    Stages of a convolution, a max pooling that halves the image, and residual blocks of two convolutions; then a dense
    layer. All kernels are 3 by 3; ReLU everywhere.

    Args:
        channels: of each stage.
        blocks: residual blocks of each stage.
        features: width of the dense layer.
        stride: of the first convolution.
        side: pixels a side of the image, a power of 2.
        colours: of each pixel.
        threads: of the CPU, that share the images of a batch in :meth:`encode`; results do not depend on it.
    """

    channels: tuple[int, ...]
    blocks: int
    features: int
    stride: int = 1
    side: int = 64
    colours: int = 3
    threads: int = 1

    @property
    def observation_size(self) -> int:
        """Length of a flat image, uint8, as rows of pixels of colours."""
        return self.side * self.side * self.colours

    @property
    def summary_size(self) -> int:
        """Colours, and four more."""
        return self.colours + 4

    def summary(self, observation: Tensor) -> Tensor:
        """Statistics of images, on a scale from 0 to 1: mean of each colour; standard deviation of brightness; mean
        size of its step from a pixel to its neighbour; how much brighter the right half is than the left, and the lower
        than the upper. float32 ``[..., colours + 4]``."""
        pixels = observation.reshape(*observation.shape[:-1], self.side, self.side, self.colours).float() / BRIGHTEST
        brightness, half = pixels.mean(dim=-1), self.side // 2
        edges = [brightness.diff(dim=dim).abs().mean(dim=(-2, -1)) for dim in (-2, -1)]
        contrast = brightness.std(dim=(-2, -1), correction=0)
        right = (brightness[..., half:] - brightness[..., :half]).mean(dim=(-2, -1))
        lower = (brightness[..., half:, :] - brightness[..., :half, :]).mean(dim=(-2, -1))
        others = torch.stack((contrast, (edges[0] + edges[1]) / 2.0, right, lower), dim=-1)
        return torch.cat((pixels.mean(dim=(-3, -2)), others), dim=-1)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights, in their order in a row: convolutions ``(outputs, 3, 3, inputs)``, then the dense
        layer ``(inputs, outputs)``. Each is followed by its biases."""
        shapes: list[tuple[int, ...]] = []
        for inputs, outputs in itertools.pairwise((self.colours, *self.channels)):
            shapes.append((outputs, KERNEL, KERNEL, inputs))
            shapes += [(outputs, KERNEL, KERNEL, outputs)] * (2 * self.blocks)
        left = self.side // self.stride // 2 ** len(self.channels)
        return [*shapes, (left * left * self.channels[-1], self.features)]

    @property
    def parts(self) -> list[int]:
        """Lengths of the pieces in a parameter row: weights, biases, weights, biases, ..."""
        return [length for shape in self.shapes for length in (math.prod(shape), _outputs(shape))]

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, sum(parts)]`` on the CPU: weights uniform after Glorot and Bengio 2010,
        as in the published implementation; zero biases. One call of the stream per layer; ``calls`` is advanced."""
        pieces = []
        for shape in self.shapes:
            draws = uniform(keys, calls, math.prod(shape)).cpu()
            calls += 1
            field = KERNEL**2 if len(shape) > 2 else 1
            limit = math.sqrt(6.0 / (field * (shape[0] + shape[-1])))
            pieces += [limit * (2.0 * draws - 1.0), torch.zeros(len(keys), _outputs(shape))]
        return torch.cat(pieces, dim=1)

    def activations(self, pieces: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """What the network of one member makes of images: the output of each stage ``[batch, channels, side, side]``,
        and the features ``[batch, features]``.

        Args:
            pieces: of the member's row, one-dimensional, of the lengths :attr:`parts`.
            images: uint8 ``[batch, observation_size]``.
        """
        layers = iter(zip(pieces[:-2:2], pieces[1:-2:2], self.shapes[:-1], strict=True))

        def convolve(x: Tensor, stride: int = 1, scale: float | None = None) -> Tensor:
            weight, bias, shape = next(layers)
            # In memory the colours of a pixel are together, in weights too: the layout that kernels are fastest with.
            kernel = weight.view(shape).permute(0, 3, 1, 2)
            kernel = kernel if scale is None else kernel * scale
            return functional.conv2d(x, kernel.to(x.dtype), bias.to(x.dtype), stride, padding=1)

        x = images.view(-1, self.side, self.side, self.colours).permute(0, 3, 1, 2).to(_precision(images))
        outputs = []
        for stage in range(len(self.channels)):
            # The first layer's weights are scaled in place of the pixels: there are fewer of them.
            x = convolve(x, self.stride, 1.0 / BRIGHTEST) if stage == 0 else convolve(x)
            x = functional.max_pool2d(x, KERNEL, stride=2, padding=1)
            for _ in range(self.blocks):
                x = x + convolve(functional.relu(convolve(functional.relu(x))))
            outputs.append(x)
        return [*outputs, self._dense(pieces, functional.relu(x).permute(0, 2, 3, 1).flatten(1))]

    def encode(self, pieces: Sequence[Tensor], images: Tensor) -> Tensor:
        """The features alone, last of the :meth:`activations`; on a CPU from the native engine, if it is there."""
        if not images_native.suits(self, images):
            return self.activations(pieces, images)[-1]
        convolutions = torch.cat(tuple(pieces[:-2]))
        return self._dense(pieces, images_native.convolutions(self, convolutions, images, self.threads))

    def _dense(self, pieces: Sequence[Tensor], flat: Tensor) -> Tensor:
        weight, bias = (piece.to(flat.dtype) for piece in pieces[-2:])
        return functional.relu(torch.addmm(bias, flat, weight.view(self.shapes[-1]))).float()


def _outputs(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 2 else shape[-1]


def _precision(images: Tensor) -> torch.dtype:
    """bfloat16 on a GPU, which has units for it; on a CPU without them it was more than four times slower."""
    return torch.bfloat16 if images.is_cuda else torch.float32


IMPALA = Impala(channels=(16, 32, 32), blocks=2, features=256)
"""The published size."""
IMPALA_SMALL = Impala(channels=(8, 16, 16), blocks=1, features=128, stride=2)
"""For training on a CPU."""
