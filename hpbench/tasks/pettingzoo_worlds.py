"""Worlds of PettingZoo by name.

PettingZoo's environments hand out turns, and keep records of each. Here all agents of a world act at once, and code of
our own moves it on: a step is, number for number, what ``parallel_env().step`` computes. Every agent gets the mean of
the rewards that PettingZoo gives to all agents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.pettingzoo_particles import Particles, Rows
from hpbench.tasks.pettingzoo_pursuit import Pursuits


class Worlds(Protocol):
    """Some worlds of one kind. What ``rows`` chooses is a slice, or an array of their numbers."""

    def begin(self, world: int, seed: int) -> None:
        """A new episode, which is the same for the same seed whatever was played before."""
        ...

    def act(self, rows: Rows, actions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """One step of all agents ``[rows, agents]``: each one's reward, and whether the episode ended, ``[rows]``."""
        ...

    def write(self, rows: Rows, seen: NDArray[np.float32]) -> None:
        """Write what each agent sees into the beginning of its row of ``[rows, agents, size]``."""
        ...

    def save(self, world: int) -> bytes:
        """All there is to a world."""
        ...

    def load(self, world: int, state: bytes) -> None:
        """Become what was saved."""
        ...


WORLDS: Mapping[str, Callable[[int], Worlds]] = {
    "simple-spread": partial(Particles, "simple_spread"),
    "simple-speaker-listener": partial(Particles, "simple_speaker_listener"),
    "simple-reference": partial(Particles, "simple_reference"),
    "simple-line": partial(Particles, "simple_line"),
    "pursuit": Pursuits,
}
"""Makers of that many worlds, with PettingZoo's defaults."""
