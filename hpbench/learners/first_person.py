"""The residual CNN for images whose lowest rows tell the status of the player: Procgen's networks, unchanged."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hpbench.learners.impala import IMPALA, IMPALA_SMALL, Impala


@dataclass(frozen=True)
class FirstPerson(Impala):
    """The network of :class:`~hpbench.learners.impala.Impala`, status and all; only :meth:`summary` knows of it."""

    @property
    def summary_size(self) -> int:
        """Colours, two more, and the status, which is the colour of the last pixel."""
        return self.colours + 2 + self.colours

    def summary(self, observation: Tensor) -> Tensor:
        """Mean of each colour, standard deviation of brightness, mean size of its step from a pixel to its neighbour,
        all on a scale from 0 to 1 and of the whole image; then the status as it is, 0 to 255. float32 ``[...,
        2 * colours + 2]``."""
        statistics = super().summary(observation)[..., : self.colours + 2]
        return torch.cat((statistics, observation[..., -self.colours :].float()), dim=-1)


FIRST_PERSON = FirstPerson(**asdict(IMPALA))
"""The published size."""
FIRST_PERSON_SMALL = FirstPerson(**asdict(IMPALA_SMALL))

"""For training on a CPU."""
