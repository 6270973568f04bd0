"""DeepMind Lab through its Python module ``deepmind_lab``, behind the simulator interface.

Written against the documented interface (docs/users/python_api.md of google-deepmind/lab, commit 870364e68c6c). No
package index has the module, and **it was not run here with the real simulator**: what ran are tests against a double
of that interface (``tests/unit/test_dmlab_simulator.py``). The contract tests run wherever the module can be imported.

The module loads a copy of its library for every environment, so several may run in one process (its authors in issue
218 of google-deepmind/lab). An episode is started by number and seed; ``mixerSeed`` keeps the seeds of evaluation apart
from those of training. A level cannot be copied: see :mod:`hpbench.tasks.replay`, which needs what the documentation
does not promise, that equal seeds and actions give equal episodes. The contract tests check it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingBuild
from hpbench.tasks.replay import ReplayMaker, ReplaySimulator

SIDE, CHANNELS = 64, 3
"""An observation is a square image with that many pixels a side, as rows of pixels of red, green and blue."""
ACTION_REPEAT = 4
"""Frames, of which a second has 60, that an action lasts: as in Espeholt et al. 2018 (IMPALA, arXiv 1802.01561)."""

ACTIONS: Mapping[str, tuple[int, ...]] = {
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
    "strafe left": (0, 0, -1, 0, 0, 0, 0),
    "strafe right": (0, 0, 1, 0, 0, 0, 0),
    "look left": (-20, 0, 0, 0, 0, 0, 0),
    "look right": (20, 0, 0, 0, 0, 0, 0),
    "look left and forward": (-20, 0, 0, 1, 0, 0, 0),
    "look right and forward": (20, 0, 0, 1, 0, 0, 0),
    "fire": (0, 0, 0, 0, 1, 0, 0),
}
"""The nine actions of IMPALA, in the order of its code (environments.py of google-deepmind/scalable_agent, commit
cd66d00914d5), as what the module wants: pixels to look right and down; steps right and ahead; fire, jump, crouch."""

DATASETS = "HPBENCH_DMLAB_DATASETS"
"""The variable of the process environment that tells the folder of data which some psychlab levels ask for."""

_IMAGE = "RGB_INTERLEAVED"
_EPISODE = 1  # always the same number, for otherwise an episode would depend on how many there were before
_EVALUATION_SEEDS = 0x600D5EED  # the mixer seed that IMPALA's code evaluates with
_BUILD = "https://github.com/google-deepmind/lab/blob/master/docs/users/build.md"


@dataclass(frozen=True)
class DMLabMaker(ReplayMaker):
    """Makes simulators of one DMLab-30 task.

    Args:
        level: its script for training, below ``contributed/dmlab30/``.
        evaluation_level: that for evaluation, mostly the same.
        max_steps: the time limit; no saved episode is longer.
    """

    level: str
    evaluation_level: str
    max_steps: int

    def config(self, evaluation: bool) -> dict[str, str]:
        """The settings of an environment: text, as the module wants it."""
        config = {"width": str(SIDE), "height": str(SIDE), "logLevel": "WARN"}
        if evaluation:
            config |= {"allowHoldOutLevels": "true", "mixerSeed": str(_EVALUATION_SEEDS)}
        if DATASETS in os.environ:
            config["datasetPath"] = os.environ[DATASETS]
        return config

    def make(self, envs: int, evaluation: bool = False) -> ReplaySimulator:
        """Copies of the task. Observations are uint8 ``[envs, 64 * 64 * 3]``; actions are indices into
        :data:`ACTIONS`. Evaluation has other seeds than training, and two tasks have another level for it.

        Raises:
            MissingBuild: if ``deepmind_lab`` cannot be imported.
        """
        try:
            import deepmind_lab
        except ImportError:
            raise MissingBuild("deepmind_lab", _BUILD) from None
        level = f"contributed/dmlab30/{self.evaluation_level if evaluation else self.level}"
        games = [_Game(deepmind_lab, level, self.config(evaluation)) for _ in range(envs)]
        return ReplaySimulator(games, SIDE * SIDE * CHANNELS, np.uint8)


class _Game:
    """One copy of a task: see :class:`hpbench.tasks.replay.Game`."""

    def __init__(self, deepmind_lab: Any, level: str, config: dict[str, str]) -> None:
        self.lab = deepmind_lab.Lab(level, [_IMAGE], config=config, renderer="software")
        self._actions = [np.array(action, dtype=np.intc) for action in ACTIONS.values()]
        self._closed = False

    def begin(self, seed: int) -> None:
        self.lab.reset(episode=_EPISODE, seed=seed)

    def act(self, action: int) -> tuple[float, bool]:
        reward = float(self.lab.step(self._actions[action], num_steps=ACTION_REPEAT))
        return reward, not self.lab.is_running()

    def write(self, row: NDArray[Any]) -> None:
        if not self.lab.is_running():  # there are no observations any more
            row[:] = 0
            return
        row[:] = self.lab.observations()[_IMAGE].reshape(-1)

    def close(self) -> None:
        if not self._closed:
            self.lab.close()
        self._closed = True
