"""Rollouts that the simulators' processes play by themselves are those that were taken step by step."""

from __future__ import annotations

import os
import signal
import subprocess
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
from hpbench.learners import encoded, encoded_actors, native, simulator_pool
from hpbench.learners.external import ExternalEnvironments, episode_seeds
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_pool import PooledSimulator, SimulatorPool
from hpbench.tasks.base import Task
from hpbench.tasks.nethack_layout import CELLS, GLYPHS, OBSERVATION_SIZE
from hpbench.tasks.replay import ReplayMaker, ReplaySimulator

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker could not import this module

LIMIT = 9
CONFIG = PPOConfig(num_envs=34, num_steps=24, normalize_reward=True)
VALUES = {"update_epochs": 1, "minibatches": 1}


class Dungeon:
    """A game that ends now and then, with what looks like an observation of NetHack; its process dies with so many
    lives. 0: never."""

    def __init__(self, lives: int) -> None:
        self.lives = lives or 10**9

    def begin(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.sum, self.lives = 0, self.lives - 1

    def act(self, action: int) -> tuple[float, bool]:
        self.sum += action
        if self.lives == 0:
            os.kill(os.getpid(), signal.SIGKILL)
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
    lives: int = 0

    def make(self, envs: int, evaluation: bool = False) -> ReplaySimulator:
        return ReplaySimulator([Dungeon(self.lives) for _ in range(envs)], OBSERVATION_SIZE, np.int16)


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


def dungeon(delay: float = 0.0, lives: int = 0) -> Task:
    task = tasks.make("nethack/score")
    physics = {**task.physics, "action_delay": delay}
    return replace(task, simulator=DungeonMaker(lives=lives), max_episode_steps=LIMIT, physics=physics)


@pytest.mark.parametrize("delay", [0.0, 2.0])
def test_actors_take_the_steps_that_were_taken_together(delay: float) -> None:
    use(2)
    pair = [PPO(dungeon(delay), [3, 4], CONFIG, VALUES) for _ in range(2)]
    for population, collect in zip(pair, (encoded.collect, encoded_actors.collect), strict=True):
        assert encoded_actors.suits(population)
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


def test_a_process_that_dies_ends_the_rollout() -> None:
    use(2)
    (pool,) = simulator_pool._shared
    population = PPO(dungeon(), [3], CONFIG, VALUES)
    population.train(1)
    os.kill(pool.workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(SimulatorCrash, match="signal 9"):
        population.train(1)
    assert not pool.usable


def test_a_game_that_dies_in_a_later_episode_is_reported_with_its_seed() -> None:
    use(1)
    twin = PPO(dungeon(), [3], CONFIG, VALUES)
    drawn = episode_seeds(twin._rollout_draws(1)[1])[0]
    population = PPO(dungeon(lives=2), [3], CONFIG, VALUES)
    assert isinstance(population.environments, ExternalEnvironments)
    simulator = population.environments._simulator(0)
    assert isinstance(simulator, PooledSimulator)
    first = simulator._episodes()
    with pytest.raises(SimulatorCrash, match="signal 9") as raised:
        population.train(1)
    later = [(env, seed) for env, seed in enumerate(raised.value.seeds) if seed != first[env]]
    assert 0 < len(later) < CONFIG.num_envs
    (step,) = {np.flatnonzero(drawn[:, env] == seed).item() for env, seed in later}  # it died at the next one
    assert step < CONFIG.num_steps - 1


def test_processes_that_act_do_without_torch() -> None:
    code = (
        "import sys, hpbench.learners.simulator_worker, hpbench.learners.glyphs_acting; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"
