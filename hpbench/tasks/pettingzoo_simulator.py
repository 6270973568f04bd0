"""Worlds of PettingZoo as a simulator whose copies are agents: one policy plays all of them.

The copies of one world stand side by side, in PettingZoo's order of agents. To the learner each is an environment of
its own; that they are one world shows in that they begin, step and end together and get the same reward. So that one
policy can tell who it is, an observation ends in the agent's number as a one-hot code; where roles see less than
others, zeros fill up, and where they can choose less, what they cannot choose counts as choice 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.pettingzoo_particles import Rows
from hpbench.tasks.pettingzoo_worlds import WORLDS

STATE_BYTES = 512
"""Room for a saved world: the longest (``simple-line``) takes little more than half of that."""

VIEWS: Mapping[str, Sequence[tuple[str, int]]] = {
    "simple-spread": (("velocity", 2), ("place", 2), ("landmarks", 6), ("others", 4)),
    "simple-speaker-listener": (("colour of the goal", 3),),
    "simple-reference": (("velocity", 2), ("landmarks", 6), ("colour of the other's goal", 3), ("heard", 10)),
    "simple-line": (("velocity", 2), ("place", 2), ("ends of the line", 4)),
}
"""What the numbers are that the first agent sees, and how many."""


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
    in_process: bool = True
    restarts_itself: bool = False

    def make(self, envs: int, evaluation: bool = False) -> PettingZooSimulator:
        """A simulator of ``envs / agents`` worlds. Those for evaluation are no different.

        Raises:
            MissingExtra: if PettingZoo's environments are not installed.
        """
        return PettingZooSimulator(self, envs)

    def describe(self, observation: Sequence[float]) -> str:
        """What the first agent of a world saw, in words; places and speeds are seen from where it is."""
        if self.world == "pursuit":
            walls, pursuers, evaders = (int(sum(observation[channel : self.seen : 3])) for channel in range(3))
            return f"the first pursuer sees {pursuers} pursuers with itself, {evaders} evaders, {walls} cells of wall"
        words, start = [], 0
        for name, width in VIEWS[self.world]:
            words.append(f"{name} {' '.join(f'{number:.2f}' for number in observation[start : start + width])}")
            start += width
        return f"the first agent: {', '.join(words)}"


class PettingZooSimulator:
    """Running worlds of one kind. See :class:`~hpbench.tasks.simulator.Simulator`.

    Observations are what the agents see, zeros, and their number: float32 ``[envs, seen + agents]``.
    """

    def __init__(self, maker: PettingZooMaker, envs: int) -> None:
        assert envs % maker.agents == 0, "whole worlds only"
        self._agents, count = maker.agents, envs // maker.agents
        self._worlds = WORLDS[maker.world](count)
        self.observation = np.zeros((envs, maker.seen + maker.agents), np.float32)
        self.reward = np.zeros(envs, np.float64)
        self.terminated = np.zeros(envs, np.bool_)
        # The same memory by world and agent.
        self._seen = self.observation.reshape(count, maker.agents, -1)
        self._seen[..., maker.seen :] = np.eye(maker.agents)
        self._reward, self._terminated = (each.reshape(count, -1) for each in (self.reward, self.terminated))

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in the worlds of those copies, with the seed of their first agent."""
        rows = []
        for env, seed in zip(which, seeds, strict=True):
            world, agent = divmod(env, self._agents)
            if agent == 0:
                self._worlds.begin(world, seed)
                rows.append(world)
        self._show(np.array(rows, np.int64), 0.0, False)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of the worlds of those copies; the others stay as they are."""
        rows: Rows = slice(None)
        if which is not None:
            rows = np.array([env // self._agents for env in which if env % self._agents == 0], np.int64)
        reward, terminated = self._worlds.act(rows, actions.reshape(-1, self._agents)[rows])
        self._show(rows, reward[:, None], terminated[:, None])

    def save(self, env: int) -> bytes:
        """The world, if this is its first agent; of the others there is nothing more to say."""
        world, agent = divmod(env, self._agents)
        return self._worlds.save(world) if agent == 0 else b""

    def load(self, env: int, state: bytes) -> None:
        """The world becomes exactly what was saved of its first agent."""
        world, agent = divmod(env, self._agents)
        if agent == 0:
            self._worlds.load(world, state)
            self._show(np.array([world]), 0.0, False)

    def close(self) -> None:
        """Nothing has to be freed."""

    def _show(self, rows: Rows, reward: Any, terminated: Any) -> None:
        """Fill the arrays for those worlds, from ``[rows, 1]`` numbers."""
        seen = self._seen[rows]  # a copy, where rows are numbers
        self._worlds.write(rows, seen)
        self._seen[rows] = seen
        self._reward[rows], self._terminated[rows] = reward, terminated
