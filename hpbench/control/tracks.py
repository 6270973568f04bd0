"""Tracks: how a meta-episode starts, and whether its task changes on the way."""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from hpbench import learners, tasks
from hpbench.control.options import EnvOptions
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.seeding import derive_seed
from hpbench.tasks.base import VARIANTS, Split, Task
from hpbench.tasks.variants import variant_names

CONFIGURATIONS = 64
"""Initial configurations of the ``random`` track, per learner."""

CONFIGURATION_SEED = 20_260
"""What the list of configurations is made from. Frozen: scores on ``random`` depend on it."""

INITIAL_RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "ppo": {
        "learning_rate": (3e-5, 1e-2),
        "entropy_coefficient": (1e-5, 0.1),
        "value_coefficient": (0.1, 1.0),
        "clip_range": (0.05, 0.5),
        "discount": (0.9, 0.999),
        "gae_lambda": (0.8, 0.99),
        "max_gradient_norm": (0.1, 5.0),
        "update_epochs": (1.0, 16.0),
        "minibatches": (1.0, 16.0),
    },
    "dqn": {
        "learning_rate": (3e-5, 1e-2),
        "discount": (0.9, 0.999),
        "epsilon": (0.01, 0.5),
        "tau": (1e-3, 1.0),
        "batch_size": (16.0, 256.0),
        "train_frequency": (1.0, 32.0),
        "n_step": (1.0, 8.0),
        "max_gradient_norm": (0.5, 50.0),
    },
    "sac": {
        "actor_learning_rate": (3e-5, 1e-2),
        "critic_learning_rate": (3e-5, 1e-2),
        "temperature_learning_rate": (3e-5, 1e-2),
        "tau": (1e-3, 0.1),
        "discount": (0.9, 0.999),
        "target_entropy": (0.2, 0.9),
        "batch_size": (32.0, 512.0),
        "updates_per_step": (0.1, 2.0),
    },
}
"""Where the ``random`` track draws from, by learner: values that somebody could have chosen. Others: the whole
range."""

SHIFT_WINDOW = (0.3, 0.7)
"""The task of the ``shift`` track changes after a share of the decisions inside this window."""


class Draw(enum.IntEnum):
    """What an episode's seed decides here, apart from the learner's own streams. New ones go at the end."""

    TASK = 101
    CONFIGURATION = 102
    SHIFT_TIME = 103
    SHIFT_TASK = 104


def draw(seed: int, what: Draw, count: int) -> int:
    """One of ``count`` equally likely numbers, decided by the episode's seed."""
    return derive_seed(seed, int(what)) % count


def starting_task(options: EnvOptions, seed: int) -> Task:
    """The task named by the options, or one drawn by the episode's seed: a variant of the named task, or one of the
    split.

    Raises:
        UnknownName: if there is no such task or family.
        InvalidConfiguration: if the task is of another family.
    """
    if options.task is not None:
        base, _, split = options.task.partition("@")
        drawn = [f"{base}@{name}" for name in variant_names(split)] if split in VARIANTS else [options.task]
        task = tasks.make(drawn[draw(seed, Draw.TASK, len(drawn))])
        if task.family != options.family:
            raise InvalidConfiguration(
                f"task {task.id!r} is not of the family {options.family!r}: use an environment id of its family"
            )
        return task
    ids = task_pool(options.family, options.split, options.learner)
    return tasks.make(ids[draw(seed, Draw.TASK, len(ids))])


@functools.cache
def task_pool(family: str, split: str, learner: str) -> tuple[str, ...]:
    """Sorted ids of a split: the published tasks that the learner can learn, or all their variants in that split.

    Raises:
        UnknownName: if there is no such family or learner.
        InvalidConfiguration: if the learner can learn none of them.
    """
    can_learn = learners.make(learner).can_learn
    fitting = {name for name in tasks.task_ids(family) if can_learn(tasks.make(name))}
    if not fitting:
        raise InvalidConfiguration(f"learner {learner!r} can learn no task of the family {family!r}")
    return tuple(
        sorted(name for name in tasks.task_ids(family, cast("Split", split)) if name.partition("@")[0] in fitting)
    )


def configurations(learner: str, hyperparameters: HyperparameterSpace) -> tuple[Mapping[str, float], ...]:
    """The fixed list of initial values of the ``random`` track: the hot hyperparameters, by name.

    Uniform on each hyperparameter's scale inside its range, and made from bits that NumPy guarantees
    (``SeedSequence.generate_state``), with one sequence per learner and hyperparameter name.
    """
    return _configurations(learner, tuple(item for item in hyperparameters.values() if item.hot))


@functools.cache
def _configurations(learner: str, items: tuple[Hyperparameter, ...]) -> tuple[Mapping[str, float], ...]:
    ranges = INITIAL_RANGES.get(learner, {})
    columns: dict[str, list[float]] = {}
    for item in items:
        low, high = (item.to_unit(bound) for bound in ranges.get(item.name, (item.low, item.high)))
        entropy = [CONFIGURATION_SEED, *learner.encode(), 0, *item.name.encode()]
        words = np.random.SeedSequence(entropy).generate_state(CONFIGURATIONS, np.uint64)
        units = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        columns[item.name] = [item.from_unit(low + unit * (high - low)) for unit in units.tolist()]
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def initial_values(track: str, learner: str, hyperparameters: HyperparameterSpace, seed: int) -> dict[str, float]:
    """All hyperparameters that the learner starts with."""
    values = hyperparameters.defaults()
    if track == "random":
        values.update(configurations(learner, hyperparameters)[draw(seed, Draw.CONFIGURATION, CONFIGURATIONS)])
    return values


def shift_decision(decisions: int, seed: int) -> int:
    """After how many decisions the task changes: one of the boundaries inside the window, or the one next to its
    middle."""
    low, high = (share * decisions for share in SHIFT_WINDOW)
    inside: Sequence[int] = [d for d in range(1, decisions) if low - 1e-9 <= d <= high + 1e-9]
    if not inside:
        inside = [max(1, decisions // 2)]
    return inside[draw(seed, Draw.SHIFT_TIME, len(inside))]


def shifted_task(task: Task, split: str, seed: int) -> Task:
    """The variant that a task of the ``shift`` track changes to, another one than the task itself.

    It is of the task's own split if the task is a variant, else of the environment's split; of ``test`` if that is
    ``standard``, so that what a benchmark shifts to is never what agents are trained on.
    """
    own = split if task.split == "standard" else task.split
    own = "test" if own == "standard" else own
    candidates = [f"{task.base}@{own}-{i}" for i in range(VARIANTS[own])]
    candidates = [name for name in candidates if name != task.id]
    return tasks.make(candidates[draw(seed, Draw.SHIFT_TASK, len(candidates))])
