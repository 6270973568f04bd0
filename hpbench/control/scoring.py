"""Evaluation scores, the raw material of rewards: complete episodes on their own random stream, normalised by the
task's anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpbench.control.reward import floor
from hpbench.learners.population import Population

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """One evaluation of some members.

    Args:
        scores: normalised by the anchors of the task that a member is on now; the floor where diverged. float64
            ``[members]``.
        returns: mean unscaled returns that belong to the scores, float64 ``[members]``.
        steps: environment steps taken, int64 ``[members]``.
    """

    scores: Floats
    returns: Floats
    steps: Ints


def evaluate(population: Population, episodes: int, before: Floats) -> Outcome:
    """Play evaluation episodes.

    Args:
        population: all of its members are evaluated.
        episodes: per member.
        before: the members' last scores; NaN before there is one.
    """
    evaluation = population.evaluate(episodes)
    returns: Floats = evaluation.returns.sum(axis=1) / episodes
    anchors = [task.anchors for task in population.tasks]
    scores = np.array([a.score(value) for a, value in zip(anchors, returns.tolist(), strict=True)])
    diverged = population.diverged
    if diverged.any():
        scores = np.where(diverged, floor(before), scores)
        worst = [a.low + score * (a.high - a.low) for a, score in zip(anchors, scores.tolist(), strict=True)]
        returns = np.where(diverged, worst, returns)
    return Outcome(scores, returns, evaluation.steps)


@dataclass(frozen=True)
class Counterfactual:
    """Copies that train on with unchanged hyperparameters while the originals are updated, for the ``uplift`` reward.

    Args:
        members: which members the copies are of; members whose update changes nothing need none.
        population: the copies, made before the update; empty populations do not exist, so None.
    """

    members: Ints
    population: Population | None

    @classmethod
    def fork(cls, population: Population, members: Sequence[int]) -> Counterfactual:
        """Copies of some members. They continue the same random streams as the originals (common random numbers)."""
        return cls(np.array(members, dtype=np.int64), population.fork(members) if members else None)

    def play(self, rollouts: int, episodes: int, before: Floats) -> tuple[Outcome, Ints]:
        """Train the segment and evaluate.

        Args:
            rollouts: of the segment.
            episodes: of the evaluation.
            before: last scores of the copied members.

        Returns:
            The copies' outcome, and the training steps they took.
        """
        if self.population is None:
            nothing = np.zeros(0)
            return Outcome(nothing, nothing, np.zeros(0, dtype=np.int64)), np.zeros(0, dtype=np.int64)
        start = self.population.steps
        self.population.train(rollouts)
        return evaluate(self.population, episodes, before), self.population.steps - start
