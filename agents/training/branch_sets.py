"""Branch sets: K updates of one state times M continuations, under common random numbers.

A *continuation* is one choice of all that is random from the state on: actions, environments, minibatches, evaluation
episodes. All updates of a state live through the same M continuations, so the gain of an update over the no-op is a
paired difference in each of them. Continuation 0 is the run's own future: its no-op is what the run becomes if nothing
is changed, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.training.tagged import Choices, discrete
from hpbench.agent import Branches
from hpbench.control.episode import EpisodeBatch
from hpbench.seeding import Stream

CONTINUED = (Stream.ACTION, Stream.ENVIRONMENT, Stream.MINIBATCH, Stream.EVALUATION, Stream.NOISE)
"""The streams that make a continuation. What is left out acts before the first segment only."""


@dataclass(frozen=True)
class BranchSet:
    """What the updates of one state came to.

    ``H`` is the horizon, or the number of decisions left if that is less.

    Args:
        values: hyperparameters in force after each update, float64 ``[K, hyperparameters]``.
        scores: normalised evaluation scores, float32 ``[K, M, H]``.
        errors: their standard errors over the evaluation episodes, float32 ``[K, M, H]``.
        training_scores: normalised mean returns of the training episodes of each segment, float32 ``[K, M, H]``; NaN
            where none ended.
        diverged: bool ``[K, M]``.
        steps, evaluation_steps: environment steps that all of it took.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float32]
    errors: NDArray[np.float32]
    training_scores: NDArray[np.float32]
    diverged: NDArray[np.bool_]
    steps: int
    evaluation_steps: int


def try_updates(
    states: EpisodeBatch, updates: Sequence[Sequence[Choices]], seeds: int, horizon: int, evaluation_episodes: int
) -> list[BranchSet]:
    """Try updates from the states of a batch. The batch stays as it is.

    Args:
        states: one member per state, none of them at its end; its reader takes tagged actions
            (:class:`~agents.training.tagged.TaggedReader`).
        updates: for each state, its updates.
        seeds: continuations.
        horizon: segments.
        evaluation_episodes: after each segment.

    Returns:
        One set per state.
    """
    members = list(range(states.members))
    copies = [states.spawn(members) for _ in range(seeds)]
    for salt, copied in enumerate(copies[1:], start=1):
        for stream in CONTINUED:
            copied.population.rekey(stream, salt)
    actions = [[discrete(choices) for choices in tried] for tried in updates] * seeds
    joined = copies[0].join(copies[1:])
    found = joined.branch(actions, horizon, evaluation_episodes=evaluation_episodes)
    return [_gather(states, m, found[m :: states.members]) for m in members]


def _gather(states: EpisodeBatch, member: int, found: Sequence[Branches]) -> BranchSet:
    """The continuations of one state as one table."""
    anchors = states.setting.tasks[member].anchors
    training = np.stack([branches.metrics["return_mean"] for branches in found], axis=1)
    return BranchSet(
        values=found[0].values,
        scores=np.stack([branches.scores for branches in found], axis=1).astype(np.float32),
        errors=np.stack([branches.errors for branches in found], axis=1).astype(np.float32),
        training_scores=np.vectorize(anchors.score, otypes=[np.float64])(training).astype(np.float32),
        diverged=np.stack([branches.diverged for branches in found], axis=1),
        steps=sum(branches.steps for branches in found),
        evaluation_steps=sum(branches.evaluation_steps for branches in found),
    )
