"""Gymnasium's MuJoCo environments as a simulator: its own classes, so that every number is theirs.

A copy is saved as MuJoCo's full integration state, the warm start of the solver included, with what Gymnasium reads
before a step although it follows from the one before: the positions of bodies. All else is computed anew in a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra

STATE_BYTES = 4096
"""Room for a saved copy: the longest (Ant) takes half of that."""


@dataclass(frozen=True)
class MujocoMaker:
    """Makes simulators of one environment. See :class:`~hpbench.tasks.simulator.SimulatorMaker`.

    Args:
        environment: id of one of Gymnasium's environments on MuJoCo, of version 5.
        state_bytes: the longest state of a copy.
    """

    environment: str
    state_bytes: int = STATE_BYTES
    in_process: bool = True
    restarts_itself: bool = False

    def make(self, envs: int, evaluation: bool = False) -> MujocoSimulator:
        """A simulator of that many copies. Those for evaluation are no different.

        Raises:
            MissingExtra: if MuJoCo is not installed.
        """
        return MujocoSimulator(self, envs)


class MujocoSimulator:
    """Running copies of one environment. See :class:`~hpbench.tasks.simulator.Simulator`.

    Observations are Gymnasium's, rounded to float32.
    """

    def __init__(self, maker: MujocoMaker, envs: int) -> None:
        self._mujoco = _mujoco()
        import gymnasium as gym

        with _quiet(self._mujoco):
            self._copies: list[Any] = [gym.make(maker.environment).unwrapped for _ in range(envs)]
        first = self._copies[0]
        self._kind = int(self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._size = self._mujoco.mj_stateSize(first.model, self._kind)
        self._maker = maker
        self.observation = np.zeros((envs, *first.observation_space.shape), np.float32)
        self.reward = np.zeros(envs, np.float64)
        self.terminated = np.zeros(envs, np.bool_)

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies, as Gymnasium does with those seeds."""
        for env, seed in zip(which, seeds, strict=True):
            self.observation[env], _ = self._copies[env].reset(seed=seed)
            self.reward[env], self.terminated[env] = 0.0, False

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of those copies; the others stay as they are."""
        with _quiet(self._mujoco):
            for env in range(len(self._copies)) if which is None else which:
                observation, reward, terminated, _, _ = self._copies[env].step(actions[env])
                self.observation[env], self.reward[env], self.terminated[env] = observation, reward, terminated

    def save(self, env: int) -> bytes:
        """Integration state and positions of bodies, float64, then the observation, float32."""
        copy = self._copies[env]
        state = np.empty(self._size)
        self._mujoco.mj_getState(copy.model, copy.data, state, self._kind)
        return b"".join((state.tobytes(), copy.data.xpos.tobytes(), self.observation[env].tobytes()))

    def load(self, env: int, state: bytes) -> None:
        """Become exactly what was saved, and show it."""
        copy, positions = self._copies[env], self._copies[env].data.xpos
        # From a fresh state on: nothing that a copy did before may be felt.
        self._mujoco.mj_resetData(copy.model, copy.data)
        numbers = np.frombuffer(state, np.float64, self._size + positions.size)
        self._mujoco.mj_setState(copy.model, copy.data, numbers[: self._size].copy(), self._kind)
        positions[:] = numbers[self._size :].reshape(positions.shape)
        self.observation[env] = np.frombuffer(state, np.float32, offset=numbers.nbytes)
        self.reward[env], self.terminated[env] = 0.0, False

    def close(self) -> None:
        """Let the copies go. It can be called twice."""
        for copy in self._copies:
            copy.close()
        self._copies = []


@contextlib.contextmanager
def _quiet(mujoco: Any) -> Iterator[None]:
    """MuJoCo warns on the screen and in a file of the working directory: of words in Gymnasium's models that are out of
    date, and of actions that are no numbers, which a member that diverges gives."""
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)


def _mujoco() -> Any:
    """The module ``mujoco``, with all that Gymnasium imports beside it."""
    try:
        import imageio  # noqa: F401
        import mujoco
    except ImportError:
        raise MissingExtra("mujoco", "mujoco") from None
    return mujoco
