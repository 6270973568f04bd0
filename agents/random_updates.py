"""Random updates: what an agent must beat to show that it reads its observation."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.delta import DeltaAction
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration


class RandomUpdates:
    """Moves every hot hyperparameter at every decision by a ``delta`` drawn uniformly from ``[-1, 1]``."""

    name = "random"
    observation = "vector"
    action = "delta"

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. All draws come from ``seed``."""
        self._generator = np.random.default_rng(seed)
        self._size = len(spec.hyperparameters.hot)

    def act(self, observation: Any) -> DeltaAction:
        """A random ``delta`` action."""
        return self._generator.uniform(-1.0, 1.0, self._size).astype(np.float32)


class RandomMatched(RandomUpdates):
    """Random updates that leave most values alone.

    At each decision every hyperparameter is edited with probability ``edit_rate``, independently; an edit is a
    ``delta`` drawn uniformly from ``[-1, 1]``. Set ``edit_rate`` to the share of edits that another agent makes, and
    the difference between the two is what the other one's choices are worth, apart from how often it chooses.

    Args:
        edit_rate: probability of an edit, in ``[0, 1]``.

    Raises:
        InvalidConfiguration: if ``edit_rate`` is not a probability.
    """

    name = "random-matched"

    def __init__(self, edit_rate: float = 0.25) -> None:
        if not 0.0 <= edit_rate <= 1.0:
            raise InvalidConfiguration(f"edit_rate must be between 0 and 1, got {edit_rate}")
        self.edit_rate = edit_rate

    def act(self, observation: Any) -> DeltaAction:
        """A random ``delta`` action with a 0 where the value stays."""
        delta = super().act(observation)
        delta[self._generator.random(self._size) >= self.edit_rate] = 0.0
        return delta
