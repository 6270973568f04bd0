"""Metrics: one number per meta-episode.

A metric is a function ``f(episode) -> float`` plus a row in :data:`METRICS`; other distributions add theirs as entry
points of the group ``hpbench.metrics``. Higher is better, unless the function carries ``lower_is_better = True``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hpbench.evaluation.records import Member
from hpbench.registry import Registry

METRICS = Registry(
    "metric",
    {
        "meta_score": "hpbench.evaluation.metrics:meta_score",
        "final_score": "hpbench.evaluation.metrics:final_score",
        "mean_score": "hpbench.evaluation.metrics:mean_score",
        "best_score": "hpbench.evaluation.metrics:best_score",
        "steps_to_half": "hpbench.evaluation.metrics:steps_to_half",
        "steps_to_80": "hpbench.evaluation.metrics:steps_to_80",
    },
    group="hpbench.metrics",
)


@dataclass(frozen=True)
class Episode:
    """A finished meta-episode, as metrics see it.

    Args:
        scores: normalised evaluation scores, float64 ``[decisions + 1]``; index 0 is before any training. After a
            divergence, all remaining entries are the floor that the last recorded score is.
        steps: environment steps at each score, int64 ``[decisions + 1]``, as planned.
        member: the whole trace.
    """

    scores: NDArray[np.float64]
    steps: NDArray[np.int64]
    member: Member


Metric = Callable[[Episode], float]
_F = TypeVar("_F", bound=Callable[[Episode], float])


def episode_of(member: Member, decisions: int, steps: int) -> Episode:
    """The episode of a member.

    Args:
        decisions, steps: as planned for the whole meta-episode.
    """
    missing = decisions + 1 - len(member.scores)
    scores = np.array([*member.scores, *member.scores[-1:] * missing], dtype=np.float64)
    return Episode(scores, np.arange(decisions + 1) * (steps // decisions), member)


def load_metric(name: str) -> Metric:
    """The metric of that name, or behind an import path ``package.module:function``.

    Raises:
        UnknownName: if there is none.
    """
    metric: Metric = METRICS.load(name)
    return metric


def lower_is_better(metric: _F) -> _F:
    """Mark a metric whose smaller values are better."""
    metric.lower_is_better = True  # type: ignore[attr-defined]
    return metric


def is_lower_better(metric: Metric) -> bool:
    """Whether smaller values of this metric are better."""
    return bool(getattr(metric, "lower_is_better", False))


def meta_score(episode: Episode) -> float:
    """Half the final score, half the mean score over decisions: good at the end, and soon."""
    return 0.5 * final_score(episode) + 0.5 * mean_score(episode)


def final_score(episode: Episode) -> float:
    """Score after the last decision."""
    return float(episode.scores[-1])


def mean_score(episode: Episode) -> float:
    """Mean score over decisions; the score before any training is no one's doing and does not count."""
    return float(episode.scores[1:].mean())


def best_score(episode: Episode) -> float:
    """Highest score after any decision."""
    return float(episode.scores[1:].max())


def steps_to_threshold(episode: Episode, threshold: float) -> float:
    """Environment steps until the score first reaches ``threshold``; the whole budget if it never does.

    Counting a run that never gets there with its budget keeps means finite (the *restricted mean time* of survival
    analysis).
    """
    reached = np.flatnonzero(episode.scores >= threshold)
    return float(episode.steps[reached[0]] if len(reached) else episode.steps[-1])


@lower_is_better
def steps_to_half(episode: Episode) -> float:
    """Environment steps until the score reaches 0.5."""
    return steps_to_threshold(episode, 0.5)


@lower_is_better
def steps_to_80(episode: Episode) -> float:
    """Environment steps until the score reaches 0.8."""
    return steps_to_threshold(episode, 0.8)
