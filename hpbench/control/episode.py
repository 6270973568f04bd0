"""Meta-episodes in a batch: the core that the Gymnasium environment (a batch of one) and the runner share."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from hpbench.agent import AgentSpec, Branches
from hpbench.control.action import Update
from hpbench.control.branching import branch
from hpbench.control.history import History
from hpbench.control.observation import Frame
from hpbench.control.options import EnvOptions
from hpbench.control.reward import meta_score, reward
from hpbench.control.scoring import Counterfactual, Outcome, evaluate, held_out
from hpbench.control.setting import Setting
from hpbench.control.snapshot import EpisodeSnapshot
from hpbench.control.text import Snippet, shown_names
from hpbench.errors import InvalidAction, SnapshotError

__all__ = ["BatchStep", "EnvOptions", "EpisodeBatch", "EpisodeSnapshot"]

Table = list[list[float]]
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
    rewards: NDArray[np.float64]
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
        self._specs: list[AgentSpec] | None = None
        self._names = shown_names(self.setting.hyperparameters, options.names)
        self._shift_at = self.setting.shift_at(self.plan.decisions)
        self._histories: list[History] = []

    @property
    def options(self) -> EnvOptions:
        """What the batch was made from."""
        return self.setting.options

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per member."""
        return self.setting.seeds

    @property
    def specs(self) -> list[AgentSpec]:
        """What the members' agents are told."""
        # Made when asked for: spaces take milliseconds, and batches of branches need none.
        if self._specs is None:
            self._specs = self.setting.specs(self.plan)
        return self._specs

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
        running = [m for m in range(self.members) if not self.ended(m)]
        if not running:
            raise gym.error.ResetNeeded("the meta-episode has ended; call reset()")
        values = self.population.table().tolist()
        copies = {} if copies is None else dict(copies)
        self._check_copies(copies, running)
        copied = [values[copies.get(m, m)] for m in range(self.members)]
        updates = self._read(actions, running, copied)
        before = [history.scores[-1] for history in self._histories]
        self._shift(running)
        fork = self._unchanged_copies(values, updates, copies)
        self._copy(copies)
        self._segment(running, copied, updates, before)
        unchanged = self._play(fork, before)
        return BatchStep(
            observations=self.observe(),
            rewards=np.array(
                [self._reward(m, before[m], unchanged) if m in updates else 0.0 for m in range(self.members)]
            ),
            terminated=np.array([history.diverged for history in self._histories]),
            truncated=np.array([self.ended(m) and not h.diverged for m, h in enumerate(self._histories)]),
            infos=self.infos(),
        )

    def observe(self) -> list[Any]:
        """The current observations, one per member."""
        frame, snippet = self._frame()
        if self.options.observation == "vector":
            return list(frame.vector)
        texts = self._render(frame, snippet)
        if self.options.observation == "text":
            return list(texts)
        return [{"vector": vector, "text": text} for vector, text in zip(frame.vector, texts, strict=True)]

    def texts(self) -> list[str]:
        """The current text views, one per member, whatever the ``observation`` option is."""
        return self._render(*self._frame())

    def training_scores(self) -> list[float]:
        """Normalised mean returns of the members' training episodes in the last segment; NaN where none ended."""
        self._require_reset()
        return [history.training_scores[-1] for history in self._histories]

    def infos(self) -> list[Info]:
        """The current infos, one per member, each ``{"hpbench": {...}}`` of plain JSON values."""
        self._require_reset()
        steps, digests = self.population.steps.tolist(), self.population.digests()
        return [{"hpbench": self._info(m, steps[m], digests[m])} for m in range(self.members)]

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

    # -- parts of a decision -------------------------------------------------------------------------------------------

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
        if not copies:
            return
        self.population.copy(list(copies.values()), list(copies))
        sources = {m: self._histories[m].copy() for m in copies.values()}
        for target, source in copies.items():
            self._histories[target].adopt(sources[source])

    def _unchanged_copies(
        self, values: Table, updates: Mapping[int, Update], copies: Mapping[int, int]
    ) -> Counterfactual | None:
        """Copies of the members whose update changes something, or that are overwritten."""
        if self.options.reward != "uplift":
            return None
        changed = [m for m, update in updates.items() if m in copies or update.values != tuple(values[m])]
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
        metrics = self.population.train(self.plan.rollouts)
        if not self.setting.tasks[0].discrete and "entropy" in metrics:
            # Only a discrete policy has a largest entropy to relate to.
            metrics["entropy_per_dimension"] = metrics.pop("entropy")
        if self.setting.tasks[0].evaluation_physics:
            metrics["test_gap"] = self._test_gap(running, metrics["return_mean"])
        features = self.setting.features
        unknown = [math.nan] * self.members
        columns = [metrics[name].tolist() if name in metrics else unknown for name in features.metric_names]
        values, diverged = self.population.table().tolist(), self.population.diverged.tolist()
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

    def _play(self, fork: Counterfactual | None, before: Sequence[float]) -> dict[int, float]:
        """Scores without the update of the members that have a copy, and the account of the steps that this took."""
        if fork is None:
            return {}
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

    # -- views ---------------------------------------------------------------------------------------------------------

    def _frame(self) -> tuple[Frame, Snippet | None]:
        self._require_reset()
        snippet = self._snippet() if any(history.decision > 0 for history in self._histories) else None
        raw = self.setting.features.raw(self._histories, self.plan.decisions, snippet)
        return self.setting.schema.encode(raw), snippet

    def _snippet(self) -> Snippet:
        parts = ("snippet_observation", "snippet_action", "snippet_reward")
        snippet = Snippet(*(self.population.array(name).tolist() for name in parts))
        for m, history in enumerate(self._histories):
            if history.decision == 0:
                snippet.rewards[m] = []
        return snippet

    def _render(self, frame: Frame, snippet: Snippet | None) -> list[str]:
        tasks = [task.id for task in self.setting.tasks]
        values = [history.values for history in self._histories]
        feedback = [history.feedback for history in self._histories]
        return self.setting.view.render(frame, tasks, values, snippet, feedback)

    def _info(self, m: int, steps: int, digest: str) -> Info:
        history = self._histories[m]
        info: Info = {
            "task": self.setting.tasks[m].id,
            "seed": self.seeds[m],
            "decision": history.decision,
            "steps": steps,
            "evaluation_steps": history.evaluation_steps,
            "score": history.scores[-1],
            "return": history.evaluation_return,
            "values": dict(zip(self._names, history.values, strict=True)),
            "clipped": list(history.clipped),
            "invalid": history.invalid,
            "shifted": history.shifted,
            "diverged": history.diverged,
            "digest": digest,
        }
        if self.options.reward == "uplift":
            info["counterfactual_steps"] = history.counterfactual_steps
            info["counterfactual_evaluation_steps"] = history.counterfactual_evaluation_steps
        if self.ended(m):
            info["meta_score"] = meta_score(history.scores[1:], self.plan.decisions)
        return info

    def ended(self, m: int) -> bool:
        """Whether the meta-episode of a member is over."""
        return self._histories[m].diverged or self._histories[m].decision == self.plan.decisions

    def _require_reset(self) -> None:
        if not self._histories:
            raise gym.error.ResetNeeded("call reset() first")
