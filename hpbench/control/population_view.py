"""What a member of the population game sees of the others, and what it may do: its observation and its action."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hpbench.control.action import ActionReader
from hpbench.control.observation import Schema
from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.hyperparameter import MULTIPLIERS

LOW, HIGH = -1.0, 2.0
"""Bounds of the scores in observations, those of the feature ``score``; what lies outside is clipped."""

COLUMNS = ("score", "known", "rank", "running", "own")
"""What an observation says of every member, in order."""


@dataclass(frozen=True)
class Standing:
    """What is known of one member.

    Args:
        score: normalised mean return of the last segment's *training* episodes; NaN if none ended.
        rank: 1 is the highest score. Equal scores share a rank; unknown scores and ended members come last.
        running: False once it has diverged.
        own: whether it is the member that observes.
    """

    score: float
    rank: int
    running: bool
    own: bool = False


def standings(scores: Sequence[float], running: Sequence[bool]) -> list[Standing]:
    """All members, ranked.

    Args:
        scores: of the last segment, NaN where unknown.
        running: which members have not ended.
    """
    keys = [
        score if alive and not math.isnan(score) else -math.inf for score, alive in zip(scores, running, strict=True)
    ]
    ranks = [1 + sum(other > key for other in keys) for key in keys]
    return [Standing(*row) for row in zip(scores, ranks, running, strict=True)]


class PopulationSchema:
    """Layout of an observation: the vector of a single meta-episode, then :data:`COLUMNS` of every member in turn.

    ``score`` is linear from -1 (score -1) to 1 (score 2), 0 where unknown; ``known`` is its mask; ``rank`` goes
    linearly from 1 (the best) to -1 (last of all); ``running`` and ``own`` are 0 or 1.

    Args:
        single: schema of one member's own features.
        members: number of members, at least 2.
    """

    def __init__(self, single: Schema, members: int) -> None:
        self.single, self.members = single, members
        self.hyperparameters = single.hyperparameters

    def __len__(self) -> int:
        """Numbers in an observation."""
        return 2 * len(self.single) + len(COLUMNS) * self.members

    def box(self) -> spaces.Box:
        """Space of an observation: float32 ``[len(schema)]``."""
        own, row = self.single.box(), np.array([-1.0, 0.0, -1.0, 0.0, 0.0], dtype=np.float32)
        low = np.concatenate((own.low, np.tile(row, self.members)))
        return spaces.Box(low, np.ones_like(low), dtype=np.float32)

    def encode(self, vectors: Sequence[NDArray[np.float32]], rows: Sequence[Standing]) -> list[NDArray[np.float32]]:
        """Observations of all members, float32 ``[len(schema)]`` each.

        Args:
            vectors: of the single meta-episodes.
            rows: one per member.
        """
        table = np.array([self._row(row) for row in rows], dtype=np.float32)
        observations = []
        for m, vector in enumerate(vectors):
            table[:, -1] = np.arange(self.members) == m
            observations.append(np.concatenate((vector, table.ravel())))
        return observations

    def values(self, observation: Any) -> dict[str, float]:
        """The member's own features by name, as :meth:`Schema.values`.

        Raises:
            InvalidConfiguration: for an array of another shape.
        """
        return self.single.values(self._checked(observation)[: 2 * len(self.single)])

    def standings(self, observation: Any) -> list[Standing]:
        """What an observation says of the members, in order. Scores are clipped to [-1, 2], in float32 precision.

        Raises:
            InvalidConfiguration: for an array of another shape.
        """
        table = self._checked(observation)[2 * len(self.single) :].astype(np.float64).reshape(self.members, -1)
        return [
            Standing(
                score=LOW + (score + 1.0) / 2.0 * (HIGH - LOW) if known > 0.5 else math.nan,
                rank=1 + round((1.0 - rank) / 2.0 * (self.members - 1)),
                running=running > 0.5,
                own=own > 0.5,
            )
            for score, known, rank, running, own in table.tolist()
        ]

    def _row(self, standing: Standing) -> list[float]:
        known = not math.isnan(standing.score)
        inside = min(max(standing.score, LOW), HIGH) if known else (LOW + HIGH) / 2.0
        score = 2.0 * (inside - LOW) / (HIGH - LOW) - 1.0
        return [score, known, 1.0 - 2.0 * (standing.rank - 1) / (self.members - 1), standing.running, 0.0]

    def _checked(self, observation: Any) -> NDArray[np.float32]:
        if not isinstance(observation, np.ndarray) or observation.shape != (len(self),):
            raise InvalidConfiguration(f"expected an observation of the population: float32, shape ({len(self)},)")
        return observation


class PopulationReader:
    """Splits an action into the update of the hyperparameters and the member to copy from.

    Args:
        updates: reader of the update alone.
        hot: number of hot hyperparameters.
        members: number of members.
        flat: one array instead of a dictionary: for ``discrete`` the update's choices and then ``copy_from``; for
            ``delta`` and ``absolute`` the update and then one number per member: the largest names the member to
            copy from, and a tie with the own number means none.
    """

    def __init__(self, updates: ActionReader, hot: int, members: int, flat: bool) -> None:
        self._updates, self._hot, self._members, self._flat = updates, hot, members, flat
        self._discrete = isinstance(updates.space(), spaces.MultiDiscrete)
        if flat and isinstance(updates.space(), spaces.Text):
            raise InvalidConfiguration("flat=True needs an action of numbers: delta, absolute or discrete")

    def space(self) -> gym.Space[Any]:
        """A new space object, with its own random state."""
        if not self._flat:
            return spaces.Dict({"copy_from": spaces.Discrete(self._members), "update": self._updates.space()})
        if self._discrete:
            return spaces.MultiDiscrete([len(MULTIPLIERS)] * self._hot + [self._members])
        return spaces.Box(-1.0, 1.0, (self._hot + self._members,), np.float32)

    def read(self, member: int, action: Any) -> tuple[Any, int]:
        """The update, not yet checked, and the index of the member to copy from (``member`` itself: none).

        Raises:
            InvalidAction: for something that is not such an action.
        """
        if not self._flat:
            if not hasattr(action, "keys") or set(action.keys()) != {"update", "copy_from"}:
                raise InvalidAction(f"member {member}: expected a dictionary with 'update' and 'copy_from'")
            return action["update"], self._index(member, action["copy_from"])
        size = self._hot + (1 if self._discrete else self._members)
        if not isinstance(action, np.ndarray) or action.shape != (size,):
            raise InvalidAction(f"member {member}: expected an array of shape ({size},)")
        update, rest = action[: self._hot], action[self._hot :]
        if self._discrete:
            return update, self._index(member, rest[0])
        if not np.isfinite(rest).all():
            raise InvalidAction(f"member {member}: the numbers that choose copy_from must be finite")
        return update, member if rest[member] == rest.max() else int(rest.argmax())

    def _index(self, member: int, copy_from: Any) -> int:
        try:
            index = operator.index(copy_from)
        except TypeError:
            index = -1
        if not 0 <= index < self._members or isinstance(copy_from, bool):
            raise InvalidAction(
                f"member {member}: copy_from must be a whole number from 0 to {self._members - 1}, got {copy_from!r}"
            )
        return index
