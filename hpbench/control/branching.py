"""Trying actions without taking them: copies of running meta-episodes, trained on side by side as one population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpbench.agent import Branches
from hpbench.control.action import Update
from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.seeding import Stream

if TYPE_CHECKING:
    from hpbench.control.episode import EpisodeBatch
    from hpbench.control.scoring import Outcome

_NUMBERS = ("scores", "errors", "returns")


def branch(
    batch: EpisodeBatch,
    actions: Sequence[Sequence[Any]],
    horizon: int = 1,
    members: Sequence[int] | None = None,
    evaluation_seed: int | None = None,
    evaluation_episodes: int | None = None,
) -> list[Branches]:
    """Evaluate several actions of each member from its current state, in one batch. The batch itself stays as it is,
    bit for bit.

    A branch is a copy of a member. It takes its action, trains for a segment, then keeps its hyperparameters until
    ``horizon`` segments are done; it is evaluated after each of them. All branches of a member continue the same random
    streams, those of the member itself (common random numbers): they differ by their actions alone, and the branch with
    the action that the member then takes is what the member becomes. A branch also lives through the change of its
    task, on the track ``shift``. So whoever branches looks into the future, and pays for it in environment steps.

    Args:
        batch: running meta-episodes.
        actions: ``actions[i]`` are those to try for member ``members[i]``, at least one; their numbers may differ. A
            no-op is an action like any other.
        horizon: segments, at most as many as a member has decisions left.
        members: which ones; None: all. A member whose meta-episode is over gets branches of 0 segments.
        evaluation_seed: None: branches play the very evaluation episodes that will score the member. A number: episodes
            of their own, on streams that are made of the member's and this number, and independent of it; still the
            same for all branches of a member.
        evaluation_episodes: per evaluation; None: as many as the member's own evaluations have.

    Returns:
        The branches of each of the ``members``, in order.

    Raises:
        InvalidAction: for an action without meaning.
        InvalidConfiguration: for an empty list of actions, or counts that do not fit.
        gymnasium.error.ResetNeeded: before the first reset.
    """
    batch._require_reset()
    chosen = list(range(batch.members)) if members is None else list(members)
    if len(actions) != len(chosen) or not all(len(tried) for tried in actions):
        raise InvalidConfiguration(f"branch needs a list of at least one action for each of {len(chosen)} members")
    if horizon < 1 or (evaluation_episodes is not None and evaluation_episodes < 1):
        raise InvalidConfiguration(f"horizon ({horizon}) and evaluation_episodes must be at least 1")
    updates = _read(batch, chosen, actions)
    trials = _Trials(batch, chosen, updates, horizon)
    if trials.batch is not None and evaluation_seed is not None:
        trials.batch.population.rekey(Stream.EVALUATION, evaluation_seed)
    while trials.batch is not None:
        trials.run_segment(evaluation_episodes)
    return trials.results()


def _read(batch: EpisodeBatch, members: Sequence[int], actions: Sequence[Sequence[Any]]) -> list[list[Update]]:
    values = batch.population.table().tolist()
    updates = []
    for m, tried in zip(members, actions, strict=True):
        row = []
        for k, action in enumerate(tried):
            try:
                row.append(batch.setting.reader.read(action, values[m]))
            except InvalidAction as error:
                raise InvalidAction(f"action {k} of member {m}: {error}") from error
        updates.append(row)
    return updates


class _Trials:
    """The branches while they run: a batch of those that go on, and a table of what all have come to.

    Args:
        batch: what they branch off from.
        members, updates: the updates to try for each member.
        horizon: segments.

    Attributes:
        batch: the branches that go on; None once there are none.
    """

    def __init__(
        self, batch: EpisodeBatch, members: Sequence[int], updates: Sequence[Sequence[Update]], horizon: int
    ) -> None:
        self._updates = [update for row in updates for update in row]
        owners = [m for m, row in zip(members, updates, strict=True) for _ in row]
        self._counts = [len(row) for row in updates]
        decisions = [batch._histories[m].decision for m in owners]
        left = batch.plan.decisions
        self._lengths = [
            0 if batch.ended(m) else min(horizon, left - done) for m, done in zip(owners, decisions, strict=True)
        ]
        rows = len(owners)
        self._metric_names = batch.setting.features.metric_names
        self._numbers = {name: np.full((rows, horizon), np.nan) for name in _NUMBERS}
        self._metrics = np.full((rows, horizon, len(self._metric_names)), np.nan)
        self._diverged = np.zeros(rows, dtype=np.bool_)
        self._steps = np.zeros((rows, 2), dtype=np.int64)
        self._segment = 0
        # Rows of the tables that the members of the running batch belong to.
        self._rows = [row for row in range(rows) if self._lengths[row] > 0]
        self._before = [batch._histories[m].scores[-1] for m in owners]
        self.batch: EpisodeBatch | None = batch.spawn([owners[row] for row in self._rows]) if self._rows else None

    def run_segment(self, episodes: int | None) -> None:
        """One segment of all branches that go on; then leave out those that have come to their end."""
        batch, rows = self.batch, self._rows
        assert batch is not None
        everyone, values = range(batch.members), batch.population.table().tolist()
        first = self._segment == 0
        updates = {i: self._updates[row] if first else Update(tuple(values[i])) for i, row in enumerate(rows)}
        start = batch.population.steps
        batch._shift(everyone)
        outcome = batch._segment(everyone, values, updates, [self._before[row] for row in rows], episodes)
        self._steps[rows, 0] += batch.population.steps - start
        self._note(batch, outcome)
        self._segment += 1
        going = [i for i, row in enumerate(rows) if not batch.ended(i) and self._segment < self._lengths[row]]
        self._rows = [rows[i] for i in going]
        if len(going) < batch.members:
            self.batch = batch.spawn(going) if going else None

    def results(self) -> list[Branches]:
        """One for each member."""
        ends = np.cumsum(self._counts).tolist()
        return [self._result(range(end - count, end)) for end, count in zip(ends, self._counts, strict=True)]

    def _note(self, batch: EpisodeBatch, outcome: Outcome) -> None:
        errors = _standard_errors(batch, outcome)
        for i, row in enumerate(self._rows):
            # What a diverged learner scores, it scores for the rest.
            until = None if batch._histories[i].diverged else self._segment + 1
            numbers = outcome.scores[i], errors[i], outcome.returns[i]
            for name, number in zip(_NUMBERS, numbers, strict=True):
                self._numbers[name][row, self._segment : until] = number
            self._metrics[row, self._segment] = batch._histories[i].metrics
            self._diverged[row] = batch._histories[i].diverged
            self._steps[row, 1] += outcome.steps[i]
            self._before[row] = outcome.scores[i]

    def _result(self, rows: range) -> Branches:
        length, part = self._lengths[rows.start], slice(rows.start, rows.stop)
        steps, evaluation_steps = self._steps[part].sum(axis=0).tolist()
        return Branches(
            **{name: table[part, :length].copy() for name, table in self._numbers.items()},
            metrics={name: self._metrics[part, :length, k].copy() for k, name in enumerate(self._metric_names)},
            values=np.array([self._updates[row].values for row in rows], dtype=np.float64),
            invalid=np.array([bool(self._updates[row].invalid) for row in rows]),
            diverged=self._diverged[part].copy(),
            steps=steps,
            evaluation_steps=evaluation_steps,
        )


def _standard_errors(batch: EpisodeBatch, outcome: Outcome) -> list[float]:
    """Of the scores, over the episodes of an evaluation."""
    returns = outcome.evaluation.returns
    episodes = returns.shape[1]
    if episodes == 1:
        return [0.0 if history.diverged else math.nan for history in batch._histories]
    errors = []
    for task, row, history in zip(batch.population.tasks, returns, batch._histories, strict=True):
        spread = float(np.std(row, ddof=1)) / math.sqrt(episodes)
        errors.append(0.0 if history.diverged else spread / task.anchors.width(float(np.mean(row))))
    return errors
