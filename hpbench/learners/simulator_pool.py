"""Simulators spread over processes, for those that neither run in threads nor release the interpreter lock.

A pool is a few worker processes; a simulator made from it has its copies spread over all of them, or some. Several
members, and their evaluations, share one pool. Observations, rewards and actions are in memory that both sides map: a
step costs one short message to every worker and one back, whatever the number of copies, and nothing is pickled. A
player is sent to the workers as one message, and takes as many steps there as it likes.

Results do not depend on the pool: copies do not know each other, so neither the number of processes nor what else they
run changes what a simulator shows.
"""

from __future__ import annotations

import itertools
import os
import pickle
import weakref
from collections.abc import Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpbench.errors import InvalidConfiguration, SimulatorCrash
from hpbench.learners.simulator_process import SimulatorProcess, end_all
from hpbench.learners.simulator_worker import (
    CLOSE,
    DONE,
    LOAD,
    MAKE,
    PLAY,
    RESET,
    SAVE,
    SHARE,
    STEP,
    Player,
    map_array,
)
from hpbench.tasks.simulator import Simulator, SimulatorMaker, ThreadedMaker

PATIENCE = 300.0
"""Seconds after which a worker that has not answered counts as stuck. Replaying long episodes takes some seconds."""

UNKNOWN = -1
"""In place of the seed of an episode that was restored."""
MANY = 8
"""Cores, of which the caller can have one for itself, and the others may be kept busy waiting."""
SPINNING = 0.005
"""Seconds to keep a core busy waiting for a message before the process sleeps, where there are many."""


class SimulatorPool:
    """Worker processes that run simulators.

    Args:
        processes: how many; None: as many as there are cores for this process, but for one where there are many: the
            caller has work to do meanwhile.
        patience: seconds to wait for an answer.

    Raises:
        InvalidConfiguration: if there is less than one process.
    """

    def __init__(self, processes: int | None = None, patience: float = PATIENCE) -> None:
        cores = len(os.sched_getaffinity(0))
        count = cores - (cores > MANY) if processes is None else processes
        if count < 1:
            raise InvalidConfiguration(f"A pool needs at least one process, got {count}.")
        self.owner = os.getpid()
        self.broken = ""
        spinning = SPINNING if count < cores and cores > MANY else 0.0
        self.workers = [SimulatorProcess(patience, spinning) for _ in range(count)]
        self._numbers = itertools.count()
        self._left: list[int] = []
        self._end = weakref.finalize(self, end_all, self.workers, self.owner)  # at exit, if not before

    @property
    def usable(self) -> bool:
        """Whether simulators can be made: all processes live, and they are children of this process."""
        return not self.broken and self._end.alive and self.owner == os.getpid()

    def make(
        self,
        maker: SimulatorMaker,
        envs: int,
        evaluation: bool = False,
        task: str = "",
        together: int = 1,
    ) -> PooledSimulator:
        """A simulator whose copies are spread over the processes; arguments as for :meth:`SimulatorMaker.make`.

        Args:
            maker: of any kind; it must be picklable.
            envs: copies.
            evaluation: on the levels for evaluation.
            task: its id, for errors.
            together: so many copies in a row must be in one process.

        Raises:
            MissingExtra: if the simulator is not installed.
            SimulatorCrash: if a process dies on the way.
            InvalidConfiguration: if the pool was closed or lost a process.
        """
        if not self.usable:
            raise InvalidConfiguration(f"This pool of simulators is {self.broken or 'closed'}: make a new one.")
        name = task or type(maker).__name__
        return PooledSimulator(self, next(self._numbers), maker, envs, evaluation, name, together)

    def forget(self, number: int) -> None:
        """Close a simulator in all processes, soon. Finalizers call this at any moment, even amid a message."""
        self._left.append(number)

    def tidy(self) -> None:
        """Do what :meth:`forget` has put off."""
        while self._left:
            message = pickle.dumps(None)
            number = self._left.pop()
            for worker in self.workers:
                worker.send(CLOSE, number, message)

    def close(self) -> None:
        """End the processes; what runs in them is lost. It can be called twice."""
        self._end()


class PooledSimulator:
    """One simulator whose copies run in the processes of a pool: a :class:`~hpbench.tasks.simulator.Simulator`.

    Resets, steps and loads only begin when they are called. They end, and their errors are raised, when an array is
    read (take it from the simulator anew each time, or :meth:`finish`) or something else is asked. So simulators that
    are stepped or loaded one after the other work side by side.

    Whatever has to do with the processes raises :class:`~hpbench.errors.SimulatorCrash` if one of them has died.
    """

    def __init__(
        self,
        pool: SimulatorPool,
        number: int,
        maker: SimulatorMaker,
        envs: int,
        evaluation: bool,
        task: str,
        together: int = 1,
    ) -> None:
        self.pool, self.number, self.task, self.envs = pool, number, task, envs
        self._seeds: NDArray[np.int64] = np.full(envs, UNKNOWN)
        workers, count = pool.workers, len(pool.workers)
        bounds = [share * (envs // together) // count * together for share in range(count + 1)]
        # Where copies are fewer than processes, those of the next simulator go to the next processes.
        places = [workers[(index + number) % count] for index in range(count)]
        self._parts = [
            (worker, start, stop)
            for worker, start, stop in zip(places, bounds[:-1], bounds[1:], strict=True)
            if stop > start
        ]
        self._pending: list[SimulatorProcess] = []
        self._close = weakref.finalize(self, pool.forget, number)
        self._close.atexit = False  # the pool itself is closed then
        pool.tidy()
        for worker, start, stop in self._parts:
            self._send(worker, MAKE, cloudpickle.dumps((maker, stop - start, evaluation)))
        shape, dtype = pickle.loads(self._answers()[0])
        self._observation = self._share("observation", dtype, (envs, *shape))
        self._reward = self._share("reward", "<f8", (envs,))
        self._terminated = self._share("terminated", "|b1", (envs,))
        self._seeds = self._share("seeds", "<i8", (envs,))
        self._seeds[:] = UNKNOWN
        self._actions: NDArray[Any] = np.zeros(0)
        self._record: NDArray[Any] = np.zeros(0)

    @property
    def observation(self) -> NDArray[Any]:
        """``[envs, observation_size]``, in memory shared with the processes."""
        self._answers()
        return self._observation

    @property
    def reward(self) -> NDArray[np.float64]:
        """Of the last step, ``[envs]``."""
        self._answers()
        return self._reward

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last step ended the episode, ``[envs]``."""
        self._answers()
        return self._terminated

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes in those copies."""
        for env, seed in zip(which, seeds, strict=True):
            self._seeds[env] = seed
        self._scatter(RESET, which, seeds)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """One step of all copies, or of those."""
        self._answers()
        if self._actions.shape != actions.shape or self._actions.dtype != actions.dtype:
            self._actions = self._share("actions", actions.dtype, actions.shape)
        self._actions[:] = actions
        self.pool.tidy()
        if which is not None:
            self._scatter(STEP, which)
            return
        for worker, _, _ in self._parts:
            self._send(worker, STEP, b"")

    def record(self, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        """What players read and write, a single record ``[1]`` in memory shared with the processes, there called
        ``record``. It stays the same until another type is asked for."""
        self._answers()
        if self._record.dtype != dtype:
            self._record = self._share("record", dtype, (1,), whole=True)
        return self._record

    def play(self, player: Player) -> None:
        """Let a player, which must be picklable, begin to play in each process with the copies there. What it answers,
        :meth:`played` gives, before anything else is asked."""
        self._answers()
        self.pool.tidy()
        for worker, start, _ in self._parts:
            self._send(worker, PLAY, cloudpickle.dumps((player, start)))

    def played(self) -> list[Any]:
        """Wait for the player in all processes: its answers, in the order of the copies."""
        return [pickle.loads(answer) for answer in self._answers()]

    def save(self, env: int) -> bytes:
        """All there is to one copy."""
        return self.save_all([env])[0]

    def save_all(self, which: Sequence[int]) -> list[bytes]:
        """The same of several copies, in one message to each process."""
        self._answers()
        asked = self._scatter(SAVE, which)
        saved: dict[int, bytes] = {}
        for envs, answer in zip(asked, self._answers(), strict=True):
            saved.update(zip(envs, pickle.loads(answer), strict=True))
        return [saved[env] for env in which]

    def load(self, env: int, state: bytes) -> None:
        """Become exactly what was saved."""
        self._seeds[env] = UNKNOWN
        self._scatter(LOAD, [env], [state])

    def close(self) -> None:
        """Close the copies; the pool lives on. It can be called twice."""
        self._close()

    def _scatter(self, operation: int, which: Sequence[int], values: Sequence[Any] | None = None) -> list[list[int]]:
        """Send an operation on some copies to the processes that have them: the copies of each."""
        asked = []
        for worker, start, stop in self._parts:
            mine = [index for index, env in enumerate(which) if start <= env < stop]
            if mine:
                rows = [which[index] - start for index in mine]
                value = rows if values is None else (rows, [values[index] for index in mine])
                self._send(worker, operation, pickle.dumps(value))
                asked.append([which[index] for index in mine])
        return asked

    def _share(self, name: str, dtype: DTypeLike, shape: tuple[int, ...], whole: bool = False) -> NDArray[Any]:
        """An array that is the same memory here and in the processes, of which each sees its rows, or the whole."""
        memory = os.memfd_create(f"hpbench-{name}")
        try:
            os.ftruncate(memory, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
            for worker, start, stop in self._parts:
                rows = (0, shape[0]) if whole else (start, stop)
                self._send(worker, SHARE, pickle.dumps((name, dtype, shape, *rows)), memory)
            self._answers()
            return map_array(memory, dtype, shape)
        finally:
            os.close(memory)

    def _send(self, worker: SimulatorProcess, operation: int, payload: bytes, memory: int | None = None) -> None:
        self._check()
        try:
            worker.send(operation, self.number, payload, memory)
        except OSError as error:
            raise self._crash(worker) from error
        self._pending.append(worker)

    def _answers(self) -> list[bytes]:
        """The answers to all that was sent; an error is raised when all are there, so that none is left over."""
        self._check()
        pending, self._pending = self._pending, []
        answers, failures = [], []
        for worker in pending:
            try:
                kind, payload = worker.answer(self.number)
            except (EOFError, OSError) as error:
                raise self._crash(worker, timed_out=isinstance(error, TimeoutError)) from error
            answers.append(payload)
            if kind != DONE:
                failures.append((worker, *pickle.loads(payload)))
        for worker, raised, text in failures:
            raise raised or SimulatorCrash(self.task, self._episodes(worker), f"it raised an error\n{text}")
        return answers

    def _check(self) -> None:
        if not self.pool.usable:
            raise SimulatorCrash(self.task, self._episodes(), self.pool.broken or "its pool was closed or left behind")

    def _crash(self, worker: SimulatorProcess, timed_out: bool = False) -> SimulatorCrash:
        """What to raise when a process is gone. The others go too: their answers no longer match the questions."""
        reason = f"it did not answer for {worker.patience:g} seconds" if timed_out else worker.exit()
        self.pool.broken = f"broken ({reason})"
        self.pool.close()
        return SimulatorCrash(self.task, self._episodes(worker), reason)

    def _episodes(self, worker: SimulatorProcess | None = None) -> list[int | None]:
        """The seeds of the episodes in that process, or in all."""
        seeds = [None if seed == UNKNOWN else seed for seed in self._seeds.tolist()]
        return [seed for each, start, stop in self._parts if worker in (None, each) for seed in seeds[start:stop]]


_shared: list[SimulatorPool] = []


def shared_pool() -> SimulatorPool:
    """The pool of this process, which all populations use; a new one if there is none, or if it lost a process."""
    if not _shared or not _shared[0].usable:
        _shared[:] = [SimulatorPool()]
    return _shared[0]


def make_simulator(
    maker: SimulatorMaker, envs: int, evaluation: bool = False, task: str = "", together: int = 1, threads: int = 1
) -> Simulator:
    """A simulator in this process or in the shared pool, as its maker says; in this process on so many threads, if it
    can have threads."""
    if maker.in_process:
        if threads > 1 and isinstance(maker, ThreadedMaker):
            maker = maker.on_threads(threads)
        return maker.make(envs, evaluation)
    return shared_pool().make(maker, envs, evaluation, task, together)
