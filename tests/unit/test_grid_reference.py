"""The grid worlds against a second, plain implementation of the same rules, and against a search over them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
import torch

from hpbench import tasks
from hpbench.tasks.base import Task
from hpbench.tasks.grid_dynamics import Grid
from hpbench.tasks.grid_parts import PLANES, VIEW

IDS = tasks.task_ids("grid")
MOVES = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}  # east, south, west, north
EMPTY, WALL, OPEN, CLOSED, LOCKED, KEY, GOAL, LAVA, OBSTACLE = range(9)


class World(NamedTuple):
    """A grid as MiniGrid's documentation describes it: cells by (x, y), and the agent."""

    cells: tuple[tuple[tuple[int, int], int], ...]
    x: int
    y: int
    direction: int
    carrying: bool


def read(task: Task, state: torch.Tensor) -> World:
    """The world in a state ``[state_size]``."""
    dynamics = task.dynamics
    assert isinstance(dynamics, Grid)
    size, numbers = dynamics.size, [int(number) for number in state.tolist()]
    agent, direction, carrying = numbers[size * size : size * size + 3]
    cells = {(i % size, i // size): code for i, code in enumerate(numbers[: size * size])}
    return World(tuple(sorted(cells.items())), agent % size, agent // size, direction, bool(carrying))


def act(world: World, action: int) -> tuple[World, str]:
    """One action in a world without moving obstacles, and what came of it: "", "goal" or "dead"."""
    cells, x, y, direction, carrying = dict(world.cells), *world[1:]
    dx, dy = MOVES[direction]
    front = (x + dx, y + dy)
    outcome = ""
    if action == 0:
        direction = (direction - 1) % 4
    elif action == 1:
        direction = (direction + 1) % 4
    elif action == 2 and cells[front] in (EMPTY, OPEN, GOAL, LAVA):
        x, y = front
        outcome = {GOAL: "goal", LAVA: "dead"}.get(cells[front], "")
    elif action == 2 and cells[front] == OBSTACLE:
        outcome = "dead"
    elif action == 3 and cells[front] == KEY and not carrying:
        carrying, cells[front] = True, EMPTY
    elif action == 4 and cells[front] == OPEN:
        cells[front] = CLOSED
    elif action == 4 and (cells[front] == CLOSED or (cells[front] == LOCKED and carrying)):
        cells[front] = OPEN
    return World(tuple(sorted(cells.items())), x, y, direction, carrying), outcome


def see(world: World, see_through: bool) -> dict[tuple[int, int], int | None]:
    """Codes by (cells ahead, cells to the right); None: hidden. Light by MiniGrid's two passes over each row."""
    cells, half = dict(world.cells), VIEW // 2
    dx, dy = MOVES[world.direction]
    view = {}
    for ahead in range(VIEW):
        for right in range(-half, half + 1):
            at = (world.x + ahead * dx - right * dy, world.y + ahead * dy + right * dx)
            view[ahead, right] = cells.get(at, WALL)
    lit = {(0, 0)}
    for ahead in range(VIEW):
        for way in (1, -1):
            for right in range(-half * way, half * way, way):
                if (ahead, right) in lit and view[ahead, right] not in (WALL, CLOSED, LOCKED):
                    lit |= {(ahead, right + way), (ahead + 1, right + way), (ahead + 1, right)}
    return {at: code if see_through or at in lit else None for at, code in view.items()}


def describe(world: World, see_through: bool) -> list[float]:
    """The observation that belongs to it."""
    shown = {WALL: ("wall", 1.0), OPEN: ("door", 1 / 3), CLOSED: ("door", 2 / 3), LOCKED: ("door", 1.0)}
    shown |= {KEY: ("key", 1.0), GOAL: ("goal", 1.0), LAVA: ("danger", 1.0), OBSTACLE: ("danger", 1.0)}
    shown |= {None: ("unseen", 1.0)}  # type: ignore[dict-item]
    numbers = []
    for plane in PLANES:
        for _, code in sorted(see(world, see_through).items()):
            name, value = shown.get(code, ("", 0.0))  # type: ignore[arg-type]
            numbers.append(value if name == plane else 0.0)
    return [*numbers, *(float(world.direction == d) for d in range(4)), float(world.carrying)]


def start(task: Task, envs: int, seed: int = 0, **values: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States ``[1, envs, state_size]`` of fresh episodes, and the physics."""
    uniforms = torch.rand(1, envs, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).double()
    row = [float({**task.physics, **values}[name]) for name in task.dynamics.physics]
    physics = torch.tensor([row], dtype=torch.float64)
    return task.dynamics.reset(uniforms, physics), physics


def shortest(world: World) -> int | None:
    """Fewest steps to the goal; None if there is no way. Doors are never closed again, keys are taken once."""
    cells = dict(world.cells)
    doors = tuple(sorted(at for at, code in cells.items() if code in (CLOSED, LOCKED)))
    begin = (world.x, world.y, world.direction, False, doors)
    distance, queue = {begin: 0}, deque([begin])
    while queue:
        x, y, direction, carrying, shut = here = queue.popleft()
        dx, dy = MOVES[direction]
        front = (x + dx, y + dy)
        code = EMPTY if cells[front] in (CLOSED, LOCKED) and front not in shut else cells[front]
        after = [(x, y, (direction + 1) % 4, carrying, shut), (x, y, (direction - 1) % 4, carrying, shut)]
        if code == GOAL:
            return distance[here] + 1
        if code == EMPTY or (code == KEY and carrying):
            after.append((*front, direction, carrying, shut))
        elif code == KEY:
            after.append((x, y, direction, True, shut))
        elif code == CLOSED or (code == LOCKED and carrying):
            after.append((x, y, direction, carrying, tuple(door for door in shut if door != front)))
        for state in after:
            if state not in distance:
                distance[state] = distance[here] + 1
                queue.append(state)
    return None


def best_return(task: Task, levels: int) -> float:
    """Mean return of the shortest ways over held-out levels. Every level must have one."""
    if "obstacles" in task.physics:
        state, _ = start(task, levels, obstacles=0.0, **task.evaluation_physics)
    else:
        state, _ = start(task, levels, **task.evaluation_physics)
    steps = [shortest(read(task, row)) for row in state[0]]
    assert None not in steps
    return 1.0 - task.physics["step_cost"] * sum(map(float, steps)) / levels  # type: ignore[arg-type]


@pytest.mark.parametrize("task_id", IDS)
def test_every_level_can_be_solved_and_the_anchor_is_the_shortest_way(task_id: str) -> None:
    task = tasks.make(task_id)
    assert best_return(task, 300) == pytest.approx(task.anchors.high, abs=0.01)


@pytest.mark.parametrize("see_through", [0.0, 1.0])
@pytest.mark.parametrize("task_id", [name for name in IDS if "obstacles" not in name])
def test_random_play_agrees_with_plain_rules(task_id: str, see_through: float) -> None:
    task, envs = tasks.make(task_id), 6
    state, physics = start(task, envs, seed=1, see_through=see_through)
    worlds = [read(task, row) for row in state[0]]
    generator = torch.Generator().manual_seed(2)
    weights = torch.tensor([0.15, 0.15, 0.4, 0.15, 0.15])
    for t in range(1, 60):
        action = torch.multinomial(weights, envs, replacement=True, generator=generator)[None]
        state, reward, terminated = task.dynamics.step(state, action, physics)
        seen = task.dynamics.observe(state, physics)[0]
        for e in range(envs):
            worlds[e], outcome = act(worlds[e], int(action[0, e]))
            assert read(task, state[0, e]) == worlds[e]
            assert bool(terminated[0, e]) == bool(outcome)
            expected = 1.0 - task.physics["step_cost"] * t if outcome == "goal" else 0.0
            assert float(reward[0, e]) == pytest.approx(expected, abs=1e-12)
            torch.testing.assert_close(seen[e], torch.tensor(describe(worlds[e], bool(see_through))))
        if terminated.any():  # the episodes go on: dynamics know no end, but a goal is left like an empty cell
            fresh, _ = start(task, envs, seed=100 + t, see_through=see_through)
            fresh[..., task.dynamics.cells + 3] = t  # type: ignore[attr-defined]
            state = torch.where(terminated[..., None], fresh, state)
            worlds = [read(task, row) for row in state[0]]
