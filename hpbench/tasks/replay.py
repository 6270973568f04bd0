"""Simulators whose games cannot be copied: what is saved is how an episode came about.

A game that is deterministic, given its seed and the actions, is where it is by those. So they are what is saved, one
byte an action, and loading plays them again; a copy that is on the way already plays only the rest.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpbench.errors import SnapshotError

_SEED = struct.Struct("<q")


class Game(Protocol):
    """One copy of a game, which knows nothing of its past."""

    def begin(self, seed: int) -> None:
        """A new episode, which is the same for the same seed whatever was played before."""
        ...

    def act(self, action: int) -> tuple[float, bool]:
        """One step with one of at most 256 actions: the reward, and whether the episode has ended."""
        ...

    def close(self) -> None:
        """Free what the game holds. It can be called twice."""
        ...


class ShownGame(Game, Protocol):
    """A game that shows what it is like."""

    def write(self, row: NDArray[Any]) -> None:
        """Write what is seen now into a flat observation."""
        ...


def replay_bytes(max_steps: int) -> int:
    """The longest saved state of episodes with that time limit."""
    return _SEED.size + max_steps


class ReplayMaker:
    """What makers of such simulators share (see :class:`hpbench.tasks.simulator.SimulatorMaker`): frozen dataclasses
    that have the time limit as a field."""

    max_steps: int
    """The time limit; no saved episode is longer."""
    in_process: ClassVar[bool] = False
    restarts_itself: ClassVar[bool] = False

    @property
    def state_bytes(self) -> int:
        """The seed, and a byte for every action."""
        return replay_bytes(self.max_steps)


class Replay(ABC):
    """Copies of a game: a :class:`hpbench.tasks.simulator.Simulator` but for what they show.

    A copy whose episode is over stays as it is, with reward 0, until it is reset.

    Args:
        games: the copies.
        observation_size: length of a flat observation.
        dtype: of observations.
    """

    def __init__(self, games: Sequence[Game], observation_size: int, dtype: DTypeLike) -> None:
        envs = len(games)
        self.games = list(games)
        self.observation = np.zeros((envs, observation_size), dtype=dtype)
        self.reward = np.zeros(envs)
        self.terminated = np.zeros(envs, dtype=np.bool_)
        self._seeds = [-1] * envs
        self._actions = [bytearray() for _ in range(envs)]

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies."""
        for env, seed in zip(which, seeds, strict=True):
            self._begin(env, int(seed))
        self._show(which)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of all copies or of those; ``actions`` are indices int64 ``[envs]``."""
        which = range(len(self.games)) if which is None else which
        for env in which:
            self._act(env, int(actions[env]))
        self._show(which)

    def save(self, env: int) -> bytes:
        """The seed of the episode and its actions."""
        return _SEED.pack(self._seeds[env]) + self._actions[env]

    def load(self, env: int, state: bytes) -> None:
        """Play a saved episode again, or only the rest of it where the copy is on that way already.

        Raises:
            SnapshotError: if the bytes are no saved episode.
        """
        if len(state) < _SEED.size:
            raise SnapshotError(f"A saved episode has at least {_SEED.size} bytes, got {len(state)}.")
        (seed,), actions, played = _SEED.unpack_from(state), state[_SEED.size :], self._actions[env]
        if seed != self._seeds[env] or not actions.startswith(played):
            self._begin(env, seed)
        for action in actions[len(played) :]:
            self._act(env, action)
        self._show([env])

    def close(self) -> None:
        """Free the copies."""
        for game in self.games:
            game.close()

    @abstractmethod
    def _show(self, which: Sequence[int]) -> None:
        """Write what those copies show into the observations."""

    def _begin(self, env: int, seed: int) -> None:
        self.games[env].begin(seed)
        self._seeds[env] = seed
        self._actions[env].clear()
        self.reward[env], self.terminated[env] = 0.0, False

    def _act(self, env: int, action: int) -> None:
        if self.terminated[env]:
            self.reward[env] = 0.0
            return
        self.reward[env], self.terminated[env] = self.games[env].act(action)
        self._actions[env].append(action)


class ReplaySimulator(Replay):
    """Copies of a game that are shown one by one. Arguments as of :class:`Replay`."""

    def __init__(self, games: Sequence[ShownGame], observation_size: int, dtype: DTypeLike) -> None:
        super().__init__(games, observation_size, dtype)
        self._shown = list(games)

    def _show(self, which: Sequence[int]) -> None:
        for env in which:
            self._shown[env].write(self.observation[env])
