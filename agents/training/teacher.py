"""A teacher: constant settings that a search has found for each task, and the choices that lead to them.

A model that imitates it learns to read where the hyperparameters are and to take them where they belong: one run then
does at once what the search needed many runs for. Reinforcement learning goes on from there, with the teacher's weight
falling to 0 (kickstarting, Schmitt et al. 2018).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agents.language.prompt import shown_in
from agents.training.tagged import Choices, nearest
from hpbench import learners
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import KEEP
from hpbench.tasks import make as make_task

Settings = dict[str, dict[str, float]]
"""Values of all hot hyperparameters of one learner, by base task."""

_LEARNER = re.compile(r"^task \S+ learner (\w+)$", re.MULTILINE)


class Teacher:
    """What to choose where.

    Args:
        settings: values by base task, such as ``{"classic/acrobot": {"learning_rate": 0.003, ...}}``.
        tolerance: a hyperparameter is kept while it is within this factor of where it belongs, on its own scale. Above
            1, what imitates the teacher comes to rest, though it reads values by coarse levels.

    Raises:
        UnknownName: for a task or a hyperparameter that does not exist.
        InvalidConfiguration: if the values of a task are not those of all hot hyperparameters of one learner, or the
            tolerance is below 1.
    """

    def __init__(self, settings: Mapping[str, Mapping[str, float]], tolerance: float = 1.0) -> None:
        if not tolerance >= 1.0:
            raise InvalidConfiguration(f"the teacher's tolerance is a factor of at least 1, got {tolerance}")
        self._tolerance = tolerance
        self._goals: dict[tuple[str, str], tuple[float, ...]] = {}
        spaces = {name: learners.make(name).hyperparameters for name in learners.LEARNERS}
        known = sorted({name for space in spaces.values() for name in space})
        for base, values in settings.items():
            make_task(base)
            for name in values:
                if name not in known:
                    raise UnknownName("hyperparameter", name, known)
            fitting = [name for name, space in spaces.items() if set(space.hot) == set(values)]
            if not fitting:
                raise InvalidConfiguration(
                    f"the teacher's values for {base} must be those of all hot hyperparameters of one learner, "
                    f"not {', '.join(values)}"
                )
            for name in fitting:
                goal = spaces[name].defaults() | dict(values)
                self._goals[base, name] = tuple(spaces[name][each].canonical(goal[each]) for each in spaces[name])

    def __bool__(self) -> bool:
        return bool(self._goals)

    def choices(self, observation: str, base: str) -> Choices | None:
        """The choices that come closest to the task's settings in one decision; None where it has nothing to say.

        Args:
            observation: text with real names of hyperparameters; the task may be unnamed.
            base: the task, without variant.
        """
        match = _LEARNER.search(observation)
        goal = None if match is None else self._goals.get((base, match[1]))
        if match is None or goal is None:
            return None
        space, shown = learners.make(match[1]).hyperparameters, shown_in(observation)
        if set(shown) != set(space):
            return None
        values = [shown[name].value for name in space]
        choices = nearest(space, values, goal)
        for k, name in enumerate(space.hot):
            column = space.index(name)
            low, high = (space[name].multiply(goal[column], t)[0] for t in (1.0 / self._tolerance, self._tolerance))
            if low <= values[column] <= high:
                choices[k] = KEEP
        return choices
