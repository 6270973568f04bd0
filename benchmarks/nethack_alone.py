"""A simulator that plays whole rollouts by itself. It imports no more than processes of simulators should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.nethack_simulator import ACTIONS
from hpbench.tasks.simulator import SimulatorMaker


class Alone:
    """Every step of it is a rollout with random actions, in which what has ended is restarted."""

    def __init__(self, running: Any, envs: int, steps: int) -> None:
        self.running, self.envs, self.seed = running, envs, 0
        self.actions = np.random.default_rng(0).integers(ACTIONS, size=(steps, envs))
        self.observation, self.reward, self.terminated = running.observation, running.reward, running.terminated

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes."""
        self.running.reset(which, seeds)
        self.seed = max(self.seed, *seeds) + 1

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """A rollout; the actions given are not used."""
        for row in self.actions:
            self.running.step(row)
            ended = np.flatnonzero(self.running.terminated).tolist()
            if ended:
                self.reset(ended, range(self.seed, self.seed + len(ended)))

    def close(self) -> None:
        """Free the copies."""
        self.running.close()


@dataclass(frozen=True)
class AloneMaker:
    """Makes them from the simulators of ``maker``, with rollouts of ``steps``."""

    maker: SimulatorMaker
    steps: int
    state_bytes: ClassVar[int] = 0
    in_process: ClassVar[bool] = False

    def make(self, envs: int, evaluation: bool = False) -> Alone:
        """So many copies."""
        return Alone(self.maker.make(envs), envs, self.steps)
