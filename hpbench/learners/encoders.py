"""Networks that read more than a few numbers: an encoder before the actor and the critic, who share it.

As in all networks here, a member's parameters are one flat row, so that fork, Adam and snapshots need not know what
they are. The members' encoders run one after the other: on a CPU, four members' convolutions as one in groups of
PyTorch's trained at a third of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.learners import images_policy
from hpbench.learners.glyphs import Glyphs
from hpbench.learners.impala import Impala
from hpbench.learners.networks import MLP, Policy
from hpbench.registry import Registry


class Encoder(Protocol):
    """From one member's observations to features: a frozen dataclass of sizes."""

    @property
    def observation_size(self) -> int:
        """Length of the flat observations."""
        ...

    @property
    def features(self) -> int:
        """How many it makes of each."""
        ...

    @property
    def parts(self) -> list[int]:
        """Lengths of the pieces in a parameter row: weights, biases, weights, biases, ..."""
        ...

    @property
    def summary_size(self) -> int:
        """How many numbers :meth:`summary` gives."""
        ...

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, sum(parts)]`` on the CPU; ``calls`` is advanced."""
        ...

    def summary(self, observation: Tensor) -> Tensor:
        """A few numbers on each observation for people and language models, who cannot read it whole: float32 ``[...,
        summary_size]`` from ``[..., observation_size]``."""
        ...

    def activations(self, pieces: Sequence[Tensor], observation: Tensor) -> list[Tensor]:
        """Outputs of the layers whose plasticity is worth watching, ``[batch, width, ...]``, and last the features,
        float32 ``[batch, features]``.

        Args:
            pieces: of one member's row, one-dimensional, of the lengths :attr:`parts`.
            observation: ``[batch, observation_size]``, in the task's dtype.
        """
        ...

    def encode(self, pieces: Sequence[Tensor], observation: Tensor) -> Tensor:
        """The features alone, as fast as they can be had: float32 ``[batch, features]``, last of the
        :meth:`activations` up to rounding."""
        ...


ENCODERS = Registry(
    "encoder",
    {
        "first-person": "hpbench.learners.first_person:FIRST_PERSON",
        "first-person-small": "hpbench.learners.first_person:FIRST_PERSON_SMALL",
        "glyphs": "hpbench.learners.glyphs:GLYPHS",
        "impala": "hpbench.learners.impala:IMPALA",
        "impala-small": "hpbench.learners.impala:IMPALA_SMALL",
    },
)
"""By name, which tasks give. ``mlp`` stands for none: actor and critic read the observation themselves."""


def make_encoder(name: str, observation_size: int, threads: int = 1) -> Encoder:
    """The encoder of that name.

    Args:
        name: one of :data:`ENCODERS`.
        observation_size: of the task.
        threads: of the CPU that it may use; results do not depend on it.

    Raises:
        UnknownName: if there is none.
        InvalidConfiguration: if it is for other observations.
    """
    encoder: Encoder = ENCODERS.load(name)
    size = encoder.observation_size
    if size != observation_size:
        raise InvalidConfiguration(
            f"encoder={name!r} reads {size} numbers, the task's observations have {observation_size}"
        )
    return replace(encoder, threads=threads) if isinstance(encoder, Impala | Glyphs) else encoder


@dataclass(frozen=True)
class EncodedActorCritic(Policy):
    """Actor and critic as one layer each on the features of an encoder that they share; all in one row, the encoder
    first."""

    encoder: Encoder

    @classmethod
    def build(cls, encoder: Encoder, actions: int, discrete: bool) -> EncodedActorCritic:
        """Networks for that many choices (discrete) or dimensions (continuous)."""
        actor = MLP((encoder.features, actions), output_gain=0.01)
        return cls(actor, MLP((encoder.features, 1), output_gain=1.0), 0 if discrete else actions, encoder)

    @property
    def size(self) -> int:
        """Length of a parameter row."""
        return sum(self._parts)

    @property
    def _parts(self) -> list[int]:
        return [*self.encoder.parts, *self.actor.parts, *self.critic.parts, self.log_std]

    def initial(self, keys: Tensor, calls: Tensor) -> Tensor:
        """Fresh parameters, float32 ``[members, size]`` on the CPU; ``calls`` is advanced."""
        parts = [network.initial(keys, calls) for network in (self.encoder, self.actor, self.critic)]
        return torch.cat((*parts, torch.zeros(len(keys), self.log_std)), dim=1)

    def activations(self, parameters: Tensor, observation: Tensor) -> list[Tensor]:
        """The encoder's activations ``[members, batch, width]``: of an image's channels, their means over it.

        Args:
            parameters: ``[members, size]``.
            observation: ``[members, batch, observation_size]``.
        """
        of_members: list[Sequence[Tensor]] = []
        for row, images in zip(parameters, observation, strict=True):
            if not row.requires_grad and images_policy.suits(self, images):
                of_members.append(images_policy.activations(self, row, images))
                continue
            layers = self.encoder.activations(self._pieces(row)[: len(self.encoder.parts)], images)
            of_members.append([layer.float().unsqueeze(2).flatten(2).mean(dim=2) for layer in layers])
        return [torch.stack(layer) for layer in zip(*of_members, strict=True)]

    def outputs(self, parameters: Tensor, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actor output ``[members, batch, outputs]``, value ``[members, batch]``, log standard deviations ``[members,
        1, log_std]``. Arguments as of :meth:`activations`."""
        return self.looking(parameters)(observation)

    def looking(self, parameters: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        """:meth:`outputs` with these parameters, for several observations one after the other."""
        members, encoded = [self._pieces(row) for row in parameters], len(self.encoder.parts)
        log_std = parameters[:, None, self.size - self.log_std :]

        def look(observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            outputs, values = [], []
            for row, pieces, seen in zip(parameters, members, observation, strict=True):
                if not row.requires_grad and images_policy.suits(self, seen):
                    output, value = images_policy.outputs(self, row, seen)
                    outputs.append(output)
                    values.append(value)
                    continue
                features = self.encoder.encode(pieces[:encoded], seen)
                actor, actor_bias, critic, critic_bias, _ = pieces[encoded:]
                outputs.append(torch.addmm(actor_bias, features, actor.view(self.actor.sizes)))
                values.append(torch.addmm(critic_bias, features, critic.view(self.critic.sizes))[:, 0])
            return torch.stack(outputs), torch.stack(values), log_std

        return look

    def _pieces(self, row: Tensor) -> list[Tensor]:
        """The parts of a copy of a member's row: how matrices are multiplied depends on where in memory they begin, and
        a row among others begins elsewhere than a row alone."""
        return list(torch.split(row.clone(), self._parts))
