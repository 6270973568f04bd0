"""Procgen's own vectorised environment as a simulator: all copies of one member in one native call.

Levels are drawn from a pool: ``levels`` of them for training (0: all there are), the rest for evaluation. The native
environment restarts episodes by itself, and its state holds the random numbers that choose its next levels.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, MissingExtra, MissingLibrary

SIDE, CHANNELS = 64, 3
"""An observation is a square image with that many pixels a side, as rows of pixels of red, green and blue."""
ACTIONS = 15
"""Eight directions, no move, and six keys of which each game uses some."""
LEVELS = 2**31 - 1
"""Level seeds that there are."""
STATE_BYTES = 100_000
"""Room for a saved state: the longest one in 48,000 random steps of each game and mode had half of that (coinrun)."""
_ALLOTTED = 2**20
"""What Procgen itself allots: it ends the process if a state is longer than its buffer."""
_RUNNING: weakref.WeakSet[Any] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """The threads of an environment are not there in a fork of its process, where closing it would wait for them."""
    for native in _RUNNING:
        native.closed = True


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)


@dataclass(frozen=True)
class ProcgenMaker:
    """Makes simulators of one game. See :class:`~hpbench.tasks.simulator.SimulatorMaker`.

    Args:
        game: one of Procgen's sixteen names.
        mode: its distribution of levels.
        levels: how many levels training has, from 0 on; evaluation has all the others. 0: both have all.
        state_bytes: the longest state of a copy.
        threads: of the native environment; 0: the caller's.

    Raises:
        InvalidConfiguration: if there are no such levels.
    """

    game: str
    mode: Literal["easy", "hard"] = "easy"
    levels: int = 0
    state_bytes: int = STATE_BYTES
    threads: int = 0
    in_process: bool = True
    restarts_itself: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.levels < LEVELS:
            raise InvalidConfiguration(f"levels={self.levels} is outside [0, {LEVELS - 1}]")

    def make(self, envs: int, evaluation: bool = False) -> ProcgenSimulator:
        """A simulator of that many copies; for evaluation on the levels that training does not have.

        Raises:
            MissingExtra: if Procgen is not installed.
            MissingLibrary: if the system libraries are not there that it draws with.
        """
        return ProcgenSimulator(self, envs, evaluation)

    def on_threads(self, threads: int) -> ProcgenMaker:
        """The same maker, whose native environments have so many threads."""
        return replace(self, threads=threads)

    def native(self, envs: int, evaluation: bool, seed: int) -> Any:
        """Procgen's ``ProcgenGym3Env``: that many copies, whose levels follow from the seed.

        Raises:
            MissingExtra, MissingLibrary: as :meth:`make`.
        """
        start, count = (self.levels, LEVELS - self.levels) if evaluation and self.levels else (0, self.levels)
        options = {"env_name": self.game, "distribution_mode": self.mode, "start_level": start, "num_levels": count}
        make = _procgen().ProcgenGym3Env
        try:
            native = make(num=envs, rand_seed=seed, num_threads=self.threads, **options)
        except OSError as error:  # from the dynamic linker: "libGL.so.1: cannot open shared object file: ..."
            missing = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file", str(error))
            if missing is None:
                raise
            raise MissingLibrary("procgen", missing[1], "libgl1 libglib2.0-0") from None
        # cffi looks a function up under the lock that it holds while it loads a library. An environment that nobody
        # closed may be collected in just that moment, and would wait for ever: so its last call is looked up now.
        _ = native._c_lib.libenv_close
        _RUNNING.add(native)
        return native


class ProcgenSimulator:
    """Running copies of one game. See :class:`~hpbench.tasks.simulator.Simulator`.

    After a step that ended an episode, ``observation`` is the first one of the next episode. Procgen does not tell an
    episode that its own time limit cut from one that ended: both are ``terminated``.

    If the native environment has threads, a step only begins when it is called, and has ended when an array is read
    (take it from the simulator anew each time) or something else is asked.
    """

    def __init__(self, maker: ProcgenMaker, envs: int, evaluation: bool) -> None:
        self._maker, self._evaluation = maker, evaluation
        self._native = maker.native(envs, evaluation, seed=0)
        # Procgen does not pass this option on: hand out the arrays that the games are drawn into, not copies of them.
        self._native._reuse_arrays = True
        self._buffer = bytearray(_ALLOTTED)
        self._observation: NDArray[np.uint8] = self._native.observe()[1]["rgb"].reshape(envs, -1)
        self._reward = np.zeros(envs, np.float64)
        self._terminated = np.zeros(envs, np.bool_)
        self._stepping = False

    @property
    def observation(self) -> NDArray[np.uint8]:
        """``[envs, 12288]``."""
        self._finish()
        return self._observation

    @property
    def reward(self) -> NDArray[np.float64]:
        """Of the last step, ``[envs]``."""
        self._finish()
        return self._reward

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last step ended the episode, ``[envs]``."""
        self._finish()
        return self._terminated

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies, on levels that follow from their seeds, as do all later levels."""
        self._finish()
        one = replace(self._maker, threads=0)
        for env, seed in zip(which, seeds, strict=True):
            fresh = one.native(1, self._evaluation, seed)
            self._restore(env, fresh.get_state()[0])
            fresh.close()
        self._native.observe()
        self._reward[list(which)] = 0.0
        self._terminated[list(which)] = False

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of all copies, whichever are asked for; those whose episode ended have begun the next one."""
        self._finish()
        self._native.act(actions)
        self._stepping = True

    def save(self, env: int) -> bytes:
        """Procgen's own state of one copy.

        Raises:
            RuntimeError: if it is longer than the maker's ``state_bytes``.
        """
        self._finish()
        length = self._native.call_c_func("get_state", env, self._foreign(self._buffer), len(self._buffer))
        if length > self._maker.state_bytes:
            raise RuntimeError(f"{self._maker.game}: a state of {length} bytes, more than {self._maker.state_bytes}")
        return bytes(memoryview(self._buffer)[:length])

    def load(self, env: int, state: bytes) -> None:
        """Become exactly what was saved, and show it."""
        self._finish()
        self._restore(env, state)
        self._native.observe()

    def close(self) -> None:
        """Free the native environment. It can be called twice."""
        self._native.close()

    def _finish(self) -> None:
        """Wait for the step that has begun, if any."""
        if self._stepping:
            self._reward[:], _, self._terminated[:] = self._native.observe()
            self._stepping = False

    def _restore(self, env: int, state: bytes) -> None:
        self._native.call_c_func("set_state", env, state, len(state))

    @staticmethod
    def _foreign(buffer: bytearray) -> Any:
        import cffi  # Procgen depends on it

        return cffi.FFI().from_buffer("char[]", buffer)


def _procgen() -> Any:
    """The module ``procgen``. Importing it imports the old ``gym`` as well, which says so, and leaves a file open."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import procgen
        except ImportError:
            raise MissingExtra("procgen", "procgen") from None
    return procgen
