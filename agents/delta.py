"""``delta`` actions for agents that steer one hyperparameter and leave the others exactly as they are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import DELTA_FACTOR, DELTA_LINEAR, Hyperparameter

LEARNING_RATE = "learning_rate"

DeltaAction = NDArray[np.float32]
"""float32 ``[hot hyperparameters]`` in ``[-1, 1]``; 0 keeps a value exactly."""


def keep_all(spec: AgentSpec) -> DeltaAction:
    """The action that changes nothing."""
    return np.zeros(len(spec.hyperparameters.hot), dtype=np.float32)


def hot_column(spec: AgentSpec, name: str) -> int:
    """Where ``name`` stands in the action.

    Raises:
        InvalidConfiguration: if the learner has no such hyperparameter, or may not change it while it trains.
    """
    hot = spec.hyperparameters.hot
    if name not in hot:
        raise InvalidConfiguration(
            f"learner {spec.learner!r} has no hot hyperparameter {name!r}; hot are: {', '.join(hot)}"
        )
    return hot.index(name)


def delta_towards(item: Hyperparameter, value: float, target: float) -> float:
    """The ``delta`` action that takes ``value`` to ``target``, or as far as one decision reaches (a factor of 4).

    The target is first brought inside the bounds, so that the environment never has to cut the change short. This is
    the inverse of :meth:`hpbench.hyperparameter.Hyperparameter.shift`.
    """
    target = min(max(target, item.low), item.high)
    if item.scale == "log":
        delta = math.log(target / value) / math.log(DELTA_FACTOR)
    elif item.scale == "log1m":
        delta = math.log((1.0 - value) / (1.0 - target)) / math.log(DELTA_FACTOR)
    else:
        delta = (target - value) / (DELTA_LINEAR * (item.high - item.low))
    return min(max(delta, -1.0), 1.0)
