"""NetHack through the NetHack Learning Environment (``nle``), behind the simulator interface.

Rules, actions and rewards are those of NLE's own tasks, up to the size of a penalty. What is added is exactness. NLE
leaves three things to the clock that change games: the phase of the moon (``fix_moon_phase`` ties it to the seed),
reseeding (off), and the birthday of the game, from which NetHack takes the names of shopkeepers, ant holes and the
prices of glass; it is set here, right after the first level was made, which does not depend on it.

NLE loads a copy of the game's library for every environment, so copies do not share globals, and any number of them may
run in one process: 3 MB each. But a game that panics ends its process, and a step holds the interpreter lock. Therefore
``in_process`` is false: copies run in a pool of processes.

A game cannot be copied. What is saved of an episode is its seed and its actions, and loading plays them again.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra, SnapshotError, UnknownName
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
)

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

_ROWS, _COLUMNS = 21, 79
_HEADER = struct.Struct("<q")
_INDICES = np.array([status.place for status in STATUS.values()])
_BITS = 1 << np.arange(len(CONDITIONS))
_INT16 = np.iinfo(np.int16)
_HUNGER = ("satiated", "", "hungry", "weak", "fainting", "fainted", "starved")
_UNLIMITED = 10**9


@dataclass(frozen=True)
class NetHackMaker:
    """Makes NetHack simulators.

    Args:
        name: of the task, one of :data:`CLASSES`.
        max_steps: the time limit; no saved episode is longer.
    """

    name: str
    max_steps: int
    in_process: ClassVar[bool] = False
    restarts_itself: ClassVar[bool] = False

    @property
    def state_bytes(self) -> int:
        """The seed, and a byte for every action."""
        return _HEADER.size + self.max_steps

    def make(self, envs: int, evaluation: bool = False) -> NetHackSimulator:
        """Copies of the game; every seed is a dungeon of its own, so there are no levels kept for evaluation.

        Raises:
            MissingExtra: if ``nle`` is not installed.
            UnknownName: if there is no such task.
        """
        return NetHackSimulator(self.name, envs)


class NetHackSimulator:
    """Copies of one NLE task: see :class:`hpbench.tasks.simulator.Simulator`.

    Observations are int16 ``[envs, OBSERVATION_SIZE]`` as laid out in :mod:`hpbench.tasks.nethack_layout`. A copy whose
    game is over stays as it is, with reward 0, until it is reset.
    """

    def __init__(self, name: str, envs: int) -> None:
        if name not in CLASSES:
            raise UnknownName("NetHack task", name, CLASSES)
        self.copies = [_Game(name) for _ in range(envs)]
        self.observation = np.zeros((envs, OBSERVATION_SIZE), dtype=np.int16)
        self.reward = np.zeros(envs)
        self.terminated = np.zeros(envs, dtype=np.bool_)

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new games in those copies."""
        for env, seed in zip(which, seeds, strict=True):
            self.copies[env].reset(seed)
            self._show(env)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of all copies or of those; ``actions`` are indices int64 ``[envs]`` below :data:`ACTIONS`."""
        for env in range(len(self.copies)) if which is None else which:
            self.copies[env].step(int(actions[env]))
            self._show(env)

    def save(self, env: int) -> bytes:
        """The seed of the episode and its actions."""
        return self.copies[env].save()

    def load(self, env: int, state: bytes) -> None:
        """Play a saved episode again, or only the rest of it where the copy is on that way already.

        Raises:
            SnapshotError: if the bytes are no saved episode.
        """
        self.copies[env].load(state)
        self._show(env)

    def snippet(self, env: int) -> str:
        """The message line and the status line."""
        return self.copies[env].text()

    def close(self) -> None:
        """End the games and remove their files."""
        for game in self.copies:
            game.close()

    def _show(self, env: int) -> None:
        game = self.copies[env]
        game.write(self.observation[env])
        self.reward[env], self.terminated[env] = game.reward, game.over


class _Game:
    """One copy of the game with what its running episode was made of."""

    def __init__(self, name: str) -> None:
        try:
            from nle.env import tasks  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtra("nle", "nethack") from error
        # The time limit is the population's business: NLE would quit the game at it.
        self.env = getattr(tasks, CLASSES[name])(
            character=CHARACTER,
            penalty_step=PENALTY,
            max_episode_steps=_UNLIMITED,
            observation_keys=("glyphs", "blstats", "message"),
            fix_moon_phase=True,
        )
        self.seed = -1
        self.actions = bytearray()
        self.reward, self.over = 0.0, False
        self._map = np.full((_ROWS + CROP[0] - 1, _COLUMNS + CROP[1] - 1), OUTSIDE, dtype=np.int16)
        top, left = CROP[0] // 2, CROP[1] // 2
        self._inside = self._map[top : top + _ROWS, left : left + _COLUMNS]

    def reset(self, seed: int) -> None:
        self.env.seed(core=seed, disp=seed ^ 0x5DEECE66D, reseed=False)
        self.shown, _ = self.env.reset()
        _set_birthday(self.env.nethack.dlpath, seed)
        self.seed = seed
        self.actions.clear()
        self.reward, self.over = 0.0, False

    def step(self, action: int) -> None:
        if self.over:
            self.reward = 0.0
            return
        self.shown, self.reward, self.over, _, _ = self.env.step(action)
        self.actions.append(action)

    def save(self) -> bytes:
        return _HEADER.pack(self.seed) + self.actions

    def load(self, state: bytes) -> None:
        if len(state) < _HEADER.size:
            raise SnapshotError(f"A saved NetHack episode has at least {_HEADER.size} bytes, got {len(state)}.")
        (seed,) = _HEADER.unpack_from(state)
        actions = state[_HEADER.size :]
        if seed != self.seed or not actions.startswith(self.actions):
            self.reset(seed)
        elif len(actions) == len(self.actions):
            return
        for action in actions[len(self.actions) :]:
            self.step(action)

    def write(self, row: NDArray[np.int16]) -> None:
        """Lay out what is shown, in place."""
        status, message = self.shown["blstats"], self.shown["message"]
        column, line = int(status[0]), int(status[1])
        self._inside[:] = self.shown["glyphs"]
        row[:CELLS] = self._map[line : line + CROP[0], column : column + CROP[1]].reshape(-1)
        row[STATUS_START:CONDITIONS_START] = np.clip(status[_INDICES], _INT16.min, _INT16.max)
        row[CONDITIONS_START:MESSAGE_START] = (status[CONDITION_INDEX] & _BITS) != 0
        row[MESSAGE_START:] = message[:MESSAGE]

    def text(self) -> str:
        message = bytes(self.shown["message"]).split(b"\0")[0].decode("latin-1").strip()
        if self.over:  # the status line is gone with the game
            return message or "the game is over"
        shown = dict(zip(STATUS, self.shown["blstats"][_INDICES].tolist(), strict=True))
        hunger = _HUNGER[shown["hunger"]] if 0 <= shown["hunger"] < len(_HUNGER) else ""
        status = (
            "Dlvl:{depth} $:{gold} HP:{hit_points}({hit_points_maximum}) Pw:{energy}({energy_maximum}) "
            "AC:{armour_class} Xp:{experience_level}/{experience_points} T:{time} S:{score}"
        ).format(**shown)
        return " | ".join(part for part in (message, " ".join((status, hunger)).strip()) if part)

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
