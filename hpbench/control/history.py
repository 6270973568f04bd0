"""What happened in the meta-episodes of a batch so far, and the raw features that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hpbench.control.observation import UPDATES, Floats, Schema, UnitScale
from hpbench.errors import SnapshotError
from hpbench.tasks.base import Anchors

if TYPE_CHECKING:
    from hpbench.control.text import Snippet

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_WINDOW = np.arange(UPDATES + 1)
# Features that are computed one by one, in the order of FeatureBuilder.raw.
_SINGLE = (
    "budget_fraction",
    "decisions_left",
    "score",
    "return_slope_1",
    "return_slope_3",
    "return_best",
    "return_from_best",
    "decisions_since_best",
    "action_invalid",
    "action_clipped",
)
_FROM_METRICS = ("return_mean", "return_sem", "episode_length", "success_rate")
_METRIC_GROUPS = ("losses", "optimiser", "plasticity")


@dataclass
class History:
    """Plain arrays with a leading member axis; indexing them forks a member's past.

    The time axes of ``training_scores`` and ``units`` begin with ``UPDATES`` rows of NaN, so that a look back never
    leaves the array: decision ``t`` stands in row ``UPDATES + t``.

    Args:
        decision: decisions done.
        scores: normalised evaluation score by decision, ``[members, decisions + 1]``; NaN in the future.
        evaluation_return: mean unscaled return of the last evaluation.
        training_scores: normalised mean return of the segments' training episodes, ``[members, UPDATES + decisions +
            1]``.
        metrics: last segment's metrics in the schema's order, ``[members, metrics]``.
        units: hyperparameters in unit scale by decision, ``[members, UPDATES + decisions + 1, hyperparameters]``.
        best_return, best_score, best_decision: the best segment by training return; NaN and 0 before there is one.
        evaluation_steps, counterfactual_steps, counterfactual_evaluation_steps: environment steps so far, beyond
            training.
        invalid: invalid actions so far.
        last_invalid: whether the last action was one.
        clipped: hyperparameters that the last action would have moved past a bound, ``[members, hyperparameters]``.
        shifted: whether the task has changed.
        diverged: whether the learner has diverged, which ended the meta-episode.
    """

    decision: Ints
    scores: Floats
    evaluation_return: Floats
    training_scores: Floats
    metrics: Floats
    units: Floats
    best_return: Floats
    best_score: Floats
    best_decision: Ints
    evaluation_steps: Ints
    counterfactual_steps: Ints
    counterfactual_evaluation_steps: Ints
    invalid: Ints
    last_invalid: Bools
    clipped: Bools
    shifted: Bools
    diverged: Bools

    @classmethod
    def empty(cls, members: int, decisions: int, metrics: int, hyperparameters: int) -> Self:
        """Before the first evaluation."""

        def unknown(*shape: int) -> Floats:
            return np.full((members, *shape), np.nan)

        def zeros() -> Ints:
            return np.zeros(members, dtype=np.int64)

        def no(*shape: int) -> Bools:
            return np.zeros((members, *shape), dtype=np.bool_)

        rows = UPDATES + decisions + 1
        return cls(
            decision=zeros(),
            scores=unknown(decisions + 1),
            evaluation_return=unknown(),
            training_scores=unknown(rows),
            metrics=unknown(metrics),
            units=unknown(rows, hyperparameters),
            best_return=unknown(),
            best_score=unknown(),
            best_decision=zeros(),
            evaluation_steps=zeros(),
            counterfactual_steps=zeros(),
            counterfactual_evaluation_steps=zeros(),
            invalid=zeros(),
            last_invalid=no(),
            clipped=no(hyperparameters),
            shifted=no(),
            diverged=no(),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of all fields by name."""
        return {field.name: getattr(self, field.name).copy() for field in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], like: Self) -> Self:
        """Copies of arrays that have the fields, shapes and types of ``like``.

        Raises:
            SnapshotError: if they have not.
        """
        wanted = like.arrays()
        if arrays.keys() != wanted.keys():
            raise SnapshotError(f"history fields differ: {sorted(arrays.keys() ^ wanted.keys())}")
        for name, array in arrays.items():
            shape, dtype = wanted[name].shape, wanted[name].dtype
            if array.shape != shape or array.dtype != dtype:
                raise SnapshotError(f"history {name}: {array.shape} {array.dtype}, need {shape} {dtype}")
        return cls(**{name: array.copy() for name, array in arrays.items()})

    def take(self, members: Ints) -> Self:
        """Independent copies of some members, in that order."""
        return type(self)(**{name: array[members] for name, array in self.arrays().items()})


class FeatureBuilder:
    """Keeps the training side of a history up to date, and turns it into the schema's raw features.

    Args:
        schema: of the learner.
        anchors: of each member's starting task. Observations keep them when the task shifts: agents are not told.
    """

    def __init__(self, schema: Schema, anchors: list[Anchors]) -> None:
        self._low = np.array([a.low for a in anchors])
        self._range = np.array([a.high - a.low for a in anchors])
        self._unit = UnitScale(schema.hyperparameters)
        self.metric_names = [
            feature.name
            for feature in schema.features
            if feature.name in _FROM_METRICS or feature.group in _METRIC_GROUPS
        ]
        self._return = self.metric_names.index("return_mean")
        self._snippet_size = len(schema.group("snippet"))
        # raw() lines up blocks of features; this says where each of the schema's features stands in them.
        updates = [f"update_{k}_{name}" for k in range(1, UPDATES + 1) for name in schema.hyperparameters]
        blocks = [
            *_SINGLE,
            *self.metric_names,
            *(schema.features[column].name for column in schema.group("snippet")),
            *(f"hp_{name}" for name in schema.hyperparameters),
            *updates,
            *(f"effect_{k}" for k in range(1, UPDATES + 1)),
        ]
        self._order = np.array([blocks.index(feature.name) for feature in schema.features])

    def record_values(self, history: History, rows: Ints, values: Floats) -> None:
        """Write the values in force, float64 ``[members, hyperparameters]``, at the members' current decision."""
        history.units[rows, UPDATES + history.decision[rows]] = self._unit(values[rows])

    def record_segment(self, history: History, rows: Ints, metrics: Mapping[str, Floats]) -> None:
        """Write the metrics of the segment that ended at the members' current decision.

        What a learner does not measure is unknown.
        """
        missing = np.full(len(history.decision), np.nan)
        table = np.array([metrics.get(name, missing) for name in self.metric_names]).T[rows]
        decision, returns = history.decision[rows], table[:, self._return]
        history.metrics[rows] = table
        scores = (returns - self._low[rows]) / self._range[rows]
        history.training_scores[rows, UPDATES + decision] = scores
        better = np.isfinite(returns) & ~(returns <= history.best_return[rows])
        improved = rows[better]
        history.best_return[improved] = returns[better]
        history.best_score[improved] = scores[better]
        history.best_decision[improved] = decision[better]

    def raw(self, history: History, decisions: int, snippet: Snippet | None) -> Floats:
        """Raw features float64 ``[members, features]``, NaN where unknown; hyperparameters in unit scale.

        Args:
            history: of all members.
            decisions: decisions of the whole meta-episode.
            snippet: of all members; None before the first segment.
        """
        decision = history.decision
        members = np.arange(len(decision))[:, None]
        window = (UPDATES + decision)[:, None] - _WINDOW  # the current decision first
        scores = history.training_scores[members, window]
        units = history.units[members, window]
        effects = scores[:, :-1] - scores[:, 1:]
        score = scores[:, 0]
        single = (
            decision / decisions,
            decisions - decision,
            score,
            effects[:, 0],
            (score - scores[:, 3]) / 3.0,
            history.best_return,
            score - history.best_score,
            np.where(np.isfinite(history.best_return), decision - history.best_decision, np.nan),
            history.last_invalid,
            np.add.reduce(history.clipped, axis=1),
        )
        blocks = (
            np.array(single).T,  # as in _SINGLE
            history.metrics,
            np.full((len(decision), self._snippet_size), np.nan) if snippet is None else snippet.statistics(),
            units[:, 0],
            (units[:, :-1] - units[:, 1:]).reshape(len(decision), -1),
            effects,
        )
        raw: Floats = np.concatenate(blocks, axis=1)[:, self._order]
        return raw
