"""NetHack through the NetHack Learning Environment (``nle``), behind the simulator interface.

Rules, actions and rewards are those of NLE's own tasks, up to the size of a penalty. What is added is exactness. NLE
leaves three things to the clock that change games: the phase of the moon (``fix_moon_phase`` ties it to the seed),
reseeding (off), and the birthday of the game, from which NetHack takes the names of shopkeepers, ant holes and the
prices of glass; it is set here, right after the first level was made, which does not depend on it.

NLE loads a copy of the game's library for every environment, so copies do not share globals, and any number of them may
run in one process: 3 MB each. But a game that panics ends its process, and a step holds the interpreter lock. Therefore
``in_process`` is false: copies run in a pool of processes.

A game cannot be copied: see :mod:`hpbench.tasks.replay`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra, UnknownName
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITION_INDEX,
    CONDITIONS,
    CONDITIONS_START,
    CROP,
    MESSAGE,
    MESSAGE_START,
    OBSERVATION_SIZE,
    OUTSIDE,
    STATUS,
    STATUS_START,
    describe,
)
from hpbench.tasks.replay import Replay, ReplayMaker

CLASSES = {
    "score": "NetHackScore",
    "staircase": "NetHackStaircase",
    "staircase-pet": "NetHackStaircasePet",
    "oracle": "NetHackOracle",
    "gold": "NetHackGold",
    "eat": "NetHackEat",
    "scout": "NetHackScout",
}
"""NLE's class of each task (``nle.env.tasks``)."""
CHARACTER = "mon-hum-neu-mal"
"""A human monk, NLE's default character."""
PENALTY = -0.001
"""Reward of a step in which the game's clock stands still, as when walking into a wall. NLE's default is ten times
that; within 1,000 steps this one cannot outweigh the reward of 1 at a goal: a return tells whether it was reached."""
ACTIONS = 23
"""NLE's ``TASK_ACTIONS``: continue, eight directions, eight far ones, up, down, wait, kick, eat, search."""

DISPLAY = 0x5DEECE66D
"""Flips bits of a seed: the game's second generator, for what is only shown, starts elsewhere than the first."""

_MAP = (21, 79)
_INDICES = np.array([status.place for status in STATUS.values()])
_BITS = 1 << np.arange(len(CONDITIONS))
_INT16 = np.iinfo(np.int16)
_UNLIMITED = 10**9


@dataclass(frozen=True)
class NetHackMaker(ReplayMaker):
    """Makes NetHack simulators.

    Args:
        name: of the task, one of :data:`CLASSES`.
        max_steps: the time limit; no saved episode is longer.
    """

    name: str
    max_steps: int

    @staticmethod
    def describe(observation: Sequence[float]) -> str:
        """What a flat observation shows: the message line and the status line."""
        return describe(observation)

    def make(self, envs: int, evaluation: bool = False) -> NetHackSimulator:
        """Copies of the game. Observations are int16 ``[envs, OBSERVATION_SIZE]`` as laid out in
        :mod:`hpbench.tasks.nethack_layout`; actions are indices below :data:`ACTIONS`. Every seed is a dungeon of its
        own, so there are no levels kept for evaluation.

        Raises:
            MissingExtra: if ``nle`` is not installed.
            UnknownName: if there is no such task.
        """
        if self.name not in CLASSES:
            raise UnknownName("NetHack task", self.name, CLASSES)
        try:
            from nle.env import tasks
        except ImportError as error:
            raise MissingExtra("nle", "nethack") from error
        task = getattr(tasks, CLASSES[self.name])
        return NetHackSimulator([_Game(task) for _ in range(envs)])


class NetHackSimulator(Replay):
    """Copies of the game whose buffers lie side by side, so that one pass of NumPy makes all the observations: game by
    game, they took as long as the games themselves.

    Attributes:
        buffers: by NLE's names of observations, ``[envs, ...]``: the games write what they show there.
    """

    def __init__(self, games: Sequence[_Game]) -> None:
        super().__init__(games, OBSERVATION_SIZE, np.int16)
        envs = len(games)
        self.buffers = {
            key: np.zeros((envs, *buffer.shape), dtype=buffer.dtype) for key, buffer in games[0].buffers.items()
        }
        for env, game in enumerate(games):
            game.use({key: buffer[env] for key, buffer in self.buffers.items()})
        rows, columns = (size + around - 1 for size, around in zip(_MAP, CROP, strict=True))
        self._map = np.full((envs, rows, columns), OUTSIDE, dtype=np.int16)
        top, left = CROP[0] // 2, CROP[1] // 2
        self._inside = self._map[:, top : top + _MAP[0], left : left + _MAP[1]]
        self._corners = np.arange(envs) * rows * columns
        self._crop = (np.arange(CROP[0])[:, None] * columns + np.arange(CROP[1])).reshape(-1)

    def _show(self, which: Sequence[int]) -> None:
        chosen = slice(None) if len(which) == len(self.games) else list(which)
        status = self.buffers["blstats"][chosen]
        self._inside[chosen] = self.buffers["glyphs"][chosen]
        corners = self._corners[chosen] + status[:, 1] * self._map.shape[2] + status[:, 0]
        shown = np.empty((len(status), OBSERVATION_SIZE), dtype=np.int16)
        shown[:, :CELLS] = self._map.reshape(-1)[corners[:, None] + self._crop]
        shown[:, STATUS_START:CONDITIONS_START] = status[:, _INDICES].clip(_INT16.min, _INT16.max)
        shown[:, CONDITIONS_START:MESSAGE_START] = (status[:, CONDITION_INDEX, None] & _BITS) != 0
        shown[:, MESSAGE_START:] = self.buffers["message"][chosen, :MESSAGE]
        self.observation[chosen] = shown


class _Game:
    """One copy of the game: see :class:`hpbench.tasks.replay.Game`."""

    def __init__(self, task: Any) -> None:
        # The time limit is the population's business: NLE would quit the game at it.
        self.env = task(
            character=CHARACTER,
            penalty_step=PENALTY,
            max_episode_steps=_UNLIMITED,
            observation_keys=("glyphs", "blstats", "message"),
            fix_moon_phase=True,
        )
        self._before: list[NDArray[Any] | None] = [None] * len(self.buffers)

    @property
    def buffers(self) -> dict[str, NDArray[Any]]:
        """Where the game writes what it shows."""
        buffers: dict[str, NDArray[Any]] = self.env.nethack._obs_buffers
        return buffers

    def use(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        """Give it others, before its first episode begins."""
        game = self.env.nethack
        self.buffers.update(buffers)
        game._pynethack.set_buffers(**buffers)
        game._obs = tuple(buffers[key] for key in self.env._observation_keys)

    def begin(self, seed: int) -> None:
        self.env.seed(core=seed, disp=seed ^ DISPLAY, reseed=False)
        self.env.reset()
        _set_birthday(self.env.nethack.dlpath, seed)

    def act(self, action: int) -> tuple[float, bool]:
        """``step`` of ``nle.env.base.NLE`` without what nobody reads here, which takes as long as the game: copies of
        all that was shown before, the time limit, dictionaries of observations and of information."""
        env, before = self.env, self._before
        for index in (env._blstats_index, env._internal_index):  # what rewards compare with
            before[index] = env.last_observation[index].copy()
        shown, over = env.nethack.step(env.actions[action])
        shown, over = env._perform_known_steps(shown, over)
        status = over or env._is_episode_end(shown)
        reward = float(env._reward_fn(before, action, shown, env.StepStatus(status)))
        if status and not over:
            env._quit_game(shown, over)
        return reward, bool(status)

    def close(self) -> None:
        self.env.close()


def _set_birthday(library: str, seed: int) -> None:
    """Set the game's birthday, which its library exports, to a time that only depends on the seed."""
    # The library is loaded already: this finds it again, and must let go of it, or NLE could not reload it.
    loaded = ctypes.CDLL(library, mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    try:
        ctypes.c_long.in_dll(loaded, "ubirthday").value = seed
    finally:
        import _ctypes

        _ctypes.dlclose(loaded._handle)
