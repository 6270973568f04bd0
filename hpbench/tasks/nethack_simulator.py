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
from collections.abc import Sequence
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
from hpbench.tasks.replay import ReplayMaker, ReplaySimulator

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

_ROWS, _COLUMNS = 21, 79
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

    def make(self, envs: int, evaluation: bool = False) -> ReplaySimulator:
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
        return ReplaySimulator([_Game(task) for _ in range(envs)], OBSERVATION_SIZE, np.int16)


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
        self._map = np.full((_ROWS + CROP[0] - 1, _COLUMNS + CROP[1] - 1), OUTSIDE, dtype=np.int16)
        top, left = CROP[0] // 2, CROP[1] // 2
        self._inside = self._map[top : top + _ROWS, left : left + _COLUMNS]

    def begin(self, seed: int) -> None:
        self.env.seed(core=seed, disp=seed ^ DISPLAY, reseed=False)
        self.shown, _ = self.env.reset()
        _set_birthday(self.env.nethack.dlpath, seed)

    def act(self, action: int) -> tuple[float, bool]:
        self.shown, reward, over, _, _ = self.env.step(action)
        return reward, over

    def write(self, row: NDArray[Any]) -> None:
        status, message = self.shown["blstats"], self.shown["message"]
        column, line = int(status[0]), int(status[1])
        self._inside[:] = self.shown["glyphs"]
        row[:CELLS] = self._map[line : line + CROP[0], column : column + CROP[1]].reshape(-1)
        row[STATUS_START:CONDITIONS_START] = np.clip(status[_INDICES], _INT16.min, _INT16.max)
        row[CONDITIONS_START:MESSAGE_START] = (status[CONDITION_INDEX] & _BITS) != 0
        row[MESSAGE_START:] = message[:MESSAGE]

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
