"""The pool of processes: equal to stepping in process, alive when members come and go, loud when a process dies."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, MissingExtra, SimulatorCrash, SnapshotError
from hpbench.learners import simulator_pool
from hpbench.learners.simulator_pool import PooledSimulator, SimulatorPool, make_simulator, shared_pool
from hpbench.learners.simulator_split import SplitSimulator
from hpbench.learners.simulator_worker import Hosted

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker could not import this module

HANG, FAIL = 90, 91


class Walks:
    """Random walks with a random state of their own, whose saved states grow with the episode."""

    def __init__(self, envs: int, evaluation: bool) -> None:
        self.observation = np.zeros((envs, 3), dtype=np.int16)
        self.reward = np.zeros(envs)
        self.terminated = np.zeros(envs, dtype=np.bool_)
        self.walks = [np.zeros(1) for _ in range(envs)]
        self.generators = [np.random.default_rng(0) for _ in range(envs)]
        self.shift = 100 if evaluation else 0

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        for env, seed in zip(which, seeds, strict=True):
            self.generators[env] = np.random.default_rng(seed)
            self.walks[env] = self.generators[env].integers(-3, 4, 1)
            self.reward[env], self.terminated[env] = 0.0, False
            self._show(env)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        for env in range(len(self.walks)) if which is None else which:
            action = float(np.sum(actions[env]))
            if action == HANG:
                time.sleep(60)
            if action == FAIL:
                raise RuntimeError("a wall where no wall should be")
            move = self.generators[env].integers(-3, 4) + action
            self.walks[env] = np.append(self.walks[env], self.walks[env][-1] + move)
            self.reward[env], self.terminated[env] = move, abs(self.walks[env][-1]) > 40
            self._show(env)

    def save(self, env: int) -> bytes:
        return pickle.dumps((self.walks[env], self.generators[env], self.reward[env], self.terminated[env]))

    def load(self, env: int, state: bytes) -> None:
        if not state:
            raise SnapshotError("nothing was saved")
        self.walks[env], self.generators[env], self.reward[env], self.terminated[env] = pickle.loads(state)
        self._show(env)

    def close(self) -> None:
        pass

    def _show(self, env: int) -> None:
        walk = self.walks[env]
        self.observation[env] = walk[-1] + self.shift, len(walk), self.shift


@dataclass(frozen=True)
class WalksMaker:
    """Makes them."""

    kind: str = "good"
    state_bytes: ClassVar[int] = 4096
    in_process: ClassVar[bool] = False
    restarts_itself: ClassVar[bool] = False

    def make(self, envs: int, evaluation: bool = False) -> Walks:
        if self.kind == "missing":
            raise MissingExtra("walks", "walking")
        return Walks(envs, evaluation)


@pytest.fixture(scope="module")
def pool() -> Iterator[SimulatorPool]:
    pool = SimulatorPool(processes=2)
    yield pool
    pool.close()


def trace(simulator: Any, steps: int, restart: int = 7) -> list[bytes]:
    """Everything that a simulator shows over some steps, with restarts of a copy now and then."""
    envs, shown = len(simulator.reward), []
    for step in range(steps):
        simulator.step(np.arange(envs) % 3 - 1 + step % 2)
        if step % restart == 0:
            simulator.reset([step % envs], [step])
        parts = (simulator.observation, simulator.reward, simulator.terminated)
        shown.append(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    return shown


def started(simulator: Any) -> Any:
    simulator.reset(range(len(simulator.reward)), range(50, 50 + len(simulator.reward)))
    return simulator


@pytest.mark.parametrize("envs", [1, 2, 5])
def test_a_pool_shows_what_stepping_in_process_shows(pool: SimulatorPool, envs: int) -> None:
    here, there = started(WalksMaker().make(envs)), started(pool.make(WalksMaker(), envs))
    np.testing.assert_array_equal(there.observation, here.observation)
    assert there.observation.dtype == np.int16
    assert trace(there, 30) == trace(here, 30)
    for env in range(envs):
        assert there.save(env) == here.save(env)


def test_evaluation_is_passed_on(pool: SimulatorPool) -> None:
    training, evaluation = (started(pool.make(WalksMaker(), 2, evaluation=each)) for each in (False, True))
    np.testing.assert_array_equal(evaluation.observation[:, 0], training.observation[:, 0] + 100)


def test_members_share_the_processes_and_do_not_know_each_other(pool: SimulatorPool) -> None:
    alone = trace(started(WalksMaker().make(3)), 20)
    first, second = started(pool.make(WalksMaker(), 3)), started(pool.make(WalksMaker(), 4))
    shown = []
    for step in range(20):  # both are under way at once; the second is asked first
        first.step(np.arange(3) % 3 - 1 + step % 2)
        second.step(np.ones(4, dtype=np.int64))
        if step % 7 == 0:
            first.reset([step % 3], [step])
        assert second.reward.shape == (4,)
        parts = (first.observation, first.reward, first.terminated)
        shown.append(b"".join(part.tobytes() for part in parts))
    assert shown == alone


def test_only_the_copies_asked_for_are_stepped(pool: SimulatorPool) -> None:
    simulator = started(pool.make(WalksMaker(), 5))
    before = simulator.observation.copy()
    simulator.step(np.ones(5, dtype=np.int64), [1, 4])
    assert (simulator.observation[:, 1] - before[:, 1]).tolist() == [0, 1, 0, 0, 1]


def test_continuous_actions_arrive_as_they_are(pool: SimulatorPool) -> None:
    here, there = started(WalksMaker().make(3)), started(pool.make(WalksMaker(), 3))
    actions = np.array([[0.25, 1.5], [-2.0, 0.0], [3.0, -0.125]], dtype=np.float32)
    for simulator in (here, there):
        simulator.step(actions)
        simulator.step(actions[:, 0])  # another shape is another array
    np.testing.assert_array_equal(there.reward, here.reward)


def test_saved_copies_go_on_in_other_places(pool: SimulatorPool) -> None:
    simulator = started(pool.make(WalksMaker(), 4))
    trace(simulator, 10)
    saved = simulator.save_all([3, 0, 2])
    assert saved[1] == simulator.save(0)
    other = pool.make(WalksMaker(), 3)
    for env, state in enumerate(saved):
        other.load(env, state)
    np.testing.assert_array_equal(other.observation, simulator.observation[[3, 0, 2]])
    np.testing.assert_array_equal(other.reward, simulator.reward[[3, 0, 2]])
    simulator.step(np.array([1, 0, 1, 1]))
    other.step(np.array([1, 1, 1]))
    np.testing.assert_array_equal(other.observation, simulator.observation[[3, 0, 2]])


@dataclass(frozen=True)
class Strider:
    """Plays some steps with the copies of a process; restarts the first of them after each."""

    steps: int
    action: int = 1

    def __call__(self, hosted: Hosted, first: int) -> tuple[int, int]:
        copies = len(hosted.simulator.reward)
        (record,) = hosted.rows["record"]
        for step in range(self.steps):
            hosted.simulator.step(np.full(copies, self.action))
            record["positions"][step, first : first + copies] = hosted.simulator.observation[:, 0]
            hosted.rows["seeds"][0] = record["seeds"][step]
            hosted.simulator.reset([0], [int(record["seeds"][step])])
        return first, copies


def test_players_take_steps_by_themselves(pool: SimulatorPool) -> None:
    steps, envs = 6, 5
    here, there = started(WalksMaker().make(envs)), started(pool.make(WalksMaker(), envs))
    kind = np.dtype([("seeds", np.int64, (steps,)), ("positions", np.int16, (steps, envs))], align=True)
    (record,) = there.record(kind)
    record["seeds"] = range(70, 70 + steps)
    there.play(Strider(steps))
    assert there.played() == [(0, 2), (2, 3)]
    for step in range(steps):
        here.step(np.ones(envs))
        np.testing.assert_array_equal(record["positions"][step], here.observation[:, 0])
        here.reset([0, 2], [70 + step, 70 + step])
    for name in ("observation", "reward", "terminated"):  # it shows where the player left it
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    assert [there.save(env) for env in range(envs)] == [here.save(env) for env in range(envs)]
    assert there.record(kind)[0] == record  # the same memory
    there.play(Strider(2, FAIL))
    with pytest.raises(SimulatorCrash, match="no wall should be") as raised:
        there.played()
    assert raised.value.seeds == (75, 51)


def test_closed_simulators_leave_the_processes(pool: SimulatorPool) -> None:
    simulator, number = started(pool.make(WalksMaker(), 2)), 0
    other: PooledSimulator | None = started(pool.make(WalksMaker(), 2))
    assert other is not None
    number, other = other.number, None  # the last reference goes
    simulator.step(np.zeros(2, dtype=np.int64))
    assert simulator.reward.shape == (2,)
    for worker in pool.workers:
        worker.send(simulator_pool.SAVE, number, pickle.dumps([0]))
        kind, payload = worker.answer(number)
        assert kind != simulator_pool.DONE
        assert "KeyError" in pickle.loads(payload)[1]
    simulator.close()
    simulator.close()


def test_errors_of_simulators_are_raised_here_and_leave_the_pool_alone(pool: SimulatorPool) -> None:
    with pytest.raises(MissingExtra, match=r'pip install "hpbench\[walking\]"'):
        pool.make(WalksMaker("missing"), 2)
    simulator = started(pool.make(WalksMaker(), 4, task="walks/long"))
    simulator.load(1, b"")
    with pytest.raises(SnapshotError, match="nothing was saved"):
        _ = simulator.reward
    simulator.step(np.array([0, 0, 0, FAIL]))
    with pytest.raises(SimulatorCrash, match="no wall should be") as raised:
        _ = simulator.reward
    assert (raised.value.task, raised.value.seeds) == ("walks/long", (52, 53))
    started(simulator)
    assert trace(simulator, 5) == trace(started(WalksMaker().make(4)), 5)


def test_a_killed_process_is_reported_with_task_and_seeds_within_a_second() -> None:
    pool = SimulatorPool(processes=2)
    simulator, other = (started(pool.make(WalksMaker(), 4, task=f"walks/{name}")) for name in ("long", "short"))
    simulator.load(3, simulator.save(0))
    simulator.step(np.zeros(4, dtype=np.int64))
    assert simulator.reward.shape == (4,)
    second = next(worker for worker, start, _ in simulator._parts if start == 2)
    os.kill(second.process.pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(SimulatorCrash) as raised:
        trace(simulator, 2)
    assert time.monotonic() - begin < 1.0
    assert (raised.value.task, raised.value.seeds) == ("walks/long", (52, None))
    message = str(raised.value)
    assert "walks/long" in message
    assert "signal 9" in message
    assert "52, restored" in message
    assert "resume" in message
    assert str(pickle.loads(pickle.dumps(raised.value))) == message
    with pytest.raises(SimulatorCrash, match="walks/short"):  # whoever shared the pool learns it, too
        other.step(np.zeros(4, dtype=np.int64))
    assert all(worker.process.returncode is not None for worker in pool.workers)
    with pytest.raises(InvalidConfiguration, match="make a new one"):
        pool.make(WalksMaker(), 1)


def test_a_process_that_dies_amid_a_step_does_not_leave_us_waiting() -> None:
    pool = SimulatorPool(processes=1)
    simulator = started(pool.make(WalksMaker(), 2))
    simulator.step(np.array([0, HANG]))
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(SimulatorCrash, match="signal 9"):
        _ = simulator.observation
    assert time.monotonic() - begin < 1.0


def test_a_process_that_hangs_is_given_up() -> None:
    pool = SimulatorPool(processes=1)
    simulator = started(pool.make(WalksMaker(), 1))
    assert simulator.reward.shape == (1,)  # it had all the time to start
    pool.workers[0].patience = 0.5
    pool.workers[0].channel.settimeout(0.5)
    simulator.step(np.array([HANG]))
    with pytest.raises(SimulatorCrash, match="did not answer for 0.5 seconds"):
        _ = simulator.observation
    assert pool.workers[0].process.returncode == -signal.SIGKILL


def test_workers_end_with_their_pool() -> None:
    pool = SimulatorPool(processes=1)
    assert started(pool.make(WalksMaker(), 1)).reward.shape == (1,)
    process = pool.workers[0].process
    del pool
    assert process.returncode in (0, -signal.SIGKILL)  # by itself when the connection closed, or soon after


def test_there_is_one_pool_for_the_process_and_a_new_one_when_it_broke() -> None:
    first = make_simulator(WalksMaker(), 2)
    assert isinstance(first, PooledSimulator)
    assert first.pool is shared_pool()
    assert len(first.pool.workers) == len(os.sched_getaffinity(0))
    os.kill(first.pool.workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(SimulatorCrash):
        trace(first, 2)
    assert shared_pool() is not first.pool
    again = started(make_simulator(WalksMaker(), 2))
    assert again.terminated.tolist() == [False, False]
    shared_pool().close()


def test_makers_say_where_their_simulators_run() -> None:
    class Inside(WalksMaker):
        in_process: ClassVar[bool] = True

    assert isinstance(make_simulator(Inside(), 2), Walks)


def test_simulators_in_this_process_get_threads_if_they_can_have_them() -> None:
    given = []

    class Threaded(WalksMaker):
        in_process: ClassVar[bool] = True

        def on_threads(self, threads: int) -> WalksMaker:
            given.append(threads)
            return self

    for maker in (Threaded(), Threaded()):
        assert isinstance(make_simulator(maker, 2, threads=3), Walks)
    make_simulator(Threaded(), 2)
    assert given == [3, 3]


def test_a_pool_needs_a_process() -> None:
    with pytest.raises(InvalidConfiguration, match="at least one process"):
        SimulatorPool(processes=0)


def test_two_simulators_as_halves_show_what_one_shows(pool: SimulatorPool) -> None:
    whole, sizes = WalksMaker().make(5), (2, 3)
    halves = SplitSimulator([pool.make(WalksMaker(), size) for size in sizes], sizes)
    for simulator in (whole, halves):
        simulator.reset(range(5), range(10, 15))
    assert trace(halves, 20) == trace(whole, 20)
    saved = halves.save_all([4, 0])
    assert saved == [whole.save(4), whole.save(0)] == [halves.save(4), halves.save(0)]
    for simulator in (whole, halves):
        simulator.load(2, saved[0])
        simulator.step(np.ones(5), [1, 2])
    np.testing.assert_array_equal(halves.observation, whole.observation)
    with pytest.raises(IndexError, match="copy 5 of 5"):
        halves.save(5)
    halves.close()
    halves.close()


def test_a_pool_that_spins_shows_the_same_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_pool, "MANY", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    spinning = SimulatorPool()
    assert len(spinning.workers) == 2  # one core is the caller's
    simulator, plain = spinning.make(WalksMaker(), 4), WalksMaker().make(4)
    for each in (simulator, plain):
        each.reset(range(4), range(4))
    assert trace(simulator, 10) == trace(plain, 10)
    time.sleep(2 * simulator_pool.SPINNING)  # by now they sleep
    assert trace(simulator, 3) == trace(plain, 3)
    spinning.close()
    assert all(worker.process.returncode is not None for worker in spinning.workers)
