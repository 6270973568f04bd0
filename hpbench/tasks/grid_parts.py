"""What grid worlds are made of: cells, actions, random words, tables for rules and layouts."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

VIEW = 5
"""The agent sees ``VIEW`` rows of ``VIEW`` cells; it stands in the middle of the nearest row."""


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

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


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


def indices_of(size: int) -> list[int]:
    """Every cell."""
    return list(range(size * size))


def columns_of(size: int) -> list[int]:
    """The column of every cell."""
    return [cell % size for cell in range(size * size)]


def rows_of(size: int) -> list[int]:
    """The row of every cell."""
    return [cell // size for cell in range(size * size)]


def view_offsets() -> list[list[list[int]]]:
    """Columns and rows of the visible cells relative to the agent, ``[direction][2][VIEW * VIEW]``."""
    table = []
    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):  # east, south, west, north
        cells = [(ahead, side) for ahead in range(VIEW) for side in range(-(VIEW // 2), VIEW // 2 + 1)]
        table.append([[a * dx - s * dy for a, s in cells], [a * dy + s * dx for a, s in cells]])
    return table


def headings() -> list[list[float]]:
    """Directions, one-hot."""
    return [[float(i == j) for j in range(4)] for i in range(4)]


def spreading() -> list[int]:
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


def plane_values() -> list[list[float]]:
    """What the planes say about every kind of cell, ``[cell][plane]``."""
    table = [[0.0] * len(PLANES) for _ in Cell]
    for cell, (plane, value) in _SHOWN.items():
        table[cell][PLANES.index(plane)] = value
    return table


def powers() -> list[int]:
    """The bits of a row of the view."""
    return [1 << i for i in range(VIEW)]


def neighbours_of(size: int) -> list[int]:
    """The eight cells around a cell, relative to it."""
    return [dy * size + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]


def ahead_offsets(size: int) -> list[int]:
    """The cell in front, relative to the agent's, by direction."""
    return [1, size, -1, -size]


SYMBOLS = ".#'+LkG~o"
"""Of the cells in :func:`picture`; the agent is one of ``>v<^``."""


def picture(size: int, state: Tensor) -> str:
    """A state ``[state_size]`` of a grid of that size as lines of text, for people."""
    codes = [int(number) for number in state.tolist()]
    symbols = [SYMBOLS[code] for code in codes[: size * size]]
    agent, direction = codes[size * size : size * size + 2]
    symbols[agent] = ">v<^"[direction]
    lines = ["".join(symbols[row : row + size]) for row in range(0, size * size, size)]
    return "\n".join(lines)
