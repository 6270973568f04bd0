"""What the meta-episodes of a batch are set in: everything that follows from options and seeds alone."""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hpbench import learners, tasks
from hpbench.agent import AgentSpec
from hpbench.control.action import make_reader
from hpbench.control.history import FeatureBuilder
from hpbench.control.observation import Schema
from hpbench.control.options import EnvOptions, Plan, make_plan, resolve_device
from hpbench.control.text import TextView, text_space
from hpbench.control.tracks import initial_values, shift_decision, shifted_task, starting_task, task_pool
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.learners.population import Population
from hpbench.tasks.base import Task


@functools.cache
def schema_of(learner: type[Population]) -> Schema:
    """The feature schema of a learner class."""
    return Schema(learner.name, learner.hyperparameters)


@functools.cache
def view_of(schema: Schema, names: str) -> TextView:
    """The text view of a schema."""
    return TextView(schema, names)


@functools.cache
def builder_of(schema: Schema) -> FeatureBuilder:
    """What builds the features of a schema."""
    return FeatureBuilder(schema)


class Setting:
    """Tasks, learner, spaces and tracks of a batch. Nothing in it changes while meta-episodes run.

    Args:
        options: what ``gym.make`` takes.
        seeds: one per member.
        threads: CPU threads of the population.
        task_seed: what a missing task, and when and to what it shifts, is drawn from, for all members alike; None: each
            member's own seed.

    Raises:
        UnknownName, InvalidConfiguration: see :class:`~hpbench.control.episode.EpisodeBatch`.
    """

    def __init__(self, options: EnvOptions, seeds: Sequence[int], threads: int, task_seed: int | None = None) -> None:
        self.options, self.threads = options, threads
        self.seeds = tuple(_seed(seed) for seed in seeds)
        if not self.seeds:
            raise InvalidConfiguration("a batch needs at least one seed")
        self.learner = learners.make(options.learner)
        self.hyperparameters = self.learner.hyperparameters
        self.task_seeds = self.seeds if task_seed is None else (_seed(task_seed),) * len(self.seeds)
        self.tasks = [starting_task(options, seed) for seed in self.task_seeds]
        self._check_tasks()
        self.device = resolve_device(options.device, len(self.seeds))
        self._config = self._make_config()
        self.schema = schema_of(self.learner)
        self.view = view_of(self.schema, options.names)
        self.features = builder_of(self.schema)
        self.reader = make_reader(options.action, self.hyperparameters, options.names)

    def take(self, members: Sequence[int]) -> Self:
        """The setting of some members, in that order."""
        other = copy.copy(self)
        other.seeds = tuple(self.seeds[i] for i in members)
        other.task_seeds = tuple(self.task_seeds[i] for i in members)
        other.tasks = [self.tasks[i] for i in members]
        return other

    def join(self, others: Sequence[Self]) -> Self:
        """The setting of all members together, these first.

        Raises:
            InvalidConfiguration: if the others have other options, or tasks that cannot share a population.
        """
        if any(other.options != self.options or other.device != self.device for other in others):
            raise InvalidConfiguration("batches can only be joined if their options and device agree")
        joined = copy.copy(self)
        joined.seeds = sum((other.seeds for other in others), self.seeds)
        joined.task_seeds = sum((other.task_seeds for other in others), self.task_seeds)
        joined.tasks = [*self.tasks, *(task for other in others for task in other.tasks)]
        joined._check_tasks()
        return joined

    def population(self) -> Population:
        """The learners before any training, with the initial values of the track."""
        options, hyperparameters = self.options, self.hyperparameters
        rows = [initial_values(options.track, options.learner, hyperparameters, seed) for seed in self.seeds]
        values = {name: np.array([row[name] for row in rows]) for name in hyperparameters}
        build: Callable[..., Population] = self.learner
        return build(
            self.tasks,
            self.seeds,
            config=self._config,
            values=values,
            device=self.device,
            engine=options.engine,
            threads=self.threads,
        )

    def plan(self, steps_per_rollout: int) -> Plan:
        """The exact step account: the task's budget of the tier, unless the options override it.

        Without a named task, the budgets of all tasks that other seeds could draw are checked as well.

        Raises:
            InvalidConfiguration: if a task has no such tier, or the budget is not met to the step.
        """
        if self.options.task is None:
            for task_id in task_pool(self.options.family, "standard", self.options.learner):
                self._plan(tasks.make(task_id), steps_per_rollout)
        return self._plan(self.tasks[0], steps_per_rollout)

    def _plan(self, task: Task, steps_per_rollout: int) -> Plan:
        tier = self.options.tier
        if tier not in task.budgets:
            raise InvalidConfiguration(f"{task.id} has no budget for tier {tier!r}; it has {sorted(task.budgets)}")
        budget = task.budgets[tier]
        return make_plan(self.options, budget.steps, budget.decisions, steps_per_rollout)

    def shift_at(self, decisions: int) -> list[int]:
        """After how many decisions each member's task changes; -1: never."""
        if self.options.track != "shift":
            return [-1] * len(self.seeds)
        return [shift_decision(decisions, seed) for seed in self.task_seeds]

    def shifted_task(self, member: int) -> Task:
        """The task that a member changes to."""
        return shifted_task(self.tasks[member], self.options.split, self.task_seeds[member])

    def observation_space(self) -> gym.Space[Any]:
        """A new space object for one member's observations."""
        if self.options.observation == "dict":
            return spaces.Dict({"vector": self.schema.box(), "text": text_space()})
        return self.schema.box() if self.options.observation == "vector" else text_space()

    def action_space(self) -> gym.Space[Any]:
        """A new space object for one member's actions."""
        return self.reader.space()

    def specs(self, plan: Plan) -> list[AgentSpec]:
        """What the members' agents are told, each with space objects of its own."""
        return [
            AgentSpec(
                task=task,
                learner=self.options.learner,
                hyperparameters=self.hyperparameters,
                observation_space=self.observation_space(),
                action_space=self.action_space(),
                schema=self.schema,
                decisions=plan.decisions,
                steps=plan.steps,
                track=self.options.track,
            )
            for task in self.tasks
        ]

    def _make_config(self) -> Any:
        overrides = {} if self.options.learner_config is None else self.options.learner_config
        known = [field.name for field in dataclasses.fields(self.learner.config_type)]
        for name in overrides:
            if name not in known:
                raise UnknownName(f"{self.options.learner} config field", name, known)
        # All tasks of a batch have one base, and its configuration with it.
        usual = self.tasks[0].learner_config.get(self.options.tier, {}).get(self.options.learner, {})
        return self.learner.config_type(**{**usual, **overrides})

    def _check_tasks(self) -> None:
        bases = sorted({task.base for task in self.tasks})
        if len(bases) > 1:
            raise InvalidConfiguration(
                f"the seeds {list(self.seeds)} draw different tasks ({', '.join(bases)}), which cannot share a "
                "population: name a task, or make one environment per seed"
            )


def _seed(seed: int) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        raise InvalidConfiguration(f"a seed must be a whole number, got {seed!r}") from None
    if number < 0:
        raise InvalidConfiguration(f"a seed must not be negative, got {number}")
    return number
