"""One batch, several kinds of actions: meta-agents of different interfaces side by side in one population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from hpbench.control.action import ActionReader, Update, make_reader
from hpbench.control.options import CHOICES
from hpbench.errors import InvalidAction
from hpbench.hyperparameter import KEEP, MULTIPLIERS, HyperparameterSpace

Choices = NDArray[np.int8]
"""One index into :data:`~hpbench.hyperparameter.MULTIPLIERS` per hot hyperparameter: int8 ``[hot]``."""


class Tagged(NamedTuple):
    """An action and the kind it is of: ``delta``, ``absolute``, ``discrete`` or ``text``."""

    kind: str
    action: Any


class TaggedReader(ActionReader):
    """Reads :class:`Tagged` actions, each by the reader of its kind. Put in place of a batch's own reader."""

    def __init__(self, hyperparameters: HyperparameterSpace) -> None:
        super().__init__(hyperparameters)
        self.readers = {kind: make_reader(kind, hyperparameters) for kind in CHOICES["action"]}

    def space(self) -> gym.Space[Any]:
        """That of the ``delta`` action. Tagged actions have none of their own; each kind has: see ``readers``."""
        return self.readers["delta"].space()

    def read(self, action: Any, values: Sequence[float]) -> Update:
        """What the action's own reader makes of it."""
        if not isinstance(action, Tagged) or action.kind not in self.readers:
            raise InvalidAction(f"expected a tagged action of one of {sorted(self.readers)}, got {action!r}")
        return self.readers[action.kind].read(action.action, values)


def keep(hyperparameters: HyperparameterSpace) -> Choices:
    """The choices that change nothing."""
    return np.full(len(hyperparameters.hot), KEEP, dtype=np.int8)


def discrete(choices: Choices) -> Tagged:
    """Choices as an action."""
    return Tagged("discrete", choices.astype(np.int64))


def apply(hyperparameters: HyperparameterSpace, values: Sequence[float], choices: Choices) -> tuple[float, ...]:
    """All values after the choices, float ``[hyperparameters]``."""
    new = list(values)
    for name, choice in zip(hyperparameters.hot, choices.tolist(), strict=True):
        column = hyperparameters.index(name)
        new[column] = hyperparameters[name].multiply(new[column], MULTIPLIERS[choice])[0]
    return tuple(new)


def nearest(hyperparameters: HyperparameterSpace, values: Sequence[float], targets: Sequence[float]) -> Choices:
    """The choices that come closest to taking ``values`` to ``targets`` in one decision, each on its own scale.

    Args:
        hyperparameters: of the learner.
        values, targets: of all hyperparameters, in order.
    """
    choices = keep(hyperparameters)
    for k, name in enumerate(hyperparameters.hot):
        item, column = hyperparameters[name], hyperparameters.index(name)
        goal = item.to_unit(targets[column])
        distances = [abs(item.to_unit(item.multiply(values[column], factor)[0]) - goal) for factor in MULTIPLIERS]
        # Of equal ones (at a bound, several factors lead to it) the mildest.
        choices[k] = min(range(len(MULTIPLIERS)), key=lambda i: (round(distances[i], 12), abs(i - KEEP)))
    return choices
