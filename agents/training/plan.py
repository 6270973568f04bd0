"""Which meta-episodes a collection holds: shards, their members, and the line between training and validation.

All of it follows from the settings alone. A *part* of the training variants of every task is kept for validation: the
same one in all collections, so collections can be joined. A run belongs to the part of its task; members that copy each
other share their task; and on the track ``shift`` a task only becomes a variant of its own part. So nothing that a
validation run saw was seen by a training run.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agents.training.schema import SPLITS
from agents.training.settings import CollectSettings
from hpbench.control.options import EnvOptions
from hpbench.control.tracks import shifted_task, starting_task
from hpbench.seeding import derive_seed

VALIDATION_EVERY = 8
"""Every eighth training variant of a task is for validation."""


class Draw(enum.IntEnum):
    """What the seed of a shard decides. New ones go at the end."""

    LAYOUT = 1
    TASK = 2
    SEED = 3
    BRANCHES = 4


@dataclass(frozen=True)
class Shard:
    """One piece of work.

    Args:
        index: position in the collection.
        base, learner, track: what its population trains on, by what, from which start.
        seed: everything else follows from it.
    """

    index: int
    base: str
    learner: str
    track: str
    seed: int

    @property
    def label(self) -> str:
        """What progress shows."""
        return f"{self.base} {self.learner} {self.track}"


@dataclass(frozen=True)
class Group:
    """Members of a shard that belong together: one alone, or a lineage.

    Args:
        behaviour: what steers them.
        split: the part that they belong to.
        seeds: one per member.
        task_seed: for the members' common task.
    """

    behaviour: str
    split: str
    seeds: tuple[int, ...]
    task_seed: int


def part_of(task: str) -> str:
    """The part that a training variant belongs to: ``train`` or ``validation``."""
    index = int(task.rpartition("-")[2])
    return SPLITS[1] if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 else SPLITS[0]


def plan_shards(settings: CollectSettings) -> list[Shard]:
    """All shards. They take tasks in turn, and for each task tracks in turn, so any number of them is a fair mix."""
    combinations, tracks = settings.combinations(), settings.track_cycle()
    shards = []
    for index in range(settings.shards):
        turn, position = divmod(index, len(combinations))
        base, learner = combinations[position]
        track = tracks[(turn + position) % len(tracks)]
        shards.append(Shard(index, base, learner, track, derive_seed(settings.seed, index)))
    return shards


def plan_groups(settings: CollectSettings, shard: Shard, shares: Mapping[str, float]) -> list[Group]:
    """The members of a shard, group by group.

    Args:
        settings: of the collection.
        shard: which one.
        shares: of the behaviours that can steer it.
    """
    generator = np.random.default_rng(derive_seed(shard.seed, Draw.LAYOUT))
    sizes: list[tuple[str, int]] = []
    for behaviour, count in _counts(generator, shares, settings.members).items():
        sizes += [(behaviour, size) for size in _sizes(count, settings.lineages.size if behaviour == "pbt" else 1)]
    order = generator.permutation(len(sizes)).tolist()
    options = settings.options(shard.base, shard.learner, shard.track)
    groups, kept, member = [], 0, 0
    for behaviour, size in (sizes[i] for i in order):
        split = SPLITS[1] if kept < settings.validation * settings.members else SPLITS[0]
        kept += size if split == SPLITS[1] else 0
        task_seed = _seed_for(options, split, shard.seed, member)
        seeds = [task_seed] if size == 1 else [derive_seed(shard.seed, Draw.SEED, member + i) for i in range(size)]
        groups.append(Group(behaviour, split, tuple(seeds), task_seed))
        member += size
    return groups


def _counts(generator: np.random.Generator, shares: Mapping[str, float], members: int) -> dict[str, int]:
    """Members per behaviour: by systematic sampling, so that shares are met over shards however small they are."""
    ends = np.cumsum(list(shares.values()))
    points = (np.arange(members) + generator.random()) / members * ends[-1]
    places = np.searchsorted(ends, points, side="right").tolist()
    return {behaviour: places.count(place) for place, behaviour in enumerate(shares)}


def _sizes(count: int, size: int) -> list[int]:
    """``count`` in as few nearly equal parts of at most ``size`` as possible."""
    parts = -(-count // size)
    return [count // parts + (i < count % parts) for i in range(parts)]


def _seed_for(options: EnvOptions, split: str, *entropy: int) -> int:
    """The first of a sequence of seeds whose task, before and after a shift, is of that part."""
    for attempt in itertools.count():
        seed = derive_seed(*entropy, Draw.TASK, attempt)
        task = starting_task(options, seed)
        seen = [task]
        if options.track == "shift" and part_of(task.id) == split:
            seen.append(shifted_task(task, options.split, seed))
        if all(part_of(each.id) == split for each in seen):
            return seed
    raise AssertionError("unreachable")
