"""A learning rate that follows the policy's step size."""

from __future__ import annotations

import math
from typing import Any

from agents.delta import LEARNING_RATE, DeltaAction, delta_towards, hot_column, keep_all
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import DELTA_FACTOR

DIVERGENCE = "approx_kl"
BAND = 2.0
"""The Kullback-Leibler divergence may lie this factor above or below the target without a reaction."""


class KLAdaptive:
    """Raises the learning rate while the policy moves too little, lowers it while the policy moves too much.

    With ``kl`` the mean approximate Kullback-Leibler divergence between the old and the new policy over the last
    segment:

    - ``kl > 2 * target``: learning rate divided by ``factor``;
    - ``kl < target / 2``: learning rate multiplied by ``factor``;
    - otherwise, or where no divergence was measured yet: kept.

    Steering towards a target divergence is from Schulman et al., "Proximal policy optimization algorithms" (2017),
    section 4, who adapt a penalty by 2 outside a band of 1.5. Adapting the learning rate instead, with a band of 2
    and a factor of 1.5, is the rule of the ``AdaptiveScheduler`` in rl_games, the ``adaptive`` schedule in rsl_rl and
    ``KLAdaptiveLR`` in skrl. Those apply it at every update; here it acts once per decision.

    Args:
        target: the divergence to aim at, above 0.
        factor: the change of one decision, above 1 and at most 4 (the reach of a ``delta`` action).

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    name = "kl-adaptive"
    observation = "vector"
    action = "delta"

    def __init__(self, target: float = 0.01, factor: float = 1.5) -> None:
        if not 0.0 < target < math.inf:
            raise InvalidConfiguration(f"target must be above 0, got {target}")
        if not 1.0 < factor <= DELTA_FACTOR:
            raise InvalidConfiguration(f"factor must be above 1 and at most {DELTA_FACTOR:g}, got {factor}")
        self.target = target
        self.factor = factor

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here.

        Raises:
            InvalidConfiguration: if the learner has no hot learning rate.
            UnknownName: if the learner measures no divergence.
        """
        self._spec = spec
        self._column = hot_column(spec, LEARNING_RATE)
        spec.schema.column(DIVERGENCE)

    def act(self, observation: Any) -> DeltaAction:
        """The ``delta`` action of the rule above."""
        features = self._spec.schema.values(observation)
        value = features[f"hp_{LEARNING_RATE}"]
        action = keep_all(self._spec)
        target = value * self._multiplier(features.get(DIVERGENCE))
        action[self._column] = delta_towards(self._spec.hyperparameters[LEARNING_RATE], value, target)
        return action

    def _multiplier(self, kl: float | None) -> float:
        if kl is None:
            return 1.0
        if kl > BAND * self.target:
            return 1.0 / self.factor
        if kl < self.target / BAND:
            return self.factor
        return 1.0
