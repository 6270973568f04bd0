"""What is tried from a state: updates in the words of the ``discrete`` action, the first of them a no-op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.training.tagged import Choices, apply, keep, nearest
from hpbench.agent import AgentSpec
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP, MULTIPLIERS, HyperparameterSpace

ORIGINS = ("keep", "own", "default", "tuned", "single", "several")
"""Where a candidate comes from: the no-op; the update that the run's own behaviour is about to make; towards the
library's defaults; towards the best published values; one hyperparameter at random; several at random."""

SINGLE = 0.5
"""Share of single changes among the random candidates."""

TARGETED = 0.75
"""How often a step towards each of the known settings is tried. From random starts such steps gain far more often than
changes at random, so few states should go without."""

ATTEMPTS = 1000
"""Draws after which a state is taken to have no more distinct updates."""


@dataclass(frozen=True)
class Candidates:
    """The updates to try from one state.

    Args:
        choices: int8 ``[K][hot]``, no two of the same effect; the first keeps everything.
        origins: one of :data:`ORIGINS` each.
    """

    choices: tuple[Choices, ...]
    origins: tuple[str, ...]


def draw_candidates(
    generator: np.random.Generator, spec: AgentSpec, values: Sequence[float], own: Sequence[float], count: int
) -> Candidates:
    """Candidates for a state.

    Besides the no-op: what the behaviour itself is about to do (the nearest choices, if they change anything); a step
    towards the defaults and one towards published values (each with probability 3/4; of all hyperparameters or, as
    likely, of a random half of them); the rest at random, half of it changes of a single hyperparameter, half of it of
    2 to 4.

    Args:
        generator: all draws.
        spec: of the meta-episode.
        values: hyperparameters in force, in order.
        own: those that the behaviour is about to set.
        count: K, at least 2.

    Raises:
        InvalidConfiguration: if the state has not as many updates of different effect.
    """
    space = spec.hyperparameters
    found = [keep(space)]
    origins = ["keep"]
    effects = {apply(space, values, found[0])}

    def add(choices: Choices, origin: str) -> None:
        effect = apply(space, values, choices)
        if len(found) < count and effect not in effects:
            effects.add(effect)
            found.append(choices)
            origins.append(origin)

    add(nearest(space, values, own), "own")
    for origin, target in _targets(spec):
        towards = nearest(space, values, target)
        asked, whole = generator.random() < TARGETED, generator.random() < 0.5
        taken = whole | (generator.random(len(towards)) < 0.5)
        if asked:
            add(np.where(taken, towards, KEEP).astype(np.int8), origin)
    for _ in range(ATTEMPTS):
        if len(found) == count:
            return Candidates(tuple(found), tuple(origins))
        add(*_random(generator, space))
    raise InvalidConfiguration(f"{spec.learner} has fewer than {count} updates of different effect: try fewer")


def _targets(spec: AgentSpec) -> list[tuple[str, list[float]]]:
    defaults = spec.hyperparameters.defaults()
    targets = [("default", list(defaults.values()))]
    tuned = spec.task.hand_tuned.get(spec.learner)
    if tuned is not None:
        targets.append(("tuned", list((defaults | dict(tuned.values)).values())))
    return targets


def _random(generator: np.random.Generator, space: HyperparameterSpace) -> tuple[Choices, str]:
    choices, size = keep(space), len(space.hot)
    single = generator.random() < SINGLE or size < 2
    changed = 1 if single else int(generator.integers(2, min(4, size) + 1))
    others = [choice for choice in range(len(MULTIPLIERS)) if choice != KEEP]
    for column in generator.choice(size, changed, replace=False).tolist():
        choices[column] = others[int(generator.integers(len(others)))]
    return choices, "single" if single else "several"
