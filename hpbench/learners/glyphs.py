"""The network that reads NetHack: glyphs around the hero, the status line and the message, put together.

A small relative of the baseline of Küttler et al. 2020: embedded glyphs of a crop go through convolutions; the status
and the letters of the message through a dense layer each; a last dense layer joins the three. As in all networks here,
a member's parameters are one flat row: see :mod:`hpbench.learners.encoders`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hpbench.seeding import uniform
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITIONS,
    CONDITIONS_START,
    CROP,
    MESSAGE,
    MESSAGE_START,
    OBSERVATION_SIZE,
    STATUS,
    STATUS_START,
)
from hpbench.tasks.nethack_layout import (
    GLYPHS as GLYPH_COUNT,
)

KERNEL = 3
LETTERS = 128
"""Bytes of messages beyond ASCII count as the last letter."""


@dataclass(frozen=True)
class Glyphs:
    """An encoder of observations as :mod:`hpbench.tasks.nethack_layout` describes them.

    Args:
        features: width of what comes out.
        glyph_width: of a glyph's embedding.
        channels: of the two convolutions, 3 by 3 without padding; the first has stride 2.
        letter_width: of a letter's embedding.
        side: width of the dense layers of status and message.
    """

    features: int = 128
    glyph_width: int = 8
    channels: tuple[int, int] = (16, 16)
    letter_width: int = 4
    side: int = 32

    @property
    def observation_size(self) -> int:
        """Length of an observation, int16."""
        return OBSERVATION_SIZE

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces of a row, in order: the embeddings of glyphs and letters; then weights and biases of the
        convolutions ``(outputs, 3, 3, inputs)`` and of the dense layers ``(inputs, outputs)`` of status, message and
        all together."""
        first, second = self.channels
        rows, columns = (((size - KERNEL) // 2 + 1) - KERNEL + 1 for size in CROP)
        layers: list[tuple[int, ...]] = [
            (first, KERNEL, KERNEL, self.glyph_width),
            (second, KERNEL, KERNEL, first),
            (len(STATUS) + len(CONDITIONS), self.side),
            (MESSAGE * self.letter_width, self.side),
            (rows * columns * second + 2 * self.side, self.features),
        ]
        embeddings = [(GLYPH_COUNT + 1, self.glyph_width), (LETTERS, self.letter_width)]
        return embeddings + [shape for layer in layers for shape in (layer, (_outputs(layer),))]

    @property
    def parts(self) -> list[int]:
        """Lengths of the pieces in a parameter row."""
        return [math.prod(shape) for shape in self.shapes]

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, sum(parts)]`` on the CPU: embeddings uniform with variance 1, weights
        uniform after Glorot and Bengio 2010, zero biases. One call of the stream per piece that is not a bias;
        ``calls`` is advanced."""
        pieces = []
        for index, shape in enumerate(self.shapes):
            if len(shape) == 1:
                pieces.append(torch.zeros(len(keys), *shape))
                continue
            draws = uniform(keys, calls, math.prod(shape)).cpu()
            calls += 1
            fans = shape[0] + shape[-1] if len(shape) == 2 else KERNEL**2 * (shape[0] + shape[-1])
            limit = math.sqrt(3.0) if index < 2 else math.sqrt(6.0 / fans)
            pieces.append(limit * (2.0 * draws - 1.0))
        return torch.cat(pieces, dim=1)

    def activations(self, pieces: Sequence[Tensor], observations: Tensor) -> list[Tensor]:
        """What the network of one member makes of observations: the outputs of the convolutions ``[batch, channels,
        rows, columns]``, and the features ``[batch, features]``.

        Args:
            pieces: of the member's row, one-dimensional, of the lengths :attr:`parts`.
            observations: int16 ``[batch, OBSERVATION_SIZE]``.
        """
        glyphs, letters, *layers = (piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True))
        # Indexed, not ``functional.embedding``: its gradient took four times as long on a CPU.
        crop = glyphs[observations[:, :CELLS].long()].view(-1, *CROP, self.glyph_width)
        # The numbers of a cell are together in memory, in weights too: the layout that kernels are fastest with.
        first = functional.relu(functional.conv2d(crop.permute(0, 3, 1, 2), *_kernel(layers[0:2]), stride=2))
        second = functional.relu(functional.conv2d(first, *_kernel(layers[2:4])))
        message = letters[observations[:, MESSAGE_START:].long().clamp(0, LETTERS - 1)]
        parts = (
            second.permute(0, 2, 3, 1).flatten(1),
            functional.relu(torch.addmm(layers[5], status_features(observations), layers[4])),
            functional.relu(torch.addmm(layers[7], message.flatten(1), layers[6])),
        )
        joined = torch.addmm(layers[9], torch.cat(parts, dim=1), layers[8])
        return [first, second, functional.relu(joined)]


GLYPHS = Glyphs()
"""The encoder of that name."""


def status_features(observations: Tensor) -> Tensor:
    """The status line as numbers near [-1, 1], float32 ``[batch, len(STATUS) + len(CONDITIONS)]``."""
    scales = torch.tensor([status.scale for status in STATUS.values()], device=observations.device)
    log = torch.tensor([status.log for status in STATUS.values()], device=observations.device)
    status = observations[:, STATUS_START:CONDITIONS_START].float()
    status = torch.where(log, status.sign() * torch.log1p(status.abs()), status) / scales
    return torch.cat((status, observations[:, CONDITIONS_START:MESSAGE_START].float()), dim=1)


def _kernel(layer: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return layer[0].permute(0, 3, 1, 2), layer[1]


def _outputs(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 2 else shape[-1]
