"""What happened in a meta-episode so far, and the raw features that follow from it.

A history is plain Python numbers. There are few of them, and they are touched once per decision: array operations would
cost more than the arithmetic they save, above all right after the learner has swept the caches.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from hpbench.control.observation import UPDATES, Schema
from hpbench.errors import SnapshotError
from hpbench.tasks.base import Anchors

if TYPE_CHECKING:
    from hpbench.control.text import Snippet

NAN = math.nan
Row = tuple[float, ...]


@dataclass
class History:
    """One member's meta-episode.

    Args:
        decision: decisions done.
        scores: normalised evaluation scores, from decision 0 on.
        evaluation_return: mean unscaled return of the last evaluation.
        training_scores: normalised mean returns of the training episodes, from decision 0 (NaN) on.
        metrics: of the last segment, in the order of :attr:`FeatureBuilder.metric_names`; NaN where unknown.
        values: hyperparameters in force.
        units: the same in unit scale.
        changes: what each update changed in unit scale.
        best_return, best_score, best_decision: the best segment by training return; NaN before there is one.
        evaluation_steps, counterfactual_steps, counterfactual_evaluation_steps: environment steps beyond training.
        invalid: invalid actions so far.
        last_invalid: whether the last action was one.
        clipped: hyperparameters that the last action would have moved past a bound.
        feedback: one line on the last action, or empty.
        shifted: whether the task has changed.
        diverged: whether the learner has diverged, which ended the meta-episode.
    """

    decision: int = 0
    scores: list[float] = field(default_factory=list)
    evaluation_return: float = NAN
    training_scores: list[float] = field(default_factory=lambda: [NAN])
    metrics: Row = ()
    values: Row = ()
    units: Row = ()
    changes: list[Row] = field(default_factory=list)
    best_return: float = NAN
    best_score: float = NAN
    best_decision: int = 0
    evaluation_steps: int = 0
    counterfactual_steps: int = 0
    counterfactual_evaluation_steps: int = 0
    invalid: int = 0
    last_invalid: bool = False
    clipped: tuple[str, ...] = ()
    feedback: str = ""
    shifted: bool = False
    diverged: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values (NaN included)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """An independent copy of what :meth:`to_dict` gave, also after a round trip through JSON.

        Raises:
            SnapshotError: if fields are missing, unknown or of another type.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if fields.keys() != known:
            raise SnapshotError(f"history fields differ: {sorted(fields.keys() ^ known)}")
        try:
            read: dict[str, Any] = {
                name: _READ[type(getattr(_BLANK, name))](name, value) for name, value in fields.items()
            }
            return cls(**read)
        except (TypeError, ValueError) as error:
            raise SnapshotError(f"damaged history: {error}") from error

    def adopt(self, source: History) -> None:
        """Go on from where another member is, whose learner has replaced this member's.

        All that describes the learner comes from there: values, metrics, training scores, past updates, the best
        segment. What is this member's own record stays: evaluation scores, step accounts, invalid actions.
        """
        self.training_scores, self.changes = list(source.training_scores), list(source.changes)
        self.metrics, self.values, self.units = source.metrics, source.values, source.units
        self.best_return, self.best_score = source.best_return, source.best_score
        self.best_decision = source.best_decision

    def copy(self) -> Self:
        """An independent copy."""
        return dataclasses.replace(
            self,
            scores=list(self.scores),
            training_scores=list(self.training_scores),
            changes=list(self.changes),
        )


_BLANK = History()


def _exactly(kind: type) -> Any:
    def read(name: str, value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{name} is a {type(value).__name__}")
        return value

    return read


def _sequence(name: str, value: Any) -> list[Any]:
    """Numbers, or (for changes) rows of numbers."""
    return [tuple(map(float, item)) if name == "changes" else float(item) for item in value]


def _row(name: str, value: Any) -> tuple[Any, ...]:
    return tuple(map(str, value)) if name == "clipped" else tuple(map(float, value))


_READ = {kind: _exactly(kind) for kind in (int, float, bool, str)} | {list: _sequence, tuple: _row}

# Features that are computed one by one, in the order of FeatureBuilder._row.
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


class FeatureBuilder:
    """Keeps the training side of histories up to date, and turns them into the schema's raw features."""

    def __init__(self, schema: Schema) -> None:
        self._items = tuple(schema.hyperparameters.values())
        self.metric_names = [
            feature.name
            for feature in schema.features
            if feature.name in _FROM_METRICS or feature.group in _METRIC_GROUPS
        ]
        self._return = self.metric_names.index("return_mean")
        # Rows are built block by block; this says where each of the schema's features stands in them.
        blocks = [
            *_SINGLE,
            *self.metric_names,
            *(schema.features[column].name for column in schema.group("snippet")),
            *(f"hp_{item.name}" for item in self._items),
            *(f"update_{k}_{item.name}" for k in range(1, UPDATES + 1) for item in self._items),
            *(f"effect_{k}" for k in range(1, UPDATES + 1)),
        ]
        self._ordered = operator.itemgetter(*(blocks.index(feature.name) for feature in schema.features))
        self._no_snippet = (NAN,) * len(schema.group("snippet"))
        self._no_changes = (NAN,) * len(self._items)
        self._no_metrics = (NAN,) * len(self.metric_names)

    def start(self, values: Sequence[float]) -> History:
        """A history before the first evaluation."""
        units = tuple(item.to_unit(value) for item, value in zip(self._items, values, strict=True))
        return History(metrics=self._no_metrics, values=tuple(values), units=units)

    def record(self, history: History, anchors: Anchors, values: Sequence[float], metrics: Sequence[float]) -> None:
        """Add the segment of the decision that ``history.decision`` counts already.

        Args:
            history: changed in place.
            anchors: of the starting task. Observations keep them when the task shifts: agents are not told.
            values: hyperparameters in force.
            metrics: in the order of ``metric_names``; NaN where unknown.
        """
        last = zip(self._items, values, history.values, history.units, strict=True)
        units = [unit if value == old else item.to_unit(value) for item, value, old, unit in last]
        history.changes.append(tuple([new - old for new, old in zip(units, history.units, strict=True)]))
        history.values, history.units, history.metrics = tuple(values), tuple(units), tuple(metrics)
        mean = metrics[self._return]
        score = anchors.score(mean)
        history.training_scores.append(score)
        if math.isfinite(mean) and not mean <= history.best_return:
            history.best_return, history.best_score, history.best_decision = mean, score, history.decision

    def check(self, history: History, decisions: int) -> None:
        """Whether a restored history is in itself consistent.

        Raises:
            SnapshotError: if it is not.
        """
        done, rows = history.decision, (history.values, history.units, *history.changes)
        fits = (
            0 <= done <= decisions,
            len(history.scores) == len(history.training_scores) == done + 1,
            len(history.changes) == done,
            len(history.metrics) == len(self.metric_names),
            all(len(row) == len(self._items) for row in rows),
        )
        if not all(fits):
            raise SnapshotError(f"a history of {done} decisions does not fit an episode of {decisions}")

    def raw(self, histories: Sequence[History], decisions: int, snippet: Snippet | None) -> list[Row]:
        """Raw features ``[members][features]``, NaN where unknown; hyperparameters in unit scale.

        Args:
            histories: of all members.
            decisions: decisions of the whole meta-episode.
            snippet: of all members; None before the first segment.
        """
        return [
            self._ordered(self._row(history, decisions, self._statistics(snippet, m)))
            for m, history in enumerate(histories)
        ]

    def _statistics(self, snippet: Snippet | None, member: int) -> Row:
        if snippet is None or len(snippet.rewards[member]) == 0:
            return self._no_snippet
        return snippet.statistics(member)

    def _row(self, history: History, decisions: int, snippet: Row) -> list[float]:
        done, scores = history.decision, history.training_scores
        effects = [scores[t] - scores[t - 1] for t in range(done, max(done - UPDATES, 0), -1)]
        effects += [NAN] * (UPDATES - len(effects))
        row = [
            done / decisions,
            decisions - done,
            scores[done],
            effects[0],
            (scores[done] - scores[done - 3]) / 3.0 if done >= 3 else NAN,
            history.best_return,
            scores[done] - history.best_score,
            NAN if math.isnan(history.best_return) else done - history.best_decision,
            history.last_invalid,
            len(history.clipped),
            *history.metrics,
            *snippet,
            *history.units,
        ]
        for k in range(1, UPDATES + 1):
            row += history.changes[-k] if k <= done else self._no_changes
        return row + effects
