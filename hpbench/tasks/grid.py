"""The grid family: small procedurally generated grid worlds with the rules of MiniGrid.

Chevalier-Boisvert et al. 2023, "Minigrid & Miniworld: Modular & Customizable Reinforcement Learning Environments for
Goal-Oriented Tasks". What is the same: actions and their effects, doors and keys, what light reaches, the reward
``1 - 0.9 * steps / time limit`` at the goal, and the time limits. What is not:

- There is one key and one door lock, so there are no colours. There is nothing to drop, and no ``done`` action.
- The agent sees 5 x 5 cells (MiniGrid: 7 x 7), encoded as planes for a multilayer perceptron, beside its direction and
  whether it carries a key. See ``PLANES`` and ``OBSERVATION_SIZE`` in :mod:`hpbench.tasks.grid_parts`.
- Running into an obstacle ends the episode with reward 0 (MiniGrid: -1, and walls count as obstacles there).
- Four rooms are smaller, and rooms of the chains are all of one size, on a square pattern.

**Levels.** The layout of every episode is drawn from a pool of level seeds. Training draws from ``levels`` seeds,
evaluation from a second pool of a million, and no seed is in both. On the smallest grids different seeds often give the
same layout (door-key 5x5 has few), so what a policy is tested on is new for certain only where layouts are many.

**Budgets** follow measured learning curves of PPO (``examples/grid_learning.py``, ``examples/results/``). The chain of
four rooms is the exception: neither the defaults nor the published values reach its goal within the small budget.

An anchor of 1 is the mean return of a player who knows the whole map and takes the shortest way, over held-out levels;
with moving obstacles, that of a player whom they never stand in the way of.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.grid_dynamics import POOL_BITS, Grid
from hpbench.tasks.grid_layouts import DoorKey, Empty, FourRooms, LavaGap, MultiRoom, Obstacles
from hpbench.tasks.grid_parts import OBSERVATION_SIZE, Action

STARTER = "rl-starter-files, scripts/train.py (commit 02016ca919da)"
SHORTEST = "no goal reached, and the shortest way with the whole map known (mean of 2,000 held-out levels)"

_HAND_TUNED = {
    "ppo": HandTuned(
        {
            "learning_rate": 7e-4,
            "entropy_coefficient": 0.01,
            "value_coefficient": 0.5,
            "clip_range": 0.2,
            "discount": 0.99,
            "gae_lambda": 0.95,
            "max_gradient_norm": 0.5,
            "update_epochs": 4,
            "minibatches": 2,  # batch size 256, of our rollout of 512 steps
        },
        STARTER,
    )
}


def _budgets(small: int) -> Mapping[str, Budget]:
    """Budgets by tier; a segment is a whole number of rollouts of 512 steps in each."""
    return {"small": Budget(small, 20), "standard": Budget(4 * small, 40), "paper": Budget(2_048_000, 50)}


def _task(
    name: str,
    dynamics: Grid,
    limit: int,
    best: float,
    small: int,
    summary: str,
    physics: Mapping[str, float] | None = None,
) -> Task:
    """A task.

    Args:
        name: after the slash.
        dynamics: its rules and layouts.
        limit: time limit in steps, as MiniGrid has it for that kind of grid.
        best: mean return of the shortest ways.
        small: steps of the small budget.
        summary: one line.
        physics: what differs from the standard of the dynamics.
    """
    return Task(
        id=f"grid/{name}",
        observation_size=OBSERVATION_SIZE,
        discrete=True,
        action_count=len(Action),
        max_episode_steps=limit,
        anchors=Anchors(0.0, best, SHORTEST),
        success_return=0.001,  # any goal reached: variants' step costs leave 0.01 at the time limit
        budgets=_budgets(small),
        dynamics=dynamics,
        physics={**dynamics.physics, "step_cost": 0.9 / limit, **({} if physics is None else physics)},
        hand_tuned=_HAND_TUNED,
        evaluation_physics={"held_out": 1.0, "levels": float(2**POOL_BITS)},
        summary=summary,
    )


TASKS: Mapping[str, Task] = {
    task.id.partition("/")[2]: task
    for task in (
        _task("empty-6x6", Empty(6), 144, 0.972, 51_200, "walk to the corner of an empty room"),
        _task("doorkey-5x5", DoorKey(5), 250, 0.965, 102_400, "take the key, open the door, walk to the goal"),
        _task("doorkey-6x6", DoorKey(6), 360, 0.969, 153_600, "take the key, open the door, walk to the goal"),
        _task("doorkey-8x8", DoorKey(8), 640, 0.976, 307_200, "take the key, open the door, walk to the goal"),
        _task("fourrooms-9x9", FourRooms(9), 100, 0.930, 153_600, "find the goal in one of four rooms"),
        _task("multiroom-n2", MultiRoom(9, 2), 40, 0.795, 204_800, "walk through a door to the goal in the next room"),
        _task("multiroom-n4", MultiRoom(13, 4), 80, 0.756, 307_200, "walk through three doors to the goal"),
        _task("lavagap-5x5", LavaGap(5), 100, 0.946, 102_400, "pass the gap in a strip of lava to the goal"),
        _task("lavagap-7x7", LavaGap(7), 196, 0.952, 153_600, "pass the gap in a strip of lava to the goal"),
        _task(
            "obstacles-5x5",
            Obstacles(5),
            100,
            0.955,
            102_400,
            "walk to the goal and keep clear of moving obstacles",
            {"obstacles": 2.0},
        ),
        _task(
            "obstacles-6x6",
            Obstacles(6),
            144,
            0.956,
            102_400,
            "walk to the goal and keep clear of moving obstacles",
            {"obstacles": 3.0},
        ),
    )
}
