"""One simulator made of several, so that some copies step while the policy looks at others.

Copies do not know each other, so a simulator that is split shows what it would show whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.learners.simulator_pool import PooledSimulator, shared_pool
from hpbench.tasks.simulator import Simulator, SimulatorMaker


class SplitSimulator:
    """Several simulators as one: a :class:`~hpbench.tasks.simulator.Simulator`.

    Its arrays are copies of those of its parts, made when they are read.

    Args:
        parts: the simulators, in a pool; the copies are theirs, one part after the other.
        sizes: how many copies each of them has.
    """

    def __init__(self, parts: Sequence[PooledSimulator], sizes: Sequence[int]) -> None:
        self.parts = list(parts)
        ends = np.cumsum(sizes).tolist()
        self.rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    @property
    def observation(self) -> NDArray[Any]:
        """``[envs, observation_size]``."""
        return np.concatenate([part.observation for part in self.parts])

    @property
    def reward(self) -> NDArray[np.float64]:
        """Of the last step, ``[envs]``."""
        return np.concatenate([part.reward for part in self.parts])

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last step ended the episode, ``[envs]``."""
        return np.concatenate([part.terminated for part in self.parts])

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies."""
        for part, rows in zip(self.parts, self.rows, strict=True):
            mine = [(env - rows.start, seed) for env, seed in zip(which, seeds, strict=True) if _within(env, rows)]
            if mine:
                part.reset([env for env, _ in mine], [seed for _, seed in mine])

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of all copies, or of those."""
        for part, rows in zip(self.parts, self.rows, strict=True):
            mine = None if which is None else [env - rows.start for env in which if _within(env, rows)]
            if mine is None or mine:
                part.step(actions[rows], mine)

    def save(self, env: int) -> bytes:
        """All there is to one copy."""
        part, index = self._place(env)
        return part.save(index)

    def save_all(self, which: Sequence[int]) -> list[bytes]:
        """The same of several copies, in one message to each process."""
        saved: dict[int, bytes] = {}
        for part, rows in zip(self.parts, self.rows, strict=True):
            mine = [env for env in which if _within(env, rows)]
            saved.update(zip(mine, part.save_all([env - rows.start for env in mine]), strict=True))
        return [saved[env] for env in which]

    def load(self, env: int, state: bytes) -> None:
        """Become exactly what was saved."""
        part, index = self._place(env)
        part.load(index, state)

    def close(self) -> None:
        """Close the parts. It can be called twice."""
        for part in self.parts:
            part.close()

    def _place(self, env: int) -> tuple[PooledSimulator, int]:
        for part, rows in zip(self.parts, self.rows, strict=True):
            if _within(env, rows):
                return part, env - rows.start
        raise IndexError(f"copy {env} of {self.rows[-1].stop}")


def _within(env: int, rows: slice) -> bool:
    inside: bool = rows.start <= env < rows.stop
    return inside


def make_parts(maker: SimulatorMaker, envs: int, evaluation: bool, task: str, parts: int) -> Simulator:
    """A simulator in the processes of the shared pool; of several parts, if there are to be more than one."""
    bounds = [part * envs // parts for part in range(parts + 1)]
    sizes = [stop - start for start, stop in itertools.pairwise(bounds)]
    made = [shared_pool().make(maker, size, evaluation, task) for size in sizes]
    return SplitSimulator(made, sizes) if parts > 1 else made[0]
