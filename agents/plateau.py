"""A learning rate that falls when learning stalls."""

from __future__ import annotations

import math
from typing import Any

from agents.delta import LEARNING_RATE, DeltaAction, delta_towards, hot_column, keep_all
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import DELTA_FACTOR


class Plateau:
    """Cuts the learning rate when the training return has stopped rising.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with ``mode="max"`` and ``threshold_mode="abs"``, one
    decision taken as one epoch: a segment is an improvement if its mean training return exceeds the best so far by
    more than ``threshold``; after more than ``patience`` segments in a row without one, the learning rate is
    multiplied by ``factor`` and the count starts again. Two differences: returns are compared as normalised scores
    (they have another unit on every task, and the relative threshold that is PyTorch's default turns around where
    returns are negative), and a segment in which no episode ended is left out instead of counted.

    Args:
        patience: how many segments without an improvement are accepted, 0 or more.
        factor: what the learning rate is multiplied with, from 0.25 (the reach of a ``delta`` action) to below 1.
        threshold: smallest improvement that counts, in normalised score, 0 or more.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    name = "plateau"
    observation = "vector"
    action = "delta"

    def __init__(self, patience: int = 2, factor: float = 0.5, threshold: float = 0.01) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
            raise InvalidConfiguration(f"patience must be a whole number, 0 or more, got {patience!r}")
        if not 1.0 / DELTA_FACTOR <= factor < 1.0:
            raise InvalidConfiguration(f"factor must be from {1.0 / DELTA_FACTOR:g} to below 1, got {factor}")
        if not 0.0 <= threshold < math.inf:
            raise InvalidConfiguration(f"threshold must be 0 or more, got {threshold}")
        self.patience = patience
        self.factor = factor
        self.threshold = threshold

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here.

        Raises:
            InvalidConfiguration: if the learner has no hot learning rate.
        """
        self._spec = spec
        self._column = hot_column(spec, LEARNING_RATE)
        self._best = -math.inf
        self._stalled = 0

    def act(self, observation: Any) -> DeltaAction:
        """The ``delta`` action of the rule above."""
        features = self._spec.schema.values(observation)
        action = keep_all(self._spec)
        if self._is_due(features.get("score")):
            value = features[f"hp_{LEARNING_RATE}"]
            item = self._spec.hyperparameters[LEARNING_RATE]
            action[self._column] = delta_towards(item, value, value * self.factor)
        return action

    def _is_due(self, score: float | None) -> bool:
        """Whether the segment just finished exhausts the patience; keeps the counts."""
        if score is None:
            return False
        if score > self._best + self.threshold:
            self._best = score
            self._stalled = 0
            return False
        self._stalled += 1
        if self._stalled <= self.patience:
            return False
        self._stalled = 0
        return True
