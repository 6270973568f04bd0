"""Constant settings: what the track starts with, and the best published values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.delta import DeltaAction, keep_all
from hpbench import tasks
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration
from hpbench.tasks.base import HandTuned as HandTunedValues
from hpbench.tasks.base import Task


class LibraryDefault:
    """Keeps what the track starts with. On the ``default`` track: the learner's own defaults, from start to end."""

    name = "library-default"
    observation = "vector"
    action = "delta"

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here."""
        self._action = keep_all(spec)

    def act(self, observation: Any) -> DeltaAction:
        """The ``delta`` action that keeps every value."""
        return self._action.copy()


class HandTuned:
    """Jumps to the best published values of the task at the first decision and keeps them.

    A variant uses the values of the task it varies. Hyperparameters that the publication leaves alone get the learner's
    default, whatever the track started with: what was published is a whole setting.
    """

    name = "hand-tuned"
    observation = "vector"
    action = "absolute"

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here.

        Raises:
            InvalidConfiguration: if neither the task nor the task it varies has hand-tuned values for this learner.
        """
        values = spec.hyperparameters.defaults() | spec.hyperparameters.check(
            _published(spec.task, spec.learner).values
        )
        self._action = np.array(
            [spec.hyperparameters[name].to_action(values[name]) for name in spec.hyperparameters.hot], dtype=np.float32
        )

    def act(self, observation: Any) -> NDArray[np.float32]:
        """The published values as an ``absolute`` action, the same at every decision."""
        return self._action.copy()


def _published(task: Task, learner: str) -> HandTunedValues:
    if learner in task.hand_tuned:
        return task.hand_tuned[learner]
    base = task if task.id == task.base else tasks.make(task.base)
    if learner not in base.hand_tuned:
        known = ", ".join(sorted(base.hand_tuned)) or "none"
        raise InvalidConfiguration(
            f"task {task.base!r} has no hand-tuned values for learner {learner!r}; learners with values: {known}. "
            "Add them to the task's `hand_tuned` with their source, or use another agent."
        )
    return base.hand_tuned[learner]
