"""Learning-rate decay over the budget: linear and cosine."""

from __future__ import annotations

import math
from typing import Any

from agents.delta import LEARNING_RATE, DeltaAction, delta_towards, hot_column, keep_all
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration


class LinearDecay:
    """Anneals the learning rate linearly from what the track starts with.

    Segment ``k`` of ``n`` trains with ``start * (1 - (1 - final_fraction) * k / n)``: the value at the segment's
    beginning, as in the PPO of OpenAI baselines and its descendants (Huang et al., "The 37 implementation details of
    proximal policy optimization", ICLR blog track 2022, detail 4). So the first segment trains with the start value,
    and the last one with slightly more than ``final_fraction`` of it.

    The other hyperparameters stay exactly as they are, which is why the action is ``delta``. One ``delta`` divides by
    4 at most and stops at the bound; where the schedule falls faster, the next decisions catch up.

    Args:
        final_fraction: share of the starting value that the schedule ends with, in ``[0, 1]``; 0 goes as low as the
            hyperparameter's bound allows.

    Raises:
        InvalidConfiguration: if ``final_fraction`` is outside ``[0, 1]``.
    """

    name = "linear-decay"
    observation = "vector"
    action = "delta"

    def __init__(self, final_fraction: float = 0.0) -> None:
        if not 0.0 <= final_fraction <= 1.0:
            raise InvalidConfiguration(f"final_fraction must be between 0 and 1, got {final_fraction}")
        self.final_fraction = final_fraction

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here.

        Raises:
            InvalidConfiguration: if the learner has no hot learning rate.
        """
        self._spec = spec
        self._column = hot_column(spec, LEARNING_RATE)
        self._start: float | None = None

    def act(self, observation: Any) -> DeltaAction:
        """The ``delta`` action that puts the learning rate on the schedule."""
        features = self._spec.schema.values(observation)
        value = features[f"hp_{LEARNING_RATE}"]
        if self._start is None:
            self._start = value
        share = self.final_fraction + (1.0 - self.final_fraction) * self._remaining(features["budget_fraction"])
        action = keep_all(self._spec)
        action[self._column] = delta_towards(self._spec.hyperparameters[LEARNING_RATE], value, self._start * share)
        return action

    def _remaining(self, progress: float) -> float:
        """The falling part of the schedule: 1 at ``progress`` 0, 0 at ``progress`` 1."""
        return 1.0 - progress


class CosineDecay(LinearDecay):
    """Anneals the learning rate along half a cosine from what the track starts with.

    Segment ``k`` of ``n`` trains with ``start * (f + (1 - f) * (1 + cos(pi * k / n)) / 2)``, ``f`` being
    ``final_fraction`` (Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
    equation 5, without restarts). All else is as in :class:`LinearDecay`.
    """

    name = "cosine-decay"

    def _remaining(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2.0
