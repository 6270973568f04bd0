"""The parts of a decision: read the actions, copy members, change hyperparameters, train, evaluate, reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.control.action import Update
from hpbench.control.reward import reward
from hpbench.control.scoring import Counterfactual, Outcome, evaluate, held_out
from hpbench.control.views import BatchView
from hpbench.errors import InvalidAction

Table = list[list[float]]


class DecisionParts(BatchView):
    """What :meth:`EpisodeBatch.step <hpbench.control.episode.EpisodeBatch.step>` is made of, in the order in which it
    happens."""

    _shift_at: list[int]
    """After how many decisions each member's task changes; -1: never."""

    def _read(self, actions: Sequence[Any], running: Sequence[int], values: Table) -> dict[int, Update]:
        if len(actions) != self.members:
            raise InvalidAction(f"{len(actions)} actions for {self.members} members")
        updates = {}
        for m in running:
            try:
                updates[m] = self.setting.reader.read(actions[m], values[m])
            except InvalidAction as error:
                if self.members == 1:
                    raise
                raise InvalidAction(f"member {m}: {error}") from error
        return updates

    def _shift(self, running: Sequence[int]) -> None:
        """Change the task of the members whose time has come."""
        due = [m for m in running if self._histories[m].decision == self._shift_at[m]]
        if due:
            current = list(self.population.tasks)
            for m in due:
                current[m] = self.setting.shifted_task(m)
                self._histories[m].shifted = True
            self.population.set_tasks(current)

    def _check_copies(self, copies: Mapping[int, int], running: Sequence[int]) -> None:
        for target, source in copies.items():
            if not {target, source} <= set(running):
                raise InvalidAction(f"member {target} cannot copy member {source}: both must be running")
            if self.population.tasks[target] != self.population.tasks[source]:
                raise InvalidAction(f"member {target} cannot copy member {source}: they are on different tasks")

    def _copy(self, copies: Mapping[int, int]) -> None:
        """Overwrite the targets with their sources, all at once: nobody gets what another copy has just brought."""
        self.population.copy(list(copies.values()), list(copies))
        sources = {m: self._histories[m].copy() for m in copies.values()}
        for target, source in copies.items():
            self._histories[target].adopt(sources[source])

    def _unchanged_copies(
        self, values: Table, updates: Mapping[int, Update], copies: Mapping[int, int] | None
    ) -> Counterfactual | None:
        """Copies of the members whose update changes something, or that are overwritten; None if there are none."""
        overwritten = copies or ()
        changed = [m for m, update in updates.items() if m in overwritten or update.values != tuple(values[m])]
        return Counterfactual(changed, self.population.fork(changed)) if changed else None

    def _segment(
        self,
        running: Sequence[int],
        values: Table,
        updates: Mapping[int, Update],
        before: Sequence[float],
        episodes: int | None = None,
    ) -> Outcome:
        """Apply the updates, train, evaluate; ``episodes``: None is as many as planned."""
        self._apply(values, updates)
        self._train(running)
        return self._evaluate(running, before, self.plan.evaluation_episodes if episodes is None else episodes)

    def _apply(self, values: Table, updates: Mapping[int, Update]) -> None:
        for m, update in updates.items():
            history = self._histories[m]
            history.last_invalid, history.clipped = bool(update.invalid), update.clipped
            history.invalid += history.last_invalid
            history.feedback = self._feedback(update)
        if any(update.values != tuple(values[m]) for m, update in updates.items()):
            rows = [updates[m].values if m in updates else row for m, row in enumerate(values)]
            self.population.set_table(rows)

    def _feedback(self, update: Update) -> str:
        if update.invalid:
            return f"the last action was invalid and changed nothing: {update.invalid}"
        if update.clipped:
            return f"the last action was cut at the bounds of {', '.join(self._names[name] for name in update.clipped)}"
        return ""

    def _train(self, running: Sequence[int]) -> None:
        population, task, features = self.population, self.setting.tasks[0], self.setting.features
        metrics = population.train(self.plan.rollouts)
        if not task.discrete and "entropy" in metrics:
            # Only a discrete policy has a largest entropy to relate to.
            metrics["entropy_per_dimension"] = metrics.pop("entropy")
        if task.evaluation_physics or task.held_out_levels:
            metrics["test_gap"] = self._test_gap(running, metrics["return_mean"])
        unknown = [math.nan] * self.members
        columns = [metrics[name].tolist() if name in metrics else unknown for name in features.metric_names]
        values, diverged = population.array("hyperparameters").tolist(), population.array("diverged").tolist()
        for m in running:
            history = self._histories[m]
            history.decision += 1
            history.diverged = diverged[m]
            features.record(history, self.setting.tasks[m].anchors, values[m], [column[m] for column in columns])

    def _test_gap(self, running: Sequence[int], training: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score of the segment's training episodes minus score on held-out levels; NaN where there were none."""
        scores, steps = held_out(self.population, self.plan.evaluation_episodes)
        for m in running:
            self._histories[m].evaluation_steps += steps[m]
        seen = [task.anchors.score(mean) for task, mean in zip(self.population.tasks, training.tolist(), strict=True)]
        return np.subtract(seen, scores, dtype=np.float64)

    def _evaluate(self, running: Sequence[int], before: Sequence[float], episodes: int) -> Outcome:
        outcome = evaluate(self.population, episodes, before)
        for m in running:
            history = self._histories[m]
            history.scores.append(outcome.scores[m])
            history.evaluation_return = outcome.returns[m]
            history.evaluation_steps += outcome.steps[m]
        return outcome

    def _play(self, fork: Counterfactual, before: Sequence[float]) -> dict[int, float]:
        """Scores without the update of the members that have a copy, and the account of the steps that this took."""
        last = [before[m] for m in fork.members]
        outcome, steps = fork.play(self.plan.rollouts, self.plan.evaluation_episodes, last)
        for i, m in enumerate(fork.members):
            self._histories[m].counterfactual_steps += steps[i]
            self._histories[m].counterfactual_evaluation_steps += outcome.steps[i]
        return dict(zip(fork.members, outcome.scores, strict=True))

    def _reward(self, m: int, before: float, unchanged: Mapping[int, float]) -> float:
        history = self._histories[m]
        after = history.scores[-1]
        alone = unchanged.get(m, after)
        return reward(self.options.reward, before, after, alone, self.plan.decisions, history.last_invalid)
