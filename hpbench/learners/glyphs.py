"""The network that reads NetHack: glyphs around the hero, the status line and the message, put together.

A small relative of the baseline of Küttler et al. 2020: the glyphs of a crop, the status and the letters of the message
each have a layer of their own, and a last one joins the three. The crop is read in patches of 3 by 3 cells, a
convolution whose stride is its width: that is one matrix product, which took a third of the time of overlapping
convolutions. As in all networks here, a member's parameters are one flat row: see :mod:`hpbench.learners.encoders`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hpbench.learners import glyphs_acting, glyphs_native
from hpbench.learners.glyphs_acting import PATCH
from hpbench.seeding import uniform
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITIONS,
    CONDITIONS_START,
    MESSAGE,
    MESSAGE_START,
    OBSERVATION_SIZE,
    STATUS,
    STATUS_START,
)
from hpbench.tasks.nethack_layout import (
    GLYPHS as GLYPH_COUNT,
)

LETTERS = 128
"""Bytes of messages beyond ASCII count as the last letter."""
_ORDER = torch.from_numpy(glyphs_acting.ORDER)
_SCALES, _LOG = torch.from_numpy(glyphs_acting.SCALES), torch.from_numpy(glyphs_acting.LOG)


@dataclass(frozen=True)
class Glyphs:
    """An encoder of observations as :mod:`hpbench.tasks.nethack_layout` describes them.

    Args:
        features: width of what comes out.
        glyph_width: of a glyph's embedding.
        channels: what is made of each patch.
        letter_width: of a letter's embedding.
        side: width of the dense layers of status and message.
        threads: of the CPU, that share the observations of a batch in :meth:`encode`; results do not depend on it.
    """

    features: int = 64
    glyph_width: int = 8
    channels: int = 16
    letter_width: int = 4
    side: int = 32
    threads: int = 1

    @property
    def observation_size(self) -> int:
        """Length of an observation, int16."""
        return OBSERVATION_SIZE

    @functools.cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces of a row, in order: the embeddings of glyphs and letters; then weights ``(inputs,
        outputs)`` and biases of the layers of patches, status, message and all together."""
        layers = [
            (PATCH * PATCH * self.glyph_width, self.channels),
            (len(STATUS) + len(CONDITIONS), self.side),
            (MESSAGE * self.letter_width, self.side),
            (CELLS // PATCH**2 * self.channels + 2 * self.side, self.features),
        ]
        embeddings = [(GLYPH_COUNT + 1, self.glyph_width), (LETTERS, self.letter_width)]
        return [*embeddings, *(shape for layer in layers for shape in (layer, layer[1:]))]

    @functools.cached_property
    def parts(self) -> list[int]:
        """Lengths of the pieces in a parameter row."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def summary_size(self) -> int:
        """All of it: text observations say in words what is in it."""
        return self.observation_size

    def summary(self, observation: Tensor) -> Tensor:
        """The observation itself, float32 ``[..., observation_size]``."""
        return observation.float()

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
            limit = math.sqrt(3.0) if index < 2 else math.sqrt(6.0 / sum(shape))
            pieces.append(limit * (2.0 * draws - 1.0))
        return torch.cat(pieces, dim=1)

    def activations(self, pieces: Sequence[Tensor], observations: Tensor) -> list[Tensor]:
        """What the network of one member makes of observations: the outputs of the patches ``[batch, channels,
        patches]``, and the features ``[batch, features]``.

        Args:
            pieces: of the member's row, one-dimensional, of the lengths :attr:`parts`.
            observations: int16 ``[batch, OBSERVATION_SIZE]``.
        """
        glyphs, letters, *layers = (piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True))
        cells = observations.index_select(1, _ORDER.to(observations.device)).long()
        seen = _rows(glyphs, cells).view(len(cells), -1, PATCH * PATCH * self.glyph_width)
        patches = _layer(seen, *layers[0:2])
        message = _rows(letters, observations[:, MESSAGE_START:].long().clamp(0, LETTERS - 1)).flatten(1)
        parts = (
            patches.flatten(1),
            _layer(status_features(observations), *layers[2:4]),
            _layer(message, *layers[4:6]),
        )
        return [patches.transpose(1, 2), _layer(torch.cat(parts, dim=1), *layers[6:8])]

    def encode(self, pieces: Sequence[Tensor], observations: Tensor) -> Tensor:
        """The features alone, last of the :meth:`activations`; on a CPU from the native engine, if it is there."""
        if not glyphs_native.suits(self, observations):
            return self.activations(pieces, observations)[-1]
        return glyphs_native.features(self, torch.cat(tuple(pieces)), observations)


def _rows(table: Tensor, places: Tensor) -> Tensor:
    """Rows of an embedding, ``[batch, count, width]``: of three ways to the same numbers, the fastest on a CPU, where
    indexing takes four times as long, and so do the gradients of ``functional.embedding``. On a GPU, only the gradients
    of indexing are added up in the same order every time."""
    if places.is_cuda:
        return table[places]
    if not table.requires_grad:
        return functional.embedding(places, table)
    return table.index_select(0, places.reshape(-1)).view(*places.shape, -1)


GLYPHS = Glyphs()
"""The encoder of that name."""


def status_features(observations: Tensor) -> Tensor:
    """The status line as numbers near [-1, 1], float32 ``[batch, len(STATUS) + len(CONDITIONS)]``."""
    scales, log = _SCALES.to(observations.device), _LOG.to(observations.device)
    status = observations[:, STATUS_START:CONDITIONS_START].float()
    status = torch.where(log, status.sign() * torch.log1p(status.abs()), status) / scales
    return torch.cat((status, observations[:, CONDITIONS_START:MESSAGE_START].float()), dim=1)


def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.relu(functional.linear(x, weight.T, bias))
