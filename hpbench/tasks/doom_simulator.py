"""Doom through ViZDoom, behind the simulator interface.

Every copy of the game is a process of ViZDoom's own that waits for its player, so the copies of one caller take turns:
``in_process`` is false, and a pool spreads them over the cores. A game takes 20 MB; one that is
killed leaves 72 kB in ``/dev/shm``.

Scenarios, rewards and buttons are those of ViZDoom's configuration files. An action holds down one button, or none, for
:data:`FRAME_SKIP` tics (``max_buttons_pressed=1`` of ViZDoom's own Gymnasium environments). Time limits are the
population's business, so the game's are off.

A game cannot be copied: see :mod:`hpbench.tasks.replay`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra, UnknownName
from hpbench.tasks.replay import ReplayMaker, ReplaySimulator

SIDE, CHANNELS = 64, 3
"""An observation is a square image with that many pixels a side, as rows of pixels of red, green and blue."""
STATUS_ROWS = 2
"""The lowest rows have one colour, which is the status: health, ammunition of the weapon in hand, and kills, 0 to 255.
Scenarios hide Doom's own status bar, in which a player would see the first two."""
FRAME_SKIP = 4
"""Tics, of which a second has 35, that an action lasts."""

BUTTONS: Mapping[str, int] = {
    "basic": 3,
    "defend_the_center": 3,
    "defend_the_line": 3,
    "health_gathering": 3,
    "health_gathering_supreme": 3,
    "deadly_corridor": 7,
    "my_way_home": 5,
    "take_cover": 2,
    "predict_position": 3,
}
"""ViZDoom's scenarios, and how many buttons each has."""

LIMITS: Mapping[str, int] = {
    **dict.fromkeys(BUTTONS, 525),
    "defend_the_center": 523,
    "my_way_home": 523,
    "basic": 72,
    "predict_position": 71,
}
"""Time limits in steps: the game's own, rounded up to whole steps. Two scenarios have none, and get that of most, a
minute."""

_ROWS, _COLUMNS = 120, 160  # the smallest screen that ViZDoom has


@dataclass(frozen=True)
class DoomMaker(ReplayMaker):
    """Makes Doom simulators.

    Args:
        scenario: one of :data:`BUTTONS`.
        max_steps: the time limit; no saved episode is longer.
    """

    scenario: str
    max_steps: int

    @staticmethod
    def describe(summary: Sequence[float]) -> str:
        """In words, what the encoders of :mod:`hpbench.learners.first_person` say of an observation."""
        red, green, blue, contrast, edges, health, ammunition, kills = summary
        status = f"health {health:.0f} ammo {ammunition:.0f} kills {kills:.0f}"
        return f"{status} image rgb {red:.2f} {green:.2f} {blue:.2f} contrast {contrast:.2f} edges {edges:.3f}"

    def make(self, envs: int, evaluation: bool = False) -> ReplaySimulator:
        """Copies of the game. Observations are uint8 ``[envs, 64 * 64 * 3]``; actions are indices from 0 to the number
        of buttons: 0 for none, then one for each button in the scenario's order. Every seed is an episode of its own,
        so there are no levels kept for evaluation.

        Raises:
            MissingExtra: if ViZDoom is not installed.
            UnknownName: if there is no such scenario.
        """
        if self.scenario not in BUTTONS:
            raise UnknownName("Doom scenario", self.scenario, BUTTONS)
        try:
            import vizdoom
        except ImportError as error:
            raise MissingExtra("vizdoom", "doom") from error
        games = [_Game(vizdoom, self.scenario) for _ in range(envs)]
        return ReplaySimulator(games, SIDE * SIDE * CHANNELS, np.uint8)


class _Game:
    """One copy of the game: see :class:`hpbench.tasks.replay.Game`."""

    def __init__(self, vizdoom: Any, scenario: str) -> None:
        self._scenario = scenario
        waiting = _idle[scenario]
        self.game = waiting.pop() if waiting else _start(vizdoom, scenario)
        count = self.game.get_available_buttons_size()
        self._actions = np.vstack([np.zeros(count, dtype=int), np.eye(count, dtype=int)]).tolist()

    def begin(self, seed: int) -> None:
        self.game.set_seed(seed)
        self.game.new_episode()

    def act(self, action: int) -> tuple[float, bool]:
        reward: float = self.game.make_action(self._actions[action], FRAME_SKIP)
        return reward, self.game.is_episode_finished()

    def write(self, row: NDArray[Any]) -> None:
        state = self.game.get_state()
        if state is None:  # nothing is seen any more when the episode is over
            row[:] = 0
            return
        image = row.reshape(SIDE, SIDE, CHANNELS)
        image[:] = shrink(state.screen_buffer)
        image[-STATUS_ROWS:] = np.clip(state.game_variables, 0, 255)

    def close(self) -> None:
        """Whoever needs a copy next gets this one's process: a seed begins the same episode whatever came before, and
        to start a process takes as long as some hundred steps."""
        game, self.game = self.game, None
        if game is not None and game.is_running():
            _idle[self._scenario].append(game)


_idle: dict[str, list[Any]] = collections.defaultdict(list)
"""Running games of this process that nobody plays, by scenario."""


def _start(vizdoom: Any, scenario: str) -> Any:
    """ViZDoom's ``DoomGame``, running."""
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    status = vizdoom.GameVariable
    game.set_available_game_variables([status.HEALTH, status.SELECTED_WEAPON_AMMO, status.KILLCOUNT])
    game.set_doom_config_path(os.devnull)  # it would write its settings when it ends
    # It makes a folder where it is started, and leaves it empty.
    with tempfile.TemporaryDirectory(prefix="hpbench-doom-") as folder, contextlib.chdir(folder):
        game.init()
    return game


_BLOCKS = 8
"""Of 15 rows each, which become 8; and 5 columns become 2."""


def _row_weights() -> NDArray[np.float32]:
    """How much of each of 15 rows goes into each of 8, in units of a fifteenth: float32 ``[8, 15]``."""
    fine = np.repeat(np.eye(15), 8, axis=1)  # every row, cut into 8 parts; 15 parts make a new row
    weights: NDArray[np.float32] = fine.reshape(15, 8, 15).sum(axis=2).T.astype(np.float32)
    return weights


_ROW_WEIGHTS = _row_weights()


def shrink(screen: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over areas: whole numbers ``[64, 64, 3]`` from a screen ``[120, 160, 3]``.

    All sums are whole numbers that float32 holds, so the result does not depend on the order of summation.
    """
    blocks = screen.reshape(_BLOCKS, _ROWS // _BLOCKS, _COLUMNS * CHANNELS).astype(np.float32)
    rows = np.matmul(_ROW_WEIGHTS, blocks).reshape(SIDE, SIDE // 2, 5, CHANNELS)
    a, b, c, d, e = (rows[:, :, i] for i in range(5))
    both = np.stack((2.0 * (a + b) + c, c + 2.0 * (d + e)), axis=2)
    means: NDArray[np.float32] = np.floor((both.reshape(SIDE, SIDE, CHANNELS) + 37.0) / 75.0)
    return means
