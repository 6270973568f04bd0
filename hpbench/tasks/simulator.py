"""What a task is that no tensor arithmetic can step: copies of a real simulator, behind one interface.

A simulator belongs to one member and holds its ``envs`` running copies. It knows nothing of time limits, returns or
learners: the population counts steps, cuts episodes and asks for restarts. Its arrays are filled in place, so that a
pool of processes can keep them in shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpbench.tasks.base import COMMON_PHYSICS


class Simulator(Protocol):
    """Running copies of one task.

    Where a task has several agents, the copies of one world stand side by side, one for each agent. They begin, step
    and end together, and what the first of them is given or saves is the world's: the seed of an episode, its state.

    After :meth:`reset` and :meth:`step` the arrays hold what the copies show now. Nothing is random but by the seeds
    that :meth:`reset` is given: equal seeds and actions give equal arrays, whoever else runs in the process.
    """

    @property
    def observation(self) -> NDArray[Any]:
        """``[envs, observation_size]``, in the task's observation dtype."""
        ...

    @property
    def reward(self) -> NDArray[np.float64]:
        """Of the last step, ``[envs]``."""
        ...

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last step ended the episode, ``[envs]``."""
        ...

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies, one seed of 31 bits each; the others stay as they are."""
        ...

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of the copies.

        Args:
            actions: discrete: int64 ``[envs]``; continuous: float32 ``[envs, action_count]``, inside bounds.
            which: the copies that matter; what becomes of the others does not, until they are reset. None: all.
        """
        ...

    def save(self, env: int) -> bytes:
        """All there is to one copy, its random state included: at most ``state_bytes`` of its maker."""
        ...

    def load(self, env: int, state: bytes) -> None:
        """Become exactly what was saved, and show it: the copy continues bit for bit as the saved one did."""
        ...

    def close(self) -> None:
        """Free what the simulator holds. It can be called twice."""
        ...


class SimulatorMaker(Protocol):
    """Makes simulators of one task: a frozen dataclass that can be compared, hashed and pickled.

    It may have a method ``describe(observation: Sequence[float]) -> str``: an observation in words, as it stands in a
    trajectory snippet (what the encoder makes of it, if there is one), for a line of text observations.

    Raises at :meth:`make`:
        MissingExtra: if the simulator is not installed, with the line that installs it.
    """

    @property
    def state_bytes(self) -> int:
        """The longest state that :meth:`Simulator.save` gives."""
        ...

    @property
    def in_process(self) -> bool:
        """Whether copies run in the caller's process, because they are threads already or release the interpreter lock;
        otherwise they are spread over a pool of processes."""
        ...

    @property
    def restarts_itself(self) -> bool:
        """Whether a step that terminates an episode already shows the first observation of the next one. Otherwise it
        shows the last of the old one, and waits for :meth:`Simulator.reset`."""
        ...

    def make(self, envs: int, evaluation: bool = False) -> Simulator:
        """A simulator of that many copies, to be reset before anything else.

        Args:
            envs: copies.
            evaluation: on the levels that are kept for evaluation, where the task has such.
        """
        ...


@runtime_checkable
class ThreadedMaker(Protocol):
    """A maker whose simulators can have threads of their own in the caller's process."""

    def on_threads(self, threads: int) -> SimulatorMaker:
        """The same maker, whose simulators have so many. They show the same on any number of threads."""
        ...


@dataclass(frozen=True)
class ExternalDynamics:
    """The dynamics of tasks with a simulator: the physics that the population applies itself, and nothing to step."""

    physics: ClassVar[Mapping[str, float]] = COMMON_PHYSICS
    variation: ClassVar[Mapping[str, tuple[float, float]]] = {
        "reward_scale": (0.1, 10.0),
        "observation_noise": (0.0, 0.02),
        "action_delay": (0.0, 2.0),
    }
    reset_draws: ClassVar[int] = 2
    native: ClassVar[str] = ""
    state_size: ClassVar[int] = 0

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """There is nothing to reset."""
        self._refuse()

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """There is nothing to observe."""
        self._refuse()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """There is nothing to step."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise TypeError("a task with a simulator has no tensor dynamics: its environments are ExternalEnvironments")


@dataclass(frozen=True)
class ExactDynamics(ExternalDynamics):
    """The same for observations that are whole numbers, such as pixels: variants add no noise to them."""

    variation: ClassVar[Mapping[str, tuple[float, float]]] = {
        **ExternalDynamics.variation,
        "observation_noise": (0.0, 0.0),
    }
