"""Worlds of PettingZoo as a simulator whose copies are agents: one policy plays all of them.

The copies of one world stand side by side, in PettingZoo's order of agents. To the learner each is an environment of its
own; that they are one world shows in that they begin, step and end together and get the same reward. So that one policy
can tell who it is, an observation ends in the agent's number as a one-hot code; where roles see less than others, zeros
fill up, and where they can choose less, what they cannot choose counts as choice 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.pettingzoo_worlds import WORLDS

STATE_BYTES = 512
"""Room for a saved world: the longest (``simple-line``) takes little more than half of that."""


@dataclass(frozen=True)
class PettingZooMaker:
    """Makes simulators of one kind of world. See :class:`~hpbench.tasks.simulator.SimulatorMaker`.

    Args:
        world: a key of :data:`~hpbench.tasks.pettingzoo_worlds.WORLDS`.
        agents: of one world.
        seen: numbers that the agent with the longest observation sees.
        state_bytes: the longest state of a copy.
    """

    world: str
    agents: int
    seen: int
    state_bytes: int = STATE_BYTES
    in_process: bool = False
    restarts_itself: bool = False

    def make(self, envs: int, evaluation: bool = False) -> PettingZooSimulator:
        """A simulator of ``envs / agents`` worlds. Those for evaluation are no different.

        Raises:
            MissingExtra: if PettingZoo's environments are not installed.
        """
        return PettingZooSimulator(self, envs)


class PettingZooSimulator:
    """Running worlds of one kind. See :class:`~hpbench.tasks.simulator.Simulator`.

    Observations are what the agents see, zeros, and their number: float32 ``[envs, seen + agents]``.
    """

    def __init__(self, maker: PettingZooMaker, envs: int) -> None:
        assert envs % maker.agents == 0, "whole worlds only"
        self._agents = maker.agents
        self._worlds = [WORLDS[maker.world]() for _ in range(envs // maker.agents)]
        self.observation = np.zeros((envs, maker.seen + maker.agents), np.float32)
        self.observation[:, maker.seen :] = np.tile(np.eye(maker.agents), (len(self._worlds), 1))
        self.reward = np.zeros(envs, np.float64)
        self.terminated = np.zeros(envs, np.bool_)

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in the worlds of those copies, with the seed of their first agent."""
        for env, seed in zip(which, seeds, strict=True):
            if env % self._agents == 0:
                self._worlds[env // self._agents].begin(seed)
                self._show(env, 0.0, False)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of the worlds of those copies; the others stay as they are."""
        for env in range(len(self.reward)) if which is None else which:
            if env % self._agents == 0:
                chosen = actions[env : env + self._agents].tolist()
                self._show(env, *self._worlds[env // self._agents].act(chosen))

    def save(self, env: int) -> bytes:
        """The world, if this is its first agent; of the others there is nothing more to say."""
        return self._worlds[env // self._agents].save() if env % self._agents == 0 else b""

    def load(self, env: int, state: bytes) -> None:
        """The world becomes exactly what was saved of its first agent."""
        if env % self._agents == 0:
            self._worlds[env // self._agents].load(state)
            self._show(env, 0.0, False)

    def snippet(self, env: int) -> str:
        """Where everybody is in the world of that copy."""
        return self._worlds[env // self._agents].text()

    def close(self) -> None:
        """Let the worlds go. It can be called twice."""
        self._worlds = []

    def _show(self, first: int, reward: float, terminated: bool) -> None:
        """Fill the rows of a world, given its first copy."""
        rows = slice(first, first + self._agents)
        self._worlds[first // self._agents].write(self.observation[rows])
        self.reward[rows], self.terminated[rows] = reward, terminated
