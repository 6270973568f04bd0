"""What does it cost to step simulators in other processes?

    python benchmarks/simulator_pool.py            # some minutes
    python benchmarks/simulator_pool.py --quick    # tiny sizes, to see that it works

The same copies of a simulator are stepped in this process, in the pool of ``hpbench.learners.simulator_pool``, and by
Gymnasium's ``AsyncVectorEnv`` with shared memory, which runs every copy in a process of its own. Two simulators: a
stand-in that does nothing (what is measured is the way there and back) and NetHack (what it is for), both with
observations of the same size. Random actions; whatever ends is restarted. The three take turns, round by round; the
table gives medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from harness import RESULTS, Grid, thousands, write_results
from numpy.typing import NDArray

from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.nethack_layout import OBSERVATION_SIZE
from hpbench.tasks.nethack_simulator import ACTIONS, NetHackMaker

SUBJECTS = ("in process", "hpbench pool", "AsyncVectorEnv")
COPIES = (4, 16, 32)
Step = Callable[[NDArray[np.int64]], object]


class Idle:
    """A simulator that does nothing."""

    def __init__(self, envs: int) -> None:
        self.observation = np.zeros((envs, OBSERVATION_SIZE), dtype=np.int16)
        self.reward = np.zeros(envs)
        self.terminated = np.zeros(envs, dtype=np.bool_)

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Nothing begins."""

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        """Nothing happens."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class IdleMaker:
    """Makes them."""

    state_bytes: ClassVar[int] = 0
    in_process: ClassVar[bool] = False

    def make(self, envs: int, evaluation: bool = False) -> Idle:
        """That many copies of nothing."""
        return Idle(envs)


class OneCopy(gym.Env[NDArray[np.int16], int]):
    """One copy as a Gymnasium environment, for the peer."""

    observation_space = gym.spaces.Box(-(2**15), 2**15 - 1, (OBSERVATION_SIZE,), np.int16)
    action_space = gym.spaces.Discrete(ACTIONS)

    def __init__(self, maker: Any) -> None:
        self.simulator = maker.make(1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int16], dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        self.simulator.reset([0], [int(self.np_random.integers(2**31))])
        return self.simulator.observation[0], {}

    def step(self, action: int) -> tuple[NDArray[np.int16], float, bool, bool, dict[str, Any]]:
        """One step."""
        self.simulator.step(np.array([action]))
        return (
            self.simulator.observation[0],
            float(self.simulator.reward[0]),
            bool(self.simulator.terminated[0]),
            False,
            {},
        )

    def close(self) -> None:
        """Free the copy."""
        self.simulator.close()


class Restarting:
    """Steps a simulator, and restarts what has ended."""

    def __init__(self, simulator: Any, envs: int) -> None:
        self.simulator, self.seed = simulator, envs
        simulator.reset(range(envs), range(envs))

    def __call__(self, actions: NDArray[np.int64]) -> object:
        """One step of all copies."""
        self.simulator.step(actions)
        ended = np.flatnonzero(self.simulator.terminated).tolist()
        if ended:
            self.simulator.reset(ended, range(self.seed, self.seed + len(ended)))
            self.seed += len(ended)
        return self.simulator.observation.copy()


def measure(maker: Any, envs: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Steps per second of all copies together, by subject, one number per round."""
    pool = SimulatorPool()
    there = pool.make(maker, envs)
    peer = gym.vector.AsyncVectorEnv([lambda: OneCopy(maker)] * envs, shared_memory=True, context="forkserver")
    peer.reset(seed=0)
    here = maker.make(envs)
    steps: dict[str, Step] = dict(
        zip(SUBJECTS, (Restarting(here, envs), Restarting(there, envs), peer.step), strict=True)
    )
    generator = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    for current in range(rounds + 1):
        for name, step in steps.items():
            actions = generator.integers(ACTIONS, size=(256, envs))
            begin, done = time.perf_counter(), 0
            while (passed := time.perf_counter() - begin) < seconds:
                step(actions[done % 256])
                done += 1
            if current > 0:  # the first round warms up
                rates[name].append(done * envs / passed)
    peer.close()
    here.close()
    pool.close()
    return rates


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    seconds, rounds = (0.05, 2) if options.quick else (1.0, 7)
    results, rows = [], []
    for label, maker in (("nothing", IdleMaker()), ("NetHack score", NetHackMaker("score", 5_000))):
        for envs in COPIES[:1] if options.quick else COPIES:
            rates = measure(maker, envs, seconds, rounds)
            medians = {name: statistics.median(values) for name, values in rates.items()}
            results.append({"simulator": label, "copies": envs, "rates": rates, "medians": medians})
            pool, peer = (1e6 * envs / medians[name] for name in SUBJECTS[1:])
            rows.append(
                [
                    f"{label}, {envs} copies",
                    *(thousands(medians[name]) for name in SUBJECTS),
                    f"{pool:.0f}",
                    f"{peer:.0f}",
                    f"{medians[SUBJECTS[1]] / medians[SUBJECTS[2]]:.2f} x",
                ]
            )
    columns = [
        "simulator",
        *(f"{name}, steps/s" for name in SUBJECTS),
        "pool, µs a step of all",
        "Async, µs",
        "pool / Async",
    ]
    notes = (
        "Steps of all copies together, medians over rounds in which the three took turns. Other work shared the cores. "
        "Both sides restart what has ended; AsyncVectorEnv takes one more step for that."
    )
    grid = Grid("Stepping in other processes", columns, rows)
    command = "python benchmarks/simulator_pool.py" + (" --quick" if options.quick else "")
    write_results(options.out, "simulator_pool", command, {"results": results}, [grid], notes)


if __name__ == "__main__":
    main()
