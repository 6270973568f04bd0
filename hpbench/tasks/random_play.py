"""What uniformly random actions reach in a simulator: how low anchors are measured.

The scripts ``examples/*_anchors.py`` write tables of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration
from hpbench.tasks.base import Task
from hpbench.tasks.simulator import Simulator


@dataclass(frozen=True)
class Played:
    """Episodes in the order of their seeds.

    Args:
        returns: sums of unscaled rewards, float64 ``[episodes]``.
        lengths: in steps, int64 ``[episodes]``.
        ended: whether they ended before the time limit or with it, and were not cut, bool ``[episodes]``.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ended: NDArray[np.bool_]

    def summary(self) -> dict[str, float]:
        """A row of a table: the mean return with its standard error, what one episode in twenty reaches (``p95``), the
        share of episodes that ended, the mean number of steps.

        Raises:
            InvalidConfiguration: with a single episode, of which there is no standard error.
        """
        episodes = len(self.returns)
        if episodes < 2:
            raise InvalidConfiguration(f"A standard error needs at least 2 episodes, got {episodes}.")
        return {
            "episodes": episodes,
            "mean": round(float(self.returns.mean()), 4),
            "standard_error": round(float(self.returns.std(ddof=1) / episodes**0.5), 4),
            "median": round(float(np.median(self.returns)), 4),
            "p95": round(float(np.quantile(self.returns, 0.95)), 4),
            "best": round(float(self.returns.max()), 4),
            "ended": round(float(self.ended.mean()), 4),
            "steps": round(float(self.lengths.mean()), 1),
        }


def random_play(task: Task, simulator: Simulator, episodes: int) -> Played:
    """Play complete episodes with the seeds 0, 1, 2, ...

    An episode does not depend on how many are played side by side: its actions come from a generator of its own, which
    has its seed.

    Args:
        task: says what actions there are, and the time limit.
        simulator: of the task; as many episodes are played at a time as it has copies.
        episodes: how many, at least 1.

    Raises:
        InvalidConfiguration: if several agents act in the task.
    """
    if task.agents > 1:
        raise InvalidConfiguration(f"{task.id} has {task.agents} agents; random_play is for tasks with one.")
    copies = len(simulator.reward)
    batches = [
        _play(task, simulator, range(first, min(first + copies, episodes))) for first in range(0, episodes, copies)
    ]
    return Played(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def _play(
    task: Task, simulator: Simulator, seeds: range
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Returns, lengths and ends of one episode in each of the first copies."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    copies = len(simulator.reward)
    actions: NDArray[Any] = (
        np.zeros(copies, np.int64) if task.discrete else np.zeros((copies, task.action_count), np.float32)
    )
    returns, lengths, running = np.zeros(copies), np.zeros(copies, np.int64), list(range(len(seeds)))
    simulator.reset(running, seeds)
    for _ in range(task.max_episode_steps):
        if not running:
            break
        for env in running:
            actions[env] = _draw(task, generators[env])
        simulator.step(actions, running)
        returns[running] += simulator.reward[running]
        lengths[running] += 1
        running = [env for env in running if not simulator.terminated[env]]
    used = slice(len(seeds))
    ended = np.ones(copies, np.bool_)
    ended[running] = False
    # Rewards with few decimals have sums with few: the last digits are noise.
    return returns[used].round(6), lengths[used], ended[used]


def _draw(task: Task, generator: np.random.Generator) -> Any:
    if task.discrete:
        return generator.integers(task.action_count)
    return generator.uniform(task.action_low, task.action_high, task.action_count)
