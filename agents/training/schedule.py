"""Random piecewise schedules, made to visit what a meta-agent must be able to handle: good runs, bad ones, and broken
ones that are to be mended."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.agent import AgentSpec
from hpbench.hyperparameter import KEEP, MULTIPLIERS

PHASES = ("hold", "drift", "jitter", "destroy")
CHANCES = (0.3, 0.3, 0.25, 0.15)
"""How likely each phase is to come next."""

RECOVERY = 0.7
"""Share of destructive phases that are taken back."""

LAST = len(MULTIPLIERS) - 1


class RandomSchedule:
    """Phases of a few decisions each, drawn one after the other:

    - *hold* keeps everything for 1 to 5 decisions;
    - *drift* moves one hyperparameter by the same mild factor (up to 2) for 2 to 5 decisions;
    - *jitter* moves 1 to 3 hyperparameters by any factors, for 1 to 3 decisions;
    - *destroy* moves 1 to 3 hyperparameters by a factor of 4 in one direction, for 1 to 3 decisions, then holds for up
      to 2; with probability :data:`RECOVERY` the same steps are then taken back.
    """

    name = "random-schedule"
    observation = "vector"
    action = "discrete"

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. All draws come from ``seed``."""
        self._generator = np.random.default_rng(seed)
        self._size = len(spec.hyperparameters.hot)
        self._ahead: deque[NDArray[np.int64]] = deque()

    def act(self, observation: Any) -> NDArray[np.int64]:
        """The next update of the schedule, as choices of the ``discrete`` action."""
        while not self._ahead:
            phase = PHASES[int(self._generator.choice(len(PHASES), p=CHANCES))]
            getattr(self, f"_{phase}")()
        return self._ahead.popleft()

    def _hold(self, longest: int = 5, shortest: int = 1) -> None:
        for _ in range(self._between(shortest, longest)):
            self._ahead.append(self._keep())

    def _drift(self) -> None:
        update = self._keep()
        mild = [KEEP - 2, KEEP - 1, KEEP + 1, KEEP + 2]
        update[self._generator.integers(self._size)] = mild[self._generator.integers(len(mild))]
        self._ahead.extend(update.copy() for _ in range(self._between(2, 5)))

    def _jitter(self) -> None:
        for _ in range(self._between(1, 3)):
            update = self._keep()
            for column in self._columns():
                update[column] = self._generator.integers(LAST + 1)
            self._ahead.append(update)

    def _destroy(self) -> None:
        update = self._keep()
        for column in self._columns():
            update[column] = 0 if self._generator.random() < 0.5 else LAST
        times = self._between(1, 3)
        self._ahead.extend(update.copy() for _ in range(times))
        self._hold(longest=2, shortest=0)
        if self._generator.random() < RECOVERY:
            self._ahead.extend(LAST - update for _ in range(times))

    def _columns(self) -> list[int]:
        count = min(self._between(1, 3), self._size)
        columns: list[int] = self._generator.choice(self._size, count, replace=False).tolist()
        return columns

    def _between(self, low: int, high: int) -> int:
        return int(self._generator.integers(low, high + 1))

    def _keep(self) -> NDArray[np.int64]:
        return np.full(self._size, KEEP, dtype=np.int64)
