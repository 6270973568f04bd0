"""Rollouts in turns are those that were taken step by step, whichever process is the first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpbench import tasks
from hpbench.errors import SimulatorCrash
from hpbench.learners import encoded, encoded_turns, native, simulator_pool
from hpbench.learners.external import ExternalEnvironments
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.learners.simulator_split import SplitSimulator, make_turns
from hpbench.tasks.base import Task
from hpbench.tasks.nethack_layout import CELLS, GLYPHS, OBSERVATION_SIZE
from hpbench.tasks.replay import ReplayMaker, ReplaySimulator

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker could not import this module

LIMIT = 9
CONFIG = PPOConfig(num_envs=34, num_steps=24, normalize_reward=True)
VALUES = {"update_epochs": 1, "minibatches": 1}


class Dungeon:
    """A game that ends now and then, with what looks like an observation of NetHack."""

    def begin(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.sum = 0

    def act(self, action: int) -> tuple[float, bool]:
        self.sum += action
        return float(self.random.normal()) + 0.1 * action, bool(self.random.random() < 0.1)

    def write(self, row: NDArray[Any]) -> None:
        random = np.random.default_rng(self.sum)
        row[:CELLS] = random.integers(GLYPHS, size=CELLS)
        row[CELLS:] = random.integers(2, size=OBSERVATION_SIZE - CELLS)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class DungeonMaker(ReplayMaker):
    """Makes them."""

    max_steps: int = LIMIT

    def make(self, envs: int, evaluation: bool = False) -> ReplaySimulator:
        return ReplaySimulator([Dungeon() for _ in range(envs)], OBSERVATION_SIZE, np.int16)


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools of these tests' own."""
    own: list[SimulatorPool] = []
    monkeypatch.setattr(simulator_pool, "_shared", own)
    yield
    for pool in own:
        pool.close()


def use(processes: int) -> None:
    for pool in simulator_pool._shared:
        pool.close()
    simulator_pool._shared[:] = [SimulatorPool(processes)]


def dungeon(delay: float = 0.0) -> Task:
    task = tasks.make("nethack/score")
    physics = {**task.physics, "action_delay": delay}
    return replace(task, simulator=DungeonMaker(), max_episode_steps=LIMIT, physics=physics)


@pytest.mark.parametrize("delay", [0.0, 2.0])
def test_turns_are_the_steps_of_all(delay: float) -> None:
    use(2)
    pair = [PPO(dungeon(delay), [3, 4], CONFIG, VALUES) for _ in range(2)]
    for population, collect in zip(pair, (encoded.collect, encoded_turns.collect), strict=True):
        assert encoded_turns.suits(population)
        totals = torch.zeros(population.members, len(population.totals), dtype=torch.float64)
        for _ in range(2):
            collect(population, totals)
        population.settle()
        population.state["totals"] = totals
    one, other = pair
    buffer = one.buffer
    assert (buffer["done"] > buffer["truncated"]).any()
    assert buffer["truncated"].any()
    assert len(buffer["action"].unique()) > 10
    for name, expected in one.state.items():
        assert torch.equal(other.state[name], expected), name
    for name in ("observation", "action", "reward", "done", "truncated"):
        assert torch.equal(other.buffer[name], buffer[name]), name
    for name in ("log_prob", "value", "last_value"):
        torch.testing.assert_close(other.buffer[name], buffer[name], rtol=1e-4, atol=1e-5)
    valued = buffer["truncated"] > 0
    assert torch.equal(other.buffer["final_value"][valued], buffer["final_value"][valued])


def test_neither_processes_nor_threads_change_a_bit() -> None:
    digests = set()
    for processes, threads in ((1, 1), (2, 1), (5, 2)):
        use(processes)
        population = PPO(dungeon(), [3, 4], CONFIG, VALUES, threads=threads)
        population.train(2)
        digests.add(tuple(population.digests()))
        alone = PPO(dungeon(), [4], CONFIG, VALUES)
        alone.train(2)
        assert alone.digests()[0] == population.digests()[1]
    assert len(digests) == 1


def test_training_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    use(2)

    def train() -> torch.Tensor:
        # Few steps, so that no rounding turns an action into another one.
        config = replace(CONFIG, num_envs=4, num_steps=6)
        population = PPO(dungeon(), [7, 8], config, {"update_epochs": 2, "minibatches": 2, "learning_rate": 1e-4})
        population.train(1)
        return population.state["parameters"]

    found = train()
    monkeypatch.setattr("hpbench.learners.glyphs_native.suits", lambda sizes, observations: False)
    reference = train()
    assert not torch.equal(found, reference)  # the engine had been in use
    # Adam's first steps have the size of the learning rate, whatever that of a gradient: rounding can turn a sign.
    close = (found - reference).abs() <= 1e-6
    assert float(close.float().mean()) > 0.99


@pytest.mark.parametrize(
    ("processes", "envs", "places"),
    [
        (2, 32, [{0}, {1}]),
        (1, 32, [{0}]),
        (2, 4, [{0, 1}]),  # too few for parts
        (5, 17, [{0, 1}, {2, 3, 4}]),
    ],
)
def test_each_part_has_processes_of_its_own(processes: int, envs: int, places: list[set[int]]) -> None:
    use(processes)
    (pool,) = simulator_pool._shared
    simulator = make_turns(DungeonMaker(), envs, "dungeon")
    assert isinstance(simulator, SplitSimulator)
    found = [{pool.workers.index(worker) for worker, _, _ in part._parts} for part in simulator.parts]
    assert found == places
    assert sum(part.envs for part in simulator.parts) == envs == simulator.rows[-1].stop


def test_whoever_answers_first_is_next() -> None:
    use(2)
    (pool,) = simulator_pool._shared
    slow, fast = (pool.make(DungeonMaker(), 2, among=slice(k, k + 1)) for k in range(2))
    for each in (slow, fast):
        each.reset(range(2), range(2))
        each.step(np.zeros(2, dtype=np.int64))
        each.finish()
    os.kill(slow._parts[0][0].process.pid, signal.SIGSTOP)
    for each in (slow, fast):
        each.step(np.zeros(2, dtype=np.int64))
    assert pool.first([slow, fast]) is fast
    fast.finish()
    os.kill(slow._parts[0][0].process.pid, signal.SIGCONT)
    fast.step(np.zeros(2, dtype=np.int64))
    assert {pool.first([slow]), pool.first([fast])} == {slow, fast}


def test_a_process_that_dies_ends_the_rollout_at_once() -> None:
    use(2)
    (pool,) = simulator_pool._shared
    population = PPO(dungeon(), [3], CONFIG, VALUES)
    population.train(1)
    environments = population.environments
    assert isinstance(environments, ExternalEnvironments)
    environments._simulator(0).observation  # noqa: B018 (waits: nothing is under way)
    os.kill(pool.workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(SimulatorCrash, match="signal 9"):
        population.train(1)
    assert not pool.usable


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpbench.learners.simulator_process.GRACE", 0.1)
    use(1)
    (pool,) = simulator_pool._shared
    simulator = pool.make(DungeonMaker(), 2)
    simulator.reset(range(2), range(2))
    simulator.step(np.zeros(2, dtype=np.int64))
    simulator.finish()
    pool.workers[0].patience = 0.3
    os.kill(pool.workers[0].process.pid, signal.SIGSTOP)
    simulator.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(SimulatorCrash, match="did not answer for 0.3 seconds"):
        pool.first([simulator])
