"""Meta-episodes in a batch: the core that the Gymnasium environment (a batch of one) and the runner share."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from hpbench.control.action import Update
from hpbench.control.history import History
from hpbench.control.observation import Frame
from hpbench.control.options import EnvOptions
from hpbench.control.reward import meta_score, rewards
from hpbench.control.scoring import Counterfactual, evaluate
from hpbench.control.setting import Setting
from hpbench.control.snapshot import EpisodeSnapshot
from hpbench.control.text import Snippet, shown_names
from hpbench.errors import InvalidAction, SnapshotError

__all__ = ["BatchStep", "EnvOptions", "EpisodeBatch", "EpisodeSnapshot"]

Floats = NDArray[np.float64]
Info = dict[str, Any]


@dataclass(frozen=True)
class BatchStep:
    """What one decision of all members led to.

    Members whose meta-episode had ended before have reward 0 and are otherwise as they were at their end.

    Args:
        observations, infos: one per member.
        rewards: float64 ``[members]``.
        terminated: bool ``[members]``, diverged.
        truncated: bool ``[members]``, the budget is spent.
    """

    observations: list[Any]
    rewards: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[Info]


class EpisodeBatch:
    """Meta-episodes on one task or on variants of it, trained together as one population.

    Args:
        options: what ``gym.make`` takes.
        seeds: one per member. A seed decides all that is random in its meta-episode: the task (if the options name
            none), the initial values and the shift of the tracks, and all streams of the learner.
        threads: CPU threads of the population. Results do not depend on it.

    Attributes:
        population: the learners.
        plan: the exact step account.
        specs: what the members' agents are told.

    Raises:
        UnknownName: for an unknown task, family, learner, engine or field of the learner's configuration.
        InvalidConfiguration: if the budget is no whole number of rollouts per decision, the device is missing, or the
            members' tasks cannot share a population.
    """

    def __init__(self, options: EnvOptions, seeds: Sequence[int], threads: int = 1) -> None:
        self.setting = Setting(options, seeds, threads)
        self.population = self.setting.population()
        self.plan = self.setting.plan(self.population.steps_per_rollout)
        self.specs = self.setting.specs(self.plan)
        self._names = shown_names(self.setting.hyperparameters, options.names)
        self._shift_at = np.array(self.setting.shift_at(self.plan.decisions))
        self._history: History | None = None
        self._feedback = [""] * self.members

    @property
    def options(self) -> EnvOptions:
        """What the batch was made from."""
        return self.setting.options

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per member."""
        return self.setting.seeds

    @property
    def members(self) -> int:
        """Number of meta-episodes."""
        return len(self.setting.seeds)

    @property
    def device(self) -> str:
        """Where the population lives."""
        return str(self.population.device)

    @property
    def engine(self) -> str:
        """Which implementation of the learner runs."""
        return str(getattr(self.population, "engine", "torch"))

    # -- running -------------------------------------------------------------------------------------------------------

    def reset(self) -> tuple[list[Any], list[Info]]:
        """Back to the start, before any training. The infos hold the score at decision 0.

        Returns:
            Observations and infos, one per member.
        """
        if self._history is not None:
            self.population = self.setting.population()
        self._history = self._blank()
        self._feedback = [""] * self.members
        rows, values = np.arange(self.members), self.population.table()
        self.setting.features.record_values(self._history, rows, values)
        self._evaluate(self._history, rows, np.full(self.members, np.nan))
        return self._observe(values), self._infos(values)

    def step(self, actions: Sequence[Any]) -> BatchStep:
        """One decision: apply the actions, train one segment, evaluate.

        Args:
            actions: one per member; that of a member whose meta-episode has ended is not looked at.

        Raises:
            InvalidAction: for an action without meaning (see :mod:`hpbench.control.action`). Nothing has happened then.
            gymnasium.error.ResetNeeded: before the first reset, or after the end of all meta-episodes.
        """
        history = self._running()
        running = ~self._ended(history)
        if not running.any():
            raise gym.error.ResetNeeded("the meta-episode has ended; call reset()")
        rows, everyone, decisions = np.flatnonzero(running), np.arange(self.members), self.plan.decisions
        values = self.population.table()
        updates = self._read(actions, rows, values)
        self._shift(history)
        fork = Counterfactual.fork(self.population, self._changed(values, updates))
        self._apply(history, values, updates)
        metrics = self.population.train(self.plan.rollouts)
        before = history.scores[everyone, history.decision]
        history.decision[rows] += 1
        history.diverged |= self.population.diverged
        values = self.population.table()
        self.setting.features.record_values(history, rows, values)
        self.setting.features.record_segment(history, rows, self._split_entropy(metrics))
        after = self._evaluate(history, rows, before)
        unchanged = self._play(history, fork, before, after)
        earned = rewards(self.options.reward, before, after, unchanged, decisions, history.last_invalid)
        earned[~running] = 0.0
        truncated = (history.decision == decisions) & ~history.diverged
        return BatchStep(self._observe(values), earned, history.diverged.copy(), truncated, self._infos(values))

    def observe(self) -> list[Any]:
        """The current observations, one per member."""
        return self._observe(self.population.table())

    def infos(self) -> list[Info]:
        """The current infos, one per member, each ``{"hpbench": {...}}`` of plain JSON values."""
        return self._infos(self.population.table())

    def texts(self) -> list[str]:
        """The current text views, one per member, whatever the ``observation`` option is."""
        return self._render(*self._frame(), self.population.table())

    # -- copies --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> EpisodeSnapshot:
        """An exact copy of all members."""
        history, options = self._running(), self.options.to_dict()
        return EpisodeSnapshot(options, self.seeds, tuple(self._feedback), history.arrays(), self.population.snapshot())

    def restore(self, snapshot: EpisodeSnapshot) -> None:
        """Return to a snapshot of a batch with the same options and seeds; what follows is exactly what followed then.

        Raises:
            SnapshotError: if the snapshot is of another batch, or its arrays do not fit.
        """
        if dict(snapshot.options) != self.options.to_dict() or tuple(snapshot.seeds) != self.seeds:
            raise SnapshotError("the snapshot is of a batch with other options or seeds")
        if len(snapshot.feedback) != self.members:
            raise SnapshotError(f"{len(snapshot.feedback)} lines of feedback for {self.members} members")
        history = History.from_arrays(snapshot.history, like=self._blank())
        self.population.restore(snapshot.population)
        self._history = history
        self._feedback = list(snapshot.feedback)

    def spawn(self, members: Sequence[int]) -> Self:
        """A new, independent batch whose member ``i`` is an exact copy of member ``members[i]``, streams included."""
        history = self._running()
        other = copy.copy(self)
        other.population = self.population.fork(members)
        other.setting = self.setting.take(members)
        other.specs = other.setting.specs(self.plan)
        other._history = history.take(np.asarray(members, dtype=np.int64))
        other._feedback = [self._feedback[i] for i in members]
        other._shift_at = self._shift_at[list(members)]
        return other

    # -- parts of a decision -------------------------------------------------------------------------------------------

    def _read(self, actions: Sequence[Any], rows: NDArray[np.int64], values: Floats) -> dict[int, Update]:
        if len(actions) != self.members:
            raise InvalidAction(f"{len(actions)} actions for {self.members} members")
        updates = {}
        for member in rows.tolist():
            try:
                updates[member] = self.setting.reader.read(actions[member], values[member].tolist())
            except InvalidAction as error:
                if self.members == 1:
                    raise
                raise InvalidAction(f"member {member}: {error}") from error
        return updates

    def _shift(self, history: History) -> None:
        """Change the task of the members whose time has come."""
        due = (history.decision == self._shift_at) & ~history.shifted & ~history.diverged
        if due.any():
            current = list(self.population.tasks)
            for member in np.flatnonzero(due).tolist():
                current[member] = self.setting.shifted_task(member)
            self.population.set_tasks(current)
            history.shifted |= due

    def _changed(self, values: Floats, updates: Mapping[int, Update]) -> list[int]:
        """The members that need a copy without the update."""
        if self.options.reward != "uplift":
            return []
        return [member for member, update in updates.items() if update.values != tuple(values[member].tolist())]

    def _apply(self, history: History, values: Floats, updates: Mapping[int, Update]) -> None:
        wanted = values.copy()
        for member, update in updates.items():
            wanted[member] = update.values
            history.last_invalid[member] = bool(update.invalid)
            history.invalid[member] += bool(update.invalid)
            history.clipped[member] = [name in update.clipped for name in self._names] if update.clipped else False
            self._feedback[member] = self._feedback_line(update)
        if (wanted != values).any():
            self.population.set_table(wanted)

    def _feedback_line(self, update: Update) -> str:
        if update.invalid:
            return f"the last action was invalid and changed nothing: {update.invalid}"
        if update.clipped:
            return f"the last action was cut at the bounds of {', '.join(self._names[name] for name in update.clipped)}"
        return ""

    def _evaluate(self, history: History, rows: NDArray[np.int64], before: Floats) -> Floats:
        """Play and record an evaluation of the members in ``rows``, and return the scores of all."""
        outcome = evaluate(self.population, self.plan.evaluation_episodes, before)
        history.scores[rows, history.decision[rows]] = outcome.scores[rows]
        history.evaluation_return[rows] = outcome.returns[rows]
        history.evaluation_steps[rows] += outcome.steps[rows]
        return outcome.scores

    def _play(self, history: History, fork: Counterfactual, before: Floats, after: Floats) -> Floats:
        """Scores without the update, and the account of the steps that this took."""
        if fork.population is None:
            return after
        outcome, steps = fork.play(self.plan.rollouts, self.plan.evaluation_episodes, before[fork.members])
        history.counterfactual_steps[fork.members] += steps
        history.counterfactual_evaluation_steps[fork.members] += outcome.steps
        unchanged = after.copy()
        unchanged[fork.members] = outcome.scores
        return unchanged

    def _split_entropy(self, metrics: dict[str, Floats]) -> dict[str, Floats]:
        """Only a discrete policy has a largest entropy to relate to."""
        if self.setting.tasks[0].discrete or "entropy" not in metrics:
            return metrics
        other = {name: values for name, values in metrics.items() if name != "entropy"}
        return {**other, "entropy_per_dimension": metrics["entropy"]}

    # -- views ---------------------------------------------------------------------------------------------------------

    def _observe(self, values: Floats) -> list[Any]:
        frame, snippet = self._frame()
        if self.options.observation == "vector":
            return list(frame.vector)
        texts = self._render(frame, snippet, values)
        if self.options.observation == "text":
            return list(texts)
        return [{"vector": vector, "text": text} for vector, text in zip(frame.vector, texts, strict=True)]

    def _frame(self) -> tuple[Frame, Snippet | None]:
        history = self._running()
        # Members of one batch start together, so either all or none have trained.
        snippet = self._snippet() if int(history.decision.max()) > 0 else None
        raw = self.setting.features.raw(history, self.plan.decisions, snippet)
        return self.setting.schema.encode(raw), snippet

    def _render(self, frame: Frame, snippet: Snippet | None, values: Floats) -> list[str]:
        tasks = [task.id for task in self.setting.tasks]
        return self.setting.view.render(frame, tasks, values, snippet, self._feedback)

    def _infos(self, values: Floats) -> list[Info]:
        history = self._running()
        steps, digests = self.population.steps.tolist(), self.population.digests()
        ended = self._ended(history).tolist()
        return [
            {"hpbench": self._info(history, m, row, steps[m], digests[m], ended[m])}
            for m, row in enumerate(values.tolist())
        ]

    def _info(self, history: History, m: int, values: list[float], steps: int, digest: str, ended: bool) -> Info:
        decision = int(history.decision[m])
        names = list(self._names)
        info: Info = {
            "task": self.setting.tasks[m].id,
            "seed": self.seeds[m],
            "decision": decision,
            "steps": steps,
            "evaluation_steps": int(history.evaluation_steps[m]),
            "score": float(history.scores[m, decision]),
            "return": float(history.evaluation_return[m]),
            "values": dict(zip(names, values, strict=True)),
            "clipped": list(itertools.compress(names, history.clipped[m].tolist())),
            "invalid": int(history.invalid[m]),
            "shifted": bool(history.shifted[m]),
            "diverged": bool(history.diverged[m]),
            "digest": digest,
        }
        if self.options.reward == "uplift":
            info["counterfactual_steps"] = int(history.counterfactual_steps[m])
            info["counterfactual_evaluation_steps"] = int(history.counterfactual_evaluation_steps[m])
        if ended:
            info["meta_score"] = meta_score(history.scores[m, 1 : decision + 1], self.plan.decisions)
        return info

    def _snippet(self) -> Snippet:
        state = self.population.state
        parts = (state[f"snippet_{name}"].cpu().numpy() for name in ("observation", "action", "reward"))
        return Snippet(*parts)

    # -- small things --------------------------------------------------------------------------------------------------

    def _running(self) -> History:
        if self._history is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._history

    def _ended(self, history: History) -> NDArray[np.bool_]:
        ended: NDArray[np.bool_] = history.diverged | (history.decision == self.plan.decisions)
        return ended

    def _blank(self) -> History:
        metrics = len(self.setting.features.metric_names)
        return History.empty(self.members, self.plan.decisions, metrics, len(self._names))
