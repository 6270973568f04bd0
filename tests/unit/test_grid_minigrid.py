"""The grid worlds against MiniGrid itself: the same level, the same actions, the same views, rewards and ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.tasks.base import Task
from hpbench.tasks.grid_dynamics import Grid
from hpbench.tasks.grid_parts import PLANES, VIEW, Cell

pytest.importorskip("minigrid")
from minigrid.core import world_object as objects
from minigrid.core.grid import Grid as MiniGrid
from minigrid.core.mission import MissionSpace
from minigrid.minigrid_env import MiniGridEnv

MAKE: dict[int, Any] = {
    Cell.WALL: objects.Wall,
    Cell.OPEN_DOOR: lambda: objects.Door("red", is_open=True),
    Cell.CLOSED_DOOR: lambda: objects.Door("red"),
    Cell.LOCKED_DOOR: lambda: objects.Door("red", is_locked=True),
    Cell.KEY: lambda: objects.Key("red"),
    Cell.GOAL: objects.Goal,
    Cell.LAVA: objects.Lava,
}
ACTIONS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 5}  # theirs has drop in between
PLANE_OF = {2: "wall", 4: "door", 5: "key", 8: "goal", 9: "danger"}


class Original(MiniGridEnv):
    """MiniGrid's environment on a level of ours."""

    def __init__(self, task: Task, state: list[int], see_through: bool) -> None:
        assert isinstance(task.dynamics, Grid)
        self.level, self.side = state, task.dynamics.size
        super().__init__(
            mission_space=MissionSpace(mission_func=lambda: ""),
            grid_size=self.side,
            max_steps=task.max_episode_steps,
            agent_view_size=VIEW,
            see_through_walls=see_through,
        )

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid, self.mission = MiniGrid(width, height), ""
        for i, code in enumerate(self.level[: width * height]):
            if code != Cell.EMPTY:
                self.grid.set(i % width, i // width, MAKE[code]())
        agent, self.agent_dir = self.level[width * height : width * height + 2]
        self.agent_pos = (agent % width, agent // width)


def planes(image: np.ndarray) -> np.ndarray:
    """Our planes ``[plane, ahead, side]`` of MiniGrid's image ``[side, row, (kind, colour, state)]``."""
    out = np.zeros((len(PLANES), VIEW, VIEW), dtype=np.float32)
    for side in range(VIEW):
        for ahead in range(VIEW):
            kind, _, state = image[side, VIEW - 1 - ahead]
            if kind == 0:
                out[PLANES.index("unseen"), ahead, side] = 1.0
            elif kind == 4:
                out[PLANES.index("door"), ahead, side] = (state + 1) / 3  # open, closed, locked
            elif kind in PLANE_OF:
                out[PLANES.index(PLANE_OF[kind]), ahead, side] = 1.0
    return out


@pytest.mark.parametrize("see_through", [False, True])
@pytest.mark.parametrize("task_id", [name for name in tasks.task_ids("grid") if "obstacles" not in name])
def test_every_step_is_minigrids(task_id: str, see_through: bool) -> None:
    task, rng, ended = tasks.make(task_id), np.random.default_rng(5), 0
    size, row = task.dynamics.size, {**task.physics, "see_through": float(see_through)}  # type: ignore[attr-defined]
    physics = torch.tensor([[row[name] for name in task.dynamics.physics]], dtype=torch.float64)
    for _ in range(3):
        state = task.dynamics.reset(torch.from_numpy(rng.random((1, 1, 2))), physics)
        original = Original(task, [int(number) for number in state[0, 0]], see_through)
        original.reset()
        for _ in range(50):
            action = int(rng.choice(5, p=[0.15, 0.15, 0.4, 0.15, 0.15]))
            state, reward, terminated = task.dynamics.step(state, torch.tensor([[action]]), physics)
            seen, expected, over, truncated, _ = original.step(ACTIONS[action])
            agent, direction, carrying = state[0, 0, size * size : size * size + 3].long().tolist()
            assert (agent % size, agent // size) == tuple(original.agent_pos)
            assert direction == original.agent_dir == seen["direction"]
            assert bool(carrying) == (original.carrying is not None)
            assert float(reward) == pytest.approx(float(expected), abs=1e-9)
            assert bool(terminated) == over
            mine = task.dynamics.observe(state, physics)[0, 0, : len(PLANES) * VIEW * VIEW].numpy()
            mine, theirs = mine.reshape(len(PLANES), VIEW, VIEW), planes(seen["image"])
            mine[:, 0, VIEW // 2] = theirs[:, 0, VIEW // 2] = 0.0  # there MiniGrid shows what the agent carries
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
            ended += over
            if over or truncated:
                break
    assert ended or not task_id.startswith(("grid/empty", "grid/lavagap"))
