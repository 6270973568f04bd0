"""What a meta-agent is rewarded for. Scores are normalised evaluation scores: 0 and 1 are the task's anchors.

``progress``
    The score now minus the score before the action, undiscounted. Over a meta-episode it adds up to the final score
    minus the score before training. Never ``max(0, change)``: that could be earned again and again by breaking and
    repairing the learner.
``auc``
    The score divided by the number of decisions. Over a meta-episode it adds up to the mean score.
``uplift``
    The score minus the score of a copy that trained through the same segment on the same random streams with unchanged
    hyperparameters. An action that changes nothing earns exactly 0.

A diverged learner scores the :func:`floor` in the segment in which it diverges and in all that would have followed. The
meta-episode ends there: ``progress`` pays the floor minus the last score, ``auc`` pays the floor's share once and
nothing more (nothing at all where the floor is 0), ``uplift`` pays the floor minus the copy's score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR = 0.0
"""The task's floor: the low anchor."""

INVALID_PENALTY = 0.01
"""Taken off the reward of every invalid text action."""


def floor(before: Floats) -> Floats:
    """Score of members that diverge: :data:`FLOOR`, or the score before where that was even lower.

    The second half matters where a learner can be worse than the low anchor: breaking it must never pay.
    """
    return np.fmin(FLOOR, before)


def rewards(
    kind: str, before: Floats, after: Floats, unchanged: Floats, decisions: int, invalid: NDArray[np.bool_]
) -> Floats:
    """Rewards of one decision, float64 ``[members]``.

    Args:
        kind: ``progress``, ``auc`` or ``uplift``.
        before, after: scores before the action and after the segment; the floor where diverged.
        unchanged: scores of the copies without the update; only read for ``uplift``.
        decisions: decisions of the whole meta-episode.
        invalid: whose action was an invalid text.
    """
    earned: Floats = {"progress": after - before, "auc": after / decisions, "uplift": after - unchanged}[kind]
    return earned - INVALID_PENALTY * invalid


def meta_score(scores: Floats, decisions: int) -> float:
    """The score of a whole meta-episode: 1/2 of the final score plus 1/2 of the mean over all decisions.

    Args:
        scores: after each segment that was trained (without the one before training), float64 ``[segments]``. If there
            are fewer than ``decisions``, the learner diverged: the last one is its floor, and counts for the rest.
        decisions: decisions of the whole meta-episode.
    """
    full = np.full(decisions, scores[-1])
    full[: len(scores)] = scores
    return float(0.5 * full[-1] + 0.5 * full.mean())
