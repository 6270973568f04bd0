"""Levels of the grid worlds: every layout is a pure function of a level seed.

A layout draws numbered 32-bit words from its seed (:func:`~hpbench.tasks.grid_parts.words`); the native engine draws
the same ones. Shapes and dtypes are those of :class:`~hpbench.tasks.grid_dynamics.Level`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpbench.tasks.grid_dynamics import GRID_PHYSICS, GRID_VARIATION, Grid, Level
from hpbench.tasks.grid_parts import Cell, choose, columns_of, constant, indices_of, neighbours_of, pick, rows_of, words

ROOM = 3
"""Free cells per side of the rooms of :class:`MultiRoom`."""
OBSTACLE_SLOTS = 4
"""The most obstacles of :class:`Obstacles`."""


def _start(grid: Grid, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An empty room ``[members, envs, cells]``, and the column and row of every cell."""
    x, y = (constant(table, seed.device, grid.size) for table in (columns_of, rows_of))
    edge = (x == 0) | (y == 0) | (x == grid.size - 1) | (y == grid.size - 1)
    return (edge.long() * int(Cell.WALL)).expand(*seed.shape, grid.cells), x, y


def _put(cells: Tensor, at: Tensor, what: Cell) -> Tensor:
    return cells.scatter(-1, at[..., None], int(what))


@dataclass(frozen=True)
class Empty(Grid):
    """An empty room. The goal is in the south-east corner, the agent anywhere."""

    kind: ClassVar[str] = "empty"

    def layout(self, seed: Tensor) -> Level:
        """Words: 0 agent, 1 direction."""
        cells, _, _ = _start(self, seed)
        cells = _with_goal(self, cells)
        return Level(cells, pick(cells == Cell.EMPTY, words(seed, 0)), choose(words(seed, 1), 4))


@dataclass(frozen=True)
class FourRooms(Grid):
    """Four rooms around a cross of walls with one gap in each arm. Agent and goal are anywhere."""

    kind: ClassVar[str] = "fourrooms"

    def layout(self, seed: Tensor) -> Level:
        """Words: 0-3 gaps (north, south, west, east arm), 4 goal, 5 agent, 6 direction."""
        cells, x, y = _start(self, seed)
        middle, arm = self.size // 2, self.size // 2 - 1
        cells = torch.where((x == middle) | (y == middle), Cell.WALL, cells)
        for k in range(4):
            along = choose(words(seed, k), arm) + (1 if k % 2 == 0 else middle + 1)
            gap = along * self.size + middle if k < 2 else middle * self.size + along
            cells = _put(cells, gap, Cell.EMPTY)
        cells = _put(cells, pick(cells == Cell.EMPTY, words(seed, 4)), Cell.GOAL)
        return Level(cells, pick(cells == Cell.EMPTY, words(seed, 5)), choose(words(seed, 6), 4))


@dataclass(frozen=True)
class DoorKey(Grid):
    """A wall with a locked door. Agent and key are west of it, the goal in the south-east corner."""

    kind: ClassVar[str] = "doorkey"

    def layout(self, seed: Tensor) -> Level:
        """Words: 0 wall, 1 door, 2 key, 3 agent, 4 direction."""
        cells, x, _ = _start(self, seed)
        cells = _with_goal(self, cells)
        wall = choose(words(seed, 0), self.size - 4) + 2
        door = choose(words(seed, 1), self.size - 3) + 1
        cells = torch.where(x == wall[..., None], Cell.WALL, cells)
        cells = _put(cells, door * self.size + wall, Cell.LOCKED_DOOR)
        west = x < wall[..., None]
        cells = _put(cells, pick((cells == Cell.EMPTY) & west, words(seed, 2)), Cell.KEY)
        return Level(cells, pick((cells == Cell.EMPTY) & west, words(seed, 3)), choose(words(seed, 4), 4))


@dataclass(frozen=True)
class LavaGap(Grid):
    """A strip of lava with one gap. The agent starts in the north-west corner, the goal is in the south-east one."""

    kind: ClassVar[str] = "lavagap"

    def layout(self, seed: Tensor) -> Level:
        """Words: 0 strip, 1 gap."""
        cells, x, y = _start(self, seed)
        cells = _with_goal(self, cells)
        strip = choose(words(seed, 0), self.size - 4) + 2
        gap = choose(words(seed, 1), self.size - 2) + 1
        lava = (x == strip[..., None]) & (y != gap[..., None]) & (y > 0) & (y < self.size - 1)
        return _from_corner(self, torch.where(lava, Cell.LAVA, cells), seed)


@dataclass(frozen=True)
class MultiRoom(Grid):
    """A chain of rooms, joined by closed doors, on a square of ``side * side`` places for rooms.

    The chain is a random path that visits no place twice. The agent is in its first room, the goal in its last.

    Args:
        rooms: length of the chain.
    """

    rooms: int = 2

    kind: ClassVar[str] = "multiroom"

    @property
    def native(self) -> str:
        """Name of the same dynamics in the native engine."""
        return f"grid-{self.kind}-{self.rooms}"

    def layout(self, seed: Tensor) -> Level:
        """Words: 0 path, 1 goal, 2 agent, 3 direction, from 4 on doors."""
        side = (self.size - 1) // (ROOM + 1)
        x, y = (constant(table, seed.device, self.size) for table in (columns_of, rows_of))
        paths = constant(room_paths, seed.device, side, self.rooms)
        path = paths[choose(words(seed, 0), len(paths))]
        inside = (x % (ROOM + 1) > 0) & (y % (ROOM + 1) > 0)
        room = torch.where(inside, y // (ROOM + 1) * side + x // (ROOM + 1), -1)
        cells = torch.where((room == path[..., None]).any(-2), Cell.EMPTY, Cell.WALL)
        for k in range(self.rooms - 1):
            here, there = path[..., k], path[..., k + 1]
            offset = choose(words(seed, 4 + k), ROOM) + 1
            wide = (here // side) == (there // side)
            corner_x = torch.maximum(here % side, there % side) * (ROOM + 1)
            corner_y = torch.maximum(here // side, there // side) * (ROOM + 1)
            door_x = torch.where(wide, corner_x, corner_x + offset)
            door_y = torch.where(wide, corner_y + offset, corner_y)
            cells = _put(cells, door_y * self.size + door_x, Cell.CLOSED_DOOR)
        cells = _put(cells, pick(room == path[..., -1:], words(seed, 1)), Cell.GOAL)
        agent = pick(room == path[..., :1], words(seed, 2))
        return Level(cells, agent, choose(words(seed, 3), 4))


def room_paths(side: int, length: int) -> list[list[int]]:
    """All paths over that many places of a square that visit none twice, in a fixed order."""

    def extend(path: list[int]) -> Iterator[list[int]]:
        if len(path) == length:
            yield path
            return
        x, y = path[-1] % side, path[-1] // side
        for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
            place = (y + dy) * side + x + dx
            if 0 <= x + dx < side and 0 <= y + dy < side and place not in path:
                yield from extend([*path, place])

    return [path for start in range(side * side) for path in extend([start])]


@dataclass(frozen=True)
class Obstacles(Grid):
    """An empty room with obstacles that move at random. The agent starts in the north-west corner."""

    kind: ClassVar[str] = "obstacles"
    physics: ClassVar[Mapping[str, float]] = {**GRID_PHYSICS, "obstacles": 2.0, "obstacle_speed": 1.0}
    variation: ClassVar[Mapping[str, tuple[float, float]]] = {
        **GRID_VARIATION,
        "obstacles": (0.5, 1.3),
        "obstacle_speed": (0.3, 1.0),
    }
    obstacle_slots: ClassVar[int] = OBSTACLE_SLOTS

    def layout(self, seed: Tensor) -> Level:
        """No words: only the obstacles differ."""
        cells, _, _ = _start(self, seed)
        return _from_corner(self, _with_goal(self, cells), seed)

    def obstacles(self, cells: Tensor, agent: Tensor, seed: Tensor, physics: Tensor) -> Tensor:
        """``obstacles`` of them (rounded), on random empty cells but the agent's. Words: 0-3."""
        count = self.column(physics, "obstacles")
        here = constant(indices_of, cells.device, self.size)
        places = []
        for k in range(self.obstacle_slots):
            place = pick((cells == Cell.EMPTY) & (here != agent[..., None]), words(seed, k))
            there = (k < count - 0.5).expand_as(place)
            self._put_where(cells, there, place, Cell.OBSTACLE)
            places.append(torch.where(there, place, -1))
        return torch.stack(places, dim=-1)

    def move(self, cells: Tensor, agent: Tensor, obstacles: Tensor, seed: Tensor, physics: Tensor) -> Tensor:
        """Each goes, with probability ``obstacle_speed``, to a random empty neighbour if it has one.

        Words: ``2 + 2 k`` whether obstacle k moves, ``3 + 2 k`` where to.
        """
        around, speed = constant(neighbours_of, cells.device, self.size), self.column(physics, "obstacle_speed")
        places = []
        for k, place in enumerate(obstacles.unbind(-1)):
            exists = place >= 0
            near = (place[..., None] + around).clamp(0, self.cells - 1)
            free = (cells.gather(-1, near) == Cell.EMPTY) & (near != agent[..., None])
            wants = (words(seed, 2 + 2 * k) >> 8).double() * 2.0**-24 < speed
            moves = exists & wants & free.any(-1)
            chosen = pick(free, words(seed, 3 + 2 * k)).clamp(max=len(around) - 1)
            target = torch.where(moves, near.gather(-1, chosen[..., None]).squeeze(-1), place)
            self._put_where(cells, moves, place, Cell.EMPTY)
            self._put_where(cells, moves, target, Cell.OBSTACLE)
            places.append(target)
        return torch.stack(places, dim=-1)

    @staticmethod
    def _put_where(cells: Tensor, where: Tensor, at: Tensor, what: Cell) -> None:
        index = at.clamp(0, cells.shape[-1] - 1)[..., None]
        cells.scatter_(-1, index, torch.where(where[..., None], int(what), cells.gather(-1, index)))


def _with_goal(grid: Grid, cells: Tensor) -> Tensor:
    """The goal in the south-east corner."""
    here = constant(indices_of, cells.device, grid.size)
    return torch.where(here == (grid.size - 2) * (grid.size + 1), Cell.GOAL, cells)


def _from_corner(grid: Grid, cells: Tensor, seed: Tensor) -> Level:
    """The agent in the north-west corner, facing east."""
    return Level(cells, torch.full_like(seed, grid.size + 1), torch.zeros_like(seed))
