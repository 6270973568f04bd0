"""Half of an update, and the action that makes it, for every kind of action."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.delta import delta_towards
from hpbench.hyperparameter import MULTIPLIERS, Hyperparameter, HyperparameterSpace

Row = tuple[float, ...]


def half_way(hyperparameters: HyperparameterSpace, old: Sequence[float], new: Sequence[float]) -> Row:
    """Values halfway back from ``new`` to ``old``, each on its own scale: the square root of a factor.

    What has no value in between, such as neighbouring whole numbers, goes back all the way.
    """
    items = hyperparameters.values()
    return tuple(_half(item, before, after) for item, before, after in zip(items, old, new, strict=True))


def action_towards(
    kind: str, hyperparameters: HyperparameterSpace, current: Sequence[float], target: Sequence[float], names: Any
) -> Any:
    """The action that brings the current values to the target, or as near as one decision can.

    ``text`` and ``absolute`` reach it exactly, ``delta`` to the rounding of a factor and no further than a factor of 4,
    ``discrete`` takes the nearest of its factors that does not go beyond it.

    Args:
        kind: ``delta``, ``absolute``, ``discrete`` or ``text``.
        hyperparameters: all of the learner's.
        current, target: a value for each of them, in order.
        names: what each of them is called in texts, in order.
    """
    rows = [
        (name, item, now, then)
        for name, item, now, then in zip(names, hyperparameters.values(), current, target, strict=True)
        if item.hot
    ]
    if kind == "text":
        return json.dumps({name: then for name, _, now, then in rows if then != now})
    if kind == "discrete":
        return np.array([_choice(item, now, then) for _, item, now, then in rows], dtype=np.int64)
    if kind == "absolute":
        return np.array([item.to_action(then) for _, item, _, then in rows], dtype=np.float32)
    moves = [0.0 if now == then else delta_towards(item, now, then) for _, item, now, then in rows]
    return np.array(moves, dtype=np.float32)


def _half(item: Hyperparameter, old: float, new: float) -> float:
    if old == new:
        return old
    middle = item.from_unit((item.to_unit(old) + item.to_unit(new)) / 2.0)
    return old if middle == new else middle


def _choice(item: Hyperparameter, now: float, then: float) -> int:
    """Of the factors that do not go beyond the target, the one that comes nearest; the weakest one of equals."""
    goal, start = item.to_unit(then), item.to_unit(now)

    def distance(choice: int) -> tuple[float, float]:
        reached = item.to_unit(item.multiply(now, MULTIPLIERS[choice])[0])
        beyond = abs(reached - start) > abs(goal - start) * (1.0 + 1e-3)  # five digits are not exact
        return (np.inf if beyond else abs(reached - goal)), abs(np.log(MULTIPLIERS[choice]))

    return min(range(len(MULTIPLIERS)), key=distance)
