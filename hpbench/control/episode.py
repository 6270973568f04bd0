"""Meta-episodes in a batch: the core that the Gymnasium environment (a batch of one) and the runner share.

What can be seen of a batch is in :mod:`hpbench.control.views`, what happens at a decision in
:mod:`hpbench.control.decision`.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from hpbench.agent import Branches
from hpbench.control.branching import branch
from hpbench.control.decision import DecisionParts
from hpbench.control.history import History
from hpbench.control.options import EnvOptions
from hpbench.control.setting import Setting
from hpbench.control.snapshot import EpisodeSnapshot
from hpbench.control.text import shown_names
from hpbench.control.views import Info
from hpbench.errors import SnapshotError

__all__ = ["BatchStep", "EnvOptions", "EpisodeBatch", "EpisodeSnapshot", "Info"]


@dataclass(frozen=True)
class BatchStep:
    """What one decision of all members led to.

    Members whose meta-episode had ended before have reward 0 and are otherwise as they were at their end.

    Args:
        observations, infos: one per member.
        earned: the rewards, one per member.
        diverged: which members have diverged.
        spent: which other members' budgets are spent.
    """

    observations: list[Any]
    earned: list[float]
    diverged: list[bool]
    spent: list[bool]
    infos: list[Info]

    @functools.cached_property
    def rewards(self) -> NDArray[np.float64]:
        """Float64 ``[members]``."""
        return np.array(self.earned, dtype=np.float64)

    @functools.cached_property
    def terminated(self) -> NDArray[np.bool_]:
        """Bool ``[members]``, diverged."""
        return np.array(self.diverged, dtype=np.bool_)

    @functools.cached_property
    def truncated(self) -> NDArray[np.bool_]:
        """Bool ``[members]``, the budget is spent."""
        return np.array(self.spent, dtype=np.bool_)


class EpisodeBatch(DecisionParts):
    """Meta-episodes on one task or on variants of it, trained together as one population.

    Args:
        options: what ``gym.make`` takes.
        seeds: one per member. A seed decides all that is random in its meta-episode: the task (if the options name
            none), the initial values and the shift of the tracks, and all streams of the learner.
        threads: CPU threads of the population. Results do not depend on it.
        task_seed: what a missing task and the shift are drawn from, so that all members share them; None: each member's
            own seed.

    Attributes:
        population: the learners.
        plan: the exact step account.

    Raises:
        UnknownName: for an unknown task, family, learner, engine or field of the learner's configuration.
        InvalidConfiguration: if the budget is no whole number of rollouts per decision, the device is missing, or the
            members' tasks cannot share a population.
    """

    def __init__(
        self, options: EnvOptions, seeds: Sequence[int], threads: int = 1, task_seed: int | None = None
    ) -> None:
        self.setting = Setting(options, seeds, threads, task_seed)
        self.population = self.setting.population()
        self.plan = self.setting.plan(self.population.steps_per_rollout)
        self._specs = None
        self._names = shown_names(self.setting.hyperparameters, options.names)
        self._shift_at = self.setting.shift_at(self.plan.decisions)
        self._histories: list[History] = []

    # -- running -------------------------------------------------------------------------------------------------------

    def reset(self) -> tuple[list[Any], list[Info]]:
        """Back to the start, before any training. The infos hold the score at decision 0.

        Returns:
            Observations and infos, one per member.
        """
        if self._histories:
            self.population = self.setting.population()
        self._histories = [self.setting.features.start(row) for row in self.population.table().tolist()]
        self._evaluate(range(self.members), [math.nan] * self.members, self.plan.evaluation_episodes)
        return self.observe(), self.infos()

    def step(self, actions: Sequence[Any], copies: Mapping[int, int] | None = None) -> BatchStep:
        """One decision: copy members, apply the actions, train one segment, evaluate.

        Args:
            actions: one per member; that of a member whose meta-episode has ended is not looked at.
            copies: target to source: each target first becomes what its source was before the decision (all but the
                random streams, :meth:`Population.copy`), then its action applies to the copied values. Members must
                share one task, and none of them may have ended.

        Raises:
            InvalidAction: for an action without meaning (see :mod:`hpbench.control.action`), or a copy that cannot be.
                Nothing has happened then.
            gymnasium.error.ResetNeeded: before the first reset, or after the end of all meta-episodes.
        """
        self._require_reset()
        members = range(len(self._histories))
        running = [m for m in members if not self.ended(m)]
        if not running:
            raise gym.error.ResetNeeded("the meta-episode has ended; call reset()")
        values = self.population.array("hyperparameters").tolist()
        copied = values
        if copies:
            copies = dict(copies)
            self._check_copies(copies, running)
            copied = [values[copies.get(m, m)] for m in members]
        updates = self._read(actions, running, copied)
        before = [history.scores[-1] for history in self._histories]
        self._shift(running)
        fork = self._unchanged_copies(values, updates, copies) if self.options.reward == "uplift" else None
        if copies:
            self._copy(copies)
        self._segment(running, copied, updates, before)
        unchanged = self._play(fork, before) if fork is not None else {}
        return BatchStep(
            observations=self.observe(),
            earned=[self._reward(m, before[m], unchanged) if m in updates else 0.0 for m in members],
            diverged=[history.diverged for history in self._histories],
            spent=[self.ended(m) and not history.diverged for m, history in enumerate(self._histories)],
            infos=self.infos(),
        )

    # -- copies --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> EpisodeSnapshot:
        """An exact copy of all members."""
        self._require_reset()
        histories = tuple(history.to_dict() for history in self._histories)
        return EpisodeSnapshot(self.options.to_dict(), self.seeds, histories, self.population.snapshot())

    def restore(self, snapshot: EpisodeSnapshot) -> None:
        """Return to a snapshot of a batch with the same options and seeds; what follows is exactly what followed then.

        Raises:
            SnapshotError: if the snapshot is of another batch, or damaged.
        """
        if dict(snapshot.options) != self.options.to_dict() or tuple(snapshot.seeds) != self.seeds:
            raise SnapshotError("the snapshot is of a batch with other options or seeds")
        histories = [History.from_dict(fields) for fields in snapshot.histories]
        if len(histories) != self.members:
            raise SnapshotError(f"{len(histories)} histories for {self.members} members")
        for history in histories:
            self.setting.features.check(history, self.plan.decisions)
        self.population.restore(snapshot.population)
        self._histories = histories

    def spawn(self, members: Sequence[int]) -> Self:
        """A new, independent batch whose member ``i`` is an exact copy of member ``members[i]``, streams included."""
        self._require_reset()
        other = copy.copy(self)
        other.population = self.population.fork(members)
        other.setting = self.setting.take(members)
        other._specs = None
        other._histories = [self._histories[m].copy() for m in members]
        other._shift_at = [self._shift_at[m] for m in members]
        return other

    def join(self, others: Sequence[Self]) -> Self:
        """A new, independent batch: exact copies of the members of this one, then of the ``others`` in turn.

        They may have come to different decisions; each goes on from its own. The inverse of :meth:`spawn`.

        Raises:
            InvalidConfiguration: if the others have other options, or tasks that cannot share a population.
        """
        for part in (self, *others):
            part._require_reset()
        joined = copy.copy(self)
        joined.setting = self.setting.join([other.setting for other in others])
        joined.population = self.population.join([other.population for other in others])
        joined._specs = None
        joined._histories = [history.copy() for part in (self, *others) for history in part._histories]
        joined._shift_at = [decision for part in (self, *others) for decision in part._shift_at]
        return joined

    def branch(
        self,
        actions: Sequence[Sequence[Any]],
        horizon: int = 1,
        *,
        members: Sequence[int] | None = None,
        evaluation_seed: int | None = None,
        evaluation_episodes: int | None = None,
    ) -> list[Branches]:
        """Try actions without taking them: see :func:`hpbench.control.branching.branch`."""
        return branch(self, actions, horizon, members, evaluation_seed, evaluation_episodes)
