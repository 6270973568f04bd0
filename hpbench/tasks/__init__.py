"""Tasks: the RL problems that inner learners train on, by id.

An id is ``family/name`` for a task as published, and ``family/name@split-index`` for a seeded variant of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpbench.errors import UnknownName
from hpbench.registry import Registry
from hpbench.tasks.base import VARIANTS, Split, Task

FAMILIES = Registry(
    "task family",
    {
        "classic": "hpbench.tasks.classic:TASKS",
        "grid": "hpbench.tasks.grid:TASKS",
        "procgen": "hpbench.tasks.procgen:TASKS",
        "nethack": "hpbench.tasks.nethack:TASKS",
        "mujoco": "hpbench.tasks.mujoco:TASKS",
        "pettingzoo": "hpbench.tasks.pettingzoo:TASKS",
        "doom": "hpbench.tasks.doom:TASKS",
        "dmlab": "hpbench.tasks.dmlab:TASKS",
    },
    group="hpbench.tasks",
)
"""Import paths of the families. A family is a ``Mapping[str, Task]`` from name to standard task."""


def family_tasks(family: str) -> Mapping[str, Task]:
    """The standard tasks of a family by name.

    Raises:
        UnknownName: if there is no such family.
    """
    FAMILIES[family]  # a name only: an id must never import a module that it spells out itself
    tasks: Mapping[str, Task] = FAMILIES.load(family)
    return tasks


def make(task_id: str) -> Task:
    """The task of that id.

    Raises:
        UnknownName: if family, task or variant do not exist; the message names the nearest that do.
    """
    base, at, variant = task_id.partition("@")
    family, slash, name = base.partition("/")
    if not slash:
        raise UnknownName("task", task_id, task_ids())
    tasks = family_tasks(family)
    if name not in tasks:
        raise UnknownName("task", base, [f"{family}/{known}" for known in tasks])
    if not at:
        return tasks[name]
    from hpbench.tasks.variants import make_variant

    return make_variant(tasks[name], variant)


def of_split(task_id: str) -> Task:
    """The task of that id; for a whole split of variants (``classic/cartpole@test``), the first one of them, which has
    budgets and spaces in common with the others.

    Raises:
        UnknownName: as :func:`make`.
    """
    from hpbench.tasks.variants import variant_names

    base, _, split = task_id.partition("@")
    return make(f"{base}@{variant_names(split)[0]}" if split in VARIANTS else task_id)


def task_ids(family: str | None = None, split: str = "standard") -> list[str]:
    """Ids of all tasks of a split, in a fixed order.

    Args:
        family: only this one; None: all families.
        split: ``standard`` for the tasks as published, or a split of variants.

    Raises:
        UnknownName: if family or split do not exist.
    """
    families = FAMILIES if family is None else [family]
    ids = [task.id for each in families for task in family_tasks(each).values()]
    if split == "standard":
        return ids
    from hpbench.tasks.variants import variant_names

    return [f"{task_id}@{variant}" for task_id in ids for variant in variant_names(split)]


__all__ = ["FAMILIES", "Split", "Task", "family_tasks", "make", "of_split", "task_ids"]
