"""Grid worlds as batched tensor environments, with the rules of MiniGrid (Chevalier-Boisvert et al. 2023).

The agent turns, walks, takes a key, opens doors, and sees a small part of the grid in front of it. What differs from
MiniGrid is listed in :mod:`hpbench.tasks.grid`. This file has the rules that all grid worlds share;
:mod:`hpbench.tasks.grid_layouts` has what makes them different: how a level is laid out.

The state is float64 ``[members, envs, size * size + 5 + obstacle_slots]``, whole numbers: the code of every cell, row
by row, then the columns of :class:`Part`, then the cells of the moving obstacles (-1: there is none).

``reset`` takes two uniform numbers. The first picks a level from the task's pool, the second seeds all that is random
after that (slips, moving obstacles), so that an episode is a pure function of its state. Both go through a 32-bit mix:
levels and steps need more random numbers than a reset is given.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpbench.tasks.base import COMMON_PHYSICS

VIEW = 5
"""The agent sees ``VIEW`` rows of ``VIEW`` cells; it stands in the middle of the nearest row."""

POOL_BITS = 20
"""A pool holds at most ``2**POOL_BITS`` levels."""

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


class Cell(enum.IntEnum):
    """What a cell holds."""

    EMPTY = 0
    WALL = 1
    OPEN_DOOR = 2
    CLOSED_DOOR = 3
    LOCKED_DOOR = 4
    KEY = 5
    GOAL = 6
    LAVA = 7
    OBSTACLE = 8


class Action(enum.IntEnum):
    """MiniGrid's actions without ``drop`` and ``done``, which no task here needs."""

    LEFT = 0
    RIGHT = 1
    FORWARD = 2
    PICKUP = 3
    TOGGLE = 4


class Part(enum.IntEnum):
    """Columns of the state after the cells."""

    AGENT = 0
    DIRECTION = 1
    CARRYING = 2
    ELAPSED = 3
    SEED = 4


PLANES = ("wall", "door", "key", "goal", "danger", "unseen")
"""What an observation says about each visible cell, 0 or 1; a door is 1/3 if open, 2/3 if closed, 1 if locked."""

OBSERVATION_SIZE = len(PLANES) * VIEW * VIEW + 5
"""The planes one after the other, rows from near to far and left to right; direction, one-hot; carrying a key."""

_SHOWN: Mapping[Cell, tuple[str, float]] = {
    Cell.WALL: ("wall", 1.0),
    Cell.OPEN_DOOR: ("door", 1 / 3),
    Cell.CLOSED_DOOR: ("door", 2 / 3),
    Cell.LOCKED_DOOR: ("door", 1.0),
    Cell.KEY: ("key", 1.0),
    Cell.GOAL: ("goal", 1.0),
    Cell.LAVA: ("danger", 1.0),
    Cell.OBSTACLE: ("danger", 1.0),
}

GRID_PHYSICS: Mapping[str, float] = {
    **COMMON_PHYSICS,
    "levels": 4096.0,
    "level_pool": 0.0,
    "held_out": 0.0,
    "slip": 0.0,
    "see_through": 0.0,
    "step_cost": 0.009,
}
"""Columns of every grid world.

- ``levels``: how many levels the pool holds.
- ``level_pool``: which pool. No two pools share a level seed. Every variant has a pool of its own.
- ``held_out``: 1 in evaluation: levels of a second pool that training never sees.
- ``slip``: probability that a random action replaces the chosen one.
- ``see_through``: 1: walls and doors do not hide what is behind them.
- ``step_cost``: the reward at the goal is 1 minus this for every step taken.
"""

GRID_VARIATION: Mapping[str, tuple[float, float]] = {
    "reward_scale": (0.1, 10.0),
    "observation_noise": (0.0, 0.1),
    "action_delay": (0.0, 1.0),
    "levels": (1 / 256, 16.0),
    "level_pool": (0.0, 3000.0),
    "held_out": (0.0, 0.0),
    "slip": (0.0, 0.2),
    "see_through": (0.0, 1.0),
    "step_cost": (0.5, 1.1),
}


# -- random numbers and constants -------------------------------------------------------------------------------------


def mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words (in int64) that scatters neighbours: "lowbias32" of Wellons (2018)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def words(seed: Tensor, index: int | Tensor) -> Tensor:
    """Random 32-bit word ``index`` of a seed, both int64."""
    return mix((seed + (index + 1) * _GOLDEN) & _MASK)


def choose(word: Tensor, count: int | Tensor) -> Tensor:
    """One of ``0 .. count - 1``, by a 32-bit word (Lemire 2019)."""
    return (word * count) >> 32


def pick(mask: Tensor, word: Tensor) -> Tensor:
    """The index of one of the true entries bool ``[..., cells]``, int64 ``[...]``; ``cells`` if none is true."""
    rank = choose(word, mask.sum(-1))
    return (mask.cumsum(-1) <= rank[..., None]).sum(-1)


@functools.cache
def constant(make: Callable[..., Sequence[object]], device: torch.device, *arguments: int) -> Tensor:
    """A table on a device, copied there once: a copy per step would wait for the device."""
    return torch.tensor(make(*arguments), device=device)


def columns_of(size: int) -> list[int]:
    """The column of every cell."""
    return [cell % size for cell in range(size * size)]


def rows_of(size: int) -> list[int]:
    """The row of every cell."""
    return [cell // size for cell in range(size * size)]


def _view_offsets() -> list[list[list[int]]]:
    """Columns and rows of the visible cells relative to the agent, ``[direction][2][VIEW * VIEW]``."""
    table = []
    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):  # east, south, west, north
        cells = [(ahead, side) for ahead in range(VIEW) for side in range(-(VIEW // 2), VIEW // 2 + 1)]
        table.append([[a * dx - s * dy for a, s in cells], [a * dy + s * dx for a, s in cells]])
    return table


def _spreading() -> list[int]:
    """For ``seen << VIEW | clear``, each a row of bits: the row with light spread sideways through clear cells."""
    table = []
    for index in range(1 << (2 * VIEW)):
        lit, clear = index >> VIEW, index & ((1 << VIEW) - 1)
        for _ in range(VIEW):
            lit |= _beside(lit & clear)
        table.append(lit)
    return table


def _beside(bits: int) -> int:
    return (bits << 1 | bits >> 1) & ((1 << VIEW) - 1)


def _plane_values() -> list[list[float]]:
    """What the planes say about every kind of cell, ``[cell][plane]``."""
    table = [[0.0] * len(PLANES) for _ in Cell]
    for cell, (plane, value) in _SHOWN.items():
        table[cell][PLANES.index(plane)] = value
    return table


def _powers() -> list[int]:
    return [1 << i for i in range(VIEW)]


def neighbours_of(size: int) -> list[int]:
    """The eight cells around a cell, relative to it."""
    return [dy * size + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]


# -- the rules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """Start of an episode: cell codes int64 ``[members, envs, cells]``; the others int64 ``[members, envs]``."""

    cells: Tensor
    agent: Tensor
    direction: Tensor


@dataclass(frozen=True)
class Grid:
    """A square grid world; subclasses lay out its levels. See the module's text for state and random numbers.

    Args:
        size: cells per side, outer walls included.
    """

    size: int

    kind: ClassVar[str]
    physics: ClassVar[Mapping[str, float]] = GRID_PHYSICS
    variation: ClassVar[Mapping[str, tuple[float, float]]] = GRID_VARIATION
    reset_draws: ClassVar[int] = 2
    obstacle_slots: ClassVar[int] = 0

    @property
    def native(self) -> str:
        """Name of the same dynamics in the native engine."""
        return f"grid-{self.kind}-{self.size}"

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.size * self.size

    @property
    def state_size(self) -> int:
        """Width of the state."""
        return self.cells + len(Part) + self.obstacle_slots

    def layout(self, seed: Tensor) -> Level:
        """The level of a seed, int64 ``[members, envs]``."""
        raise NotImplementedError

    def obstacles(self, cells: Tensor, agent: Tensor, seed: Tensor, physics: Tensor) -> Tensor:
        """Cells of the moving obstacles, int64 ``[members, envs, obstacle_slots]``. They are put into ``cells``."""
        return agent[..., None].expand(*agent.shape, 0)

    def move(self, cells: Tensor, agent: Tensor, obstacles: Tensor, seed: Tensor, physics: Tensor) -> Tensor:
        """Move the obstacles. They are moved in ``cells``, too."""
        return obstacles

    def column(self, physics: Tensor, name: str) -> Tensor:
        """One parameter, float64 ``[members, 1]``."""
        return physics[:, list(self.physics).index(name), None]

    def level_seed(self, uniform: Tensor, physics: Tensor) -> Tensor:
        """Seeds of the levels that uniform numbers pick. Different pools or indices: different seeds."""
        index = (uniform * self.column(physics, "levels")).long()
        pool = 2 * self.column(physics, "level_pool").long() + self.column(physics, "held_out").long()
        return mix((pool << POOL_BITS) + index)

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """A level of the pool, from uniforms ``[members, envs, 2]``."""
        level_seed = self.level_seed(uniforms[..., 0], physics)
        level = self.layout(level_seed)
        cells = level.cells.clone()
        obstacles = self.obstacles(cells, level.agent, level_seed, physics)
        seed = mix((uniforms[..., 1] * 2.0**24).long())
        zero = torch.zeros_like(seed)
        parts = torch.stack((level.agent, level.direction, zero, zero, seed), dim=-1)
        return torch.cat((cells, parts, obstacles), dim=-1).double()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step; reward ``1 - step_cost * steps`` at the goal, else 0. Goal, lava and obstacles end the episode."""
        whole = state.long()
        cells = whole[..., : self.cells].clone()
        agent, direction, carrying, elapsed, seed = whole[..., self.cells : self.cells + len(Part)].unbind(-1)
        elapsed = elapsed + 1
        random = words(seed, elapsed)
        slips = (words(random, 0) >> 8).double() * 2.0**-24 < self.column(physics, "slip")
        action = torch.where(slips, choose(words(random, 1), len(Action)), action)

        ahead = agent + self._ahead(direction)
        forward = action == Action.FORWARD
        crashed = forward & (_at(cells, ahead) == Cell.OBSTACLE)  # as it was before the obstacles move
        obstacles = self.move(cells, agent, whole[..., self.cells + len(Part) :], random, physics)
        front = _at(cells, ahead)

        turn = (action == Action.RIGHT).long() - (action == Action.LEFT).long()
        direction = (direction + turn) % 4
        free = (front == Cell.EMPTY) | (front == Cell.OPEN_DOOR) | (front == Cell.GOAL) | (front == Cell.LAVA)
        walks = forward & free & ~crashed
        agent = torch.where(walks, ahead, agent)
        takes = (action == Action.PICKUP) & (front == Cell.KEY) & (carrying == 0)
        toggles = action == Action.TOGGLE
        opens = toggles & ((front == Cell.CLOSED_DOOR) | ((front == Cell.LOCKED_DOOR) & (carrying == 1)))
        closes = toggles & (front == Cell.OPEN_DOOR)
        carrying = carrying + takes.long()
        after = torch.where(takes, Cell.EMPTY, front)
        after = torch.where(opens, Cell.OPEN_DOOR, torch.where(closes, Cell.CLOSED_DOOR, after))
        cells.scatter_(-1, ahead[..., None], after[..., None])

        reached = walks & (front == Cell.GOAL)
        terminated = reached | (walks & (front == Cell.LAVA)) | crashed
        reward = torch.where(reached, 1.0 - self.column(physics, "step_cost") * elapsed.double(), 0.0)
        parts = torch.stack((agent, direction, carrying, elapsed, seed), dim=-1)
        return torch.cat((cells, parts, obstacles), dim=-1).double(), reward, terminated

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """What the agent sees, float32 ``[members, envs, OBSERVATION_SIZE]``. See ``PLANES`` and it."""
        whole, device = state.long(), state.device
        cells = whole[..., : self.cells]
        agent, direction, carrying = whole[..., self.cells : self.cells + 3].unbind(-1)
        offsets = constant(_view_offsets, device)[direction]
        x = agent[..., None] % self.size + offsets[..., 0, :]
        y = agent[..., None] // self.size + offsets[..., 1, :]
        inside = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        seen = torch.where(inside, cells.gather(-1, (y * self.size + x).clamp(0, self.cells - 1)), Cell.WALL)
        visible = self._visible(seen) | (self.column(physics, "see_through") > 0.0)[..., None]
        planes = constant(_plane_values, device)[seen] * visible[..., None]
        planes[..., PLANES.index("unseen")] = (~visible).float()
        heading = torch.nn.functional.one_hot(direction, 4).float()
        return torch.cat((planes.transpose(-1, -2).flatten(-2), heading, carrying[..., None].float()), dim=-1)

    def _visible(self, seen: Tensor) -> Tensor:
        """Which cells of the view light reaches, from the agent outwards, bool ``[members, envs, VIEW * VIEW]``.

        MiniGrid's rule: row by row, light spreads sideways through clear cells, and from them to the next row,
        straight and diagonally.
        """
        opaque = (seen == Cell.WALL) | (seen == Cell.CLOSED_DOOR) | (seen == Cell.LOCKED_DOOR)
        powers, spreading = constant(_powers, seen.device), constant(_spreading, seen.device)
        clear_rows = ((~opaque).view(*opaque.shape[:-1], VIEW, VIEW) * powers).sum(-1)
        light = torch.full_like(clear_rows[..., 0], 1 << (VIEW // 2))
        rows = []
        for clear in clear_rows.unbind(-1):
            lit = spreading[light << VIEW | clear]
            rows.append(lit)
            through = lit & clear
            light = (through | through << 1 | through >> 1) & ((1 << VIEW) - 1)
        return ((torch.stack(rows, dim=-1)[..., None] & powers) > 0).flatten(-2)

    def _ahead(self, direction: Tensor) -> Tensor:
        return constant(_ahead_offsets, direction.device, self.size)[direction]


def _ahead_offsets(size: int) -> list[int]:
    """The cell in front, relative to the agent's, by direction."""
    return [1, size, -1, -size]


def _at(cells: Tensor, index: Tensor) -> Tensor:
    return cells.gather(-1, index[..., None]).squeeze(-1)
