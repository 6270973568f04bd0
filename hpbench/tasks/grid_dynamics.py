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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpbench.tasks.base import COMMON_PHYSICS
from hpbench.tasks.grid_parts import (
    PLANES,
    VIEW,
    Action,
    Cell,
    Part,
    ahead_offsets,
    choose,
    constant,
    headings,
    mix,
    plane_values,
    powers,
    spreading,
    view_offsets,
    words,
)

POOL_BITS = 20
"""A pool holds at most ``2**POOL_BITS`` levels."""

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
        offsets = constant(view_offsets, device)[direction]
        x = agent[..., None] % self.size + offsets[..., 0, :]
        y = agent[..., None] // self.size + offsets[..., 1, :]
        inside = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        seen = torch.where(inside, cells.gather(-1, (y * self.size + x).clamp(0, self.cells - 1)), Cell.WALL)
        visible = self._visible(seen) | (self.column(physics, "see_through") > 0.0)[..., None]
        planes = constant(plane_values, device)[seen] * visible[..., None]
        planes[..., PLANES.index("unseen")] = (~visible).float()
        heading = constant(headings, device)[direction]
        return torch.cat((planes.transpose(-1, -2).flatten(-2), heading, carrying[..., None].float()), dim=-1)

    def _visible(self, seen: Tensor) -> Tensor:
        """Which cells of the view light reaches, from the agent outwards, bool ``[members, envs, VIEW * VIEW]``.

        MiniGrid's rule: row by row, light spreads sideways through clear cells, and from them to the next row,
        straight and diagonally.
        """
        opaque = (seen == Cell.WALL) | (seen == Cell.CLOSED_DOOR) | (seen == Cell.LOCKED_DOOR)
        bits, spread = constant(powers, seen.device), constant(spreading, seen.device)
        clear_rows = ((~opaque).view(*opaque.shape[:-1], VIEW, VIEW) * bits).sum(-1)
        light = torch.full_like(clear_rows[..., 0], 1 << (VIEW // 2))
        rows = []
        for clear in clear_rows.unbind(-1):
            lit = spread[light << VIEW | clear]
            rows.append(lit)
            through = lit & clear
            light = (through | through << 1 | through >> 1) & ((1 << VIEW) - 1)
        return ((torch.stack(rows, dim=-1)[..., None] & bits) > 0).flatten(-2)

    def _ahead(self, direction: Tensor) -> Tensor:
        return constant(ahead_offsets, direction.device, self.size)[direction]


def _at(cells: Tensor, index: Tensor) -> Tensor:
    return cells.gather(-1, index[..., None]).squeeze(-1)
