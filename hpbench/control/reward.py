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

import math
from collections.abc import Sequence

FLOOR = 0.0
"""The task's floor: the low anchor."""

INVALID_PENALTY = 0.01
"""Taken off the reward of every invalid text action."""


def floor(before: float) -> float:
    """Score of a member that diverges: :data:`FLOOR`, or the score before if that was even lower.

    The second half matters where a learner can be worse than the low anchor: breaking it must never pay.

    Args:
        before: the last score; NaN if there is none.
    """
    return FLOOR if math.isnan(before) else min(FLOOR, before)


def reward(kind: str, before: float, after: float, unchanged: float, decisions: int, invalid: bool) -> float:
    """Reward of one decision.

    Args:
        kind: ``progress``, ``auc`` or ``uplift``.
        before, after: scores before the action and after the segment; the floor if diverged.
        unchanged: score of the copy without the update; only read for ``uplift``.
        decisions: decisions of the whole meta-episode.
        invalid: whether the action was an invalid text.
    """
    earned = {"progress": after - before, "auc": after / decisions, "uplift": after - unchanged}[kind]
    return earned - INVALID_PENALTY if invalid else earned


def meta_score(scores: Sequence[float], decisions: int) -> float:
    """The score of a whole meta-episode: 1/2 of the final score plus 1/2 of the mean over all decisions.

    Args:
        scores: after each segment that was trained (without the one before training). If there are fewer than
            ``decisions``, the learner diverged: the last one is its floor, and counts for the rest.
        decisions: decisions of the whole meta-episode.
    """
    mean = (math.fsum(scores) + (decisions - len(scores)) * scores[-1]) / decisions
    return 0.5 * scores[-1] + 0.5 * mean
