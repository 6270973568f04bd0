"""Seeded variants of a task: the same problem with other physics.

A variant is a pure function of task, split and index, and stays the same forever: every parameter has a random number
of its own, keyed by names, so neither new parameters nor new tasks nor larger splits change what exists. Values are
kept to four significant digits, so they do not depend on the last bit of a platform's ``pow`` either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from hpbench.errors import UnknownName
from hpbench.seeding import derive_seed
from hpbench.tasks.base import VARIANTS, Split, Task

ROOT_ENTROPY = 0x68_70_62_65_6E_63_68
DIGITS = 4

WITHOUT_NOISE = 0.5
"""Share of variants whose observations are exact; likewise for other parameters that are 0 by standard."""
WITHOUT_DELAY = 0.7
"""Share of variants whose actions act at once; likewise for other whole numbers."""

WHOLE = ("action_delay", "see_through")
"""Parameters that are whole numbers."""

LEVEL_POOL = "level_pool"
"""The parameter that says which pool of levels a task trains on: each variant has its own, the standard task has 0."""
_POOLS = ("train", "validation", "test")

_INDEX = re.compile(r"0|[1-9][0-9]*")


def variant_names(split: str) -> list[str]:
    """The part of the id after ``@``, for all variants of a split, in order.

    Raises:
        UnknownName: if there is no such split.
    """
    if split not in VARIANTS:
        raise UnknownName("split", split, VARIANTS)
    return [f"{split}-{index}" for index in range(VARIANTS[split])]


def make_variant(task: Task, name: str) -> Task:
    """A variant of a standard task.

    It differs in id, split and physics only. Anchors, budgets and time limit are those of the base task, so a score may
    not reach 1 where the physics are harder. So are the hand-tuned values: published for the base task, not for this.

    Args:
        task: the standard task.
        name: ``split-index``, for example ``train-17``.

    Raises:
        UnknownName: if the split does not exist, or the index is malformed or out of range.
    """
    split, _, index = name.rpartition("-")
    if split not in VARIANTS:
        raise UnknownName(f"split in {task.id}@{name}, which must be split-index: split", split or name, VARIANTS)
    if not _INDEX.fullmatch(index) or int(index) >= VARIANTS[split]:
        raise UnknownName(f"variant of {task.id}", name, [f"{split}-0 to {split}-{VARIANTS[split] - 1}"])
    return replace(
        task, id=f"{task.id}@{name}", split=cast(Split, split), physics=_draw_physics(task, split, int(index))
    )


def _draw_physics(task: Task, split: str, index: int) -> Mapping[str, float]:
    physics = {}
    for name, standard in task.physics.items():
        low, high = task.dynamics.variation[name]
        uniform = _uniform(task.id, split, index, name)
        if name == LEVEL_POOL:
            value = float(1 + len(_POOLS) * index + _POOLS.index(split))
        elif name in WHOLE:
            value = math.ceil(high * _excess(uniform, WITHOUT_DELAY))
        elif standard == 0.0:
            value = high * _excess(uniform, WITHOUT_NOISE)
        else:
            value = standard * low * (high / low) ** uniform
        physics[name] = float(f"{value:.{DIGITS - 1}e}")
    return physics


def _excess(uniform: float, share: float) -> float:
    """0 for that share of the draws, uniform in (0, 1) for the others."""
    return max(0.0, (uniform - share) / (1.0 - share))


def _uniform(task: str, split: str, index: int, parameter: str) -> float:
    """A number in [0, 1) that belongs to these names."""
    words = (int.from_bytes(name.encode(), "big") for name in (task, split, parameter))
    return (derive_seed(ROOT_ENTROPY, index, *words) >> 10) * 2.0**-53
