"""Steps per second of PPO on MuJoCo, beside Stable-Baselines3, the simulator alone, and the machine's best.

    python benchmarks/mujoco_speed.py                              # HalfCheetah and Hopper, six minutes
    python benchmarks/mujoco_speed.py --rounds 2 --tasks hopper
    python benchmarks/mujoco_speed.py --quick                      # tiny sizes, to see that it works

Both sides: 8 environments of 64 steps, two tanh layers of 64 for actor and critic each, 10 epochs of minibatches of 64,
observations and rewards normalised.

On so many cores, hpbench trains as many members, each in a process of its own, as ``hpbench run`` does with rows, or
all in one process on as many threads (where the simulators, called from Python, wait for each other). Stable-Baselines3
trains as many models, each in a process of its own, or one model on as many threads. The better way of both sides
counts. The simulator alone runs in as many processes. The sides take turns, medians are written; ratios are medians of
round-wise ratios. The bound is the time of the simulator alone plus that of the networks' operations, counted, at the
speed of a product of 1024 x 1024 matrices in PyTorch on as many cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from harness import RESULTS, Answer, Grid, Train, Worker, matrices, serve, thousands, timed, write_results

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.mujoco import ENVIRONMENTS

ENVS, STEPS, HIDDEN, EPOCHS = 8, 64, (64, 64), 10
OURS, TORCH, PEER, ALONE, MATRICES = "hpbench native", "hpbench torch", "stable-baselines3", "simulator alone", "matrix"
TOGETHER, ONE_PEER = f"{OURS}, one process", f"{PEER}, one model"


@dataclass(frozen=True)
class Subject:
    """What is measured: a side on one task, in so many processes with so many threads each."""

    kind: str
    task: str
    processes: int
    threads: int

    @property
    def label(self) -> str:
        """For tables and files."""
        cores = self.processes * self.threads
        return f"{self.kind}, {cores} core{'s' * (cores > 1)}"


def subjects(task: str, cores: int) -> list[Subject]:
    """All sides on so many cores."""
    sides = [Subject(kind, task, cores, 1) for kind in (OURS, TORCH, PEER)]
    sides += [Subject(kind, task, 1, cores) for kind in (TOGETHER, ONE_PEER)] if cores > 1 else []
    return [*sides, Subject(ALONE, task, cores, 1), Subject(MATRICES, task, 1, cores)]


def hpbench_side(name: str, threads: int, engine: str) -> Train:
    """A population with a member for each thread."""
    config = PPOConfig(num_envs=ENVS, num_steps=STEPS, hidden=HIDDEN, normalize_observation=True, normalize_reward=True)
    seeds, values = list(range(threads)), {"update_epochs": EPOCHS}
    population = PPO(tasks.make(f"mujoco/{name}"), seeds, config, values, engine=engine, threads=threads)

    def train(rollouts: int) -> int:
        population.train(rollouts)
        return rollouts * ENVS * STEPS * threads

    return train


def sb3_side(name: str, threads: int) -> Train:
    """One model of Stable-Baselines3."""
    from stable_baselines3 import PPO as Theirs
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    torch.set_num_threads(threads)
    env = VecNormalize(DummyVecEnv([lambda: gym.make(ENVIRONMENTS[name])] * ENVS))
    options: dict[str, Any] = {"n_steps": STEPS, "batch_size": 64, "n_epochs": EPOCHS, "device": "cpu", "seed": 0}
    model = Theirs("MlpPolicy", env, **options)

    def train(rollouts: int) -> int:
        model.learn(rollouts * ENVS * STEPS, reset_num_timesteps=False)
        return rollouts * ENVS * STEPS

    return train


def simulator_side(name: str) -> Train:
    """The simulator alone, with random actions."""
    task = tasks.make(f"mujoco/{name}")
    assert task.simulator is not None
    simulator = task.simulator.make(ENVS)
    simulator.reset(range(ENVS), range(ENVS))
    random = np.random.default_rng(0)
    actions = random.uniform(task.action_low, task.action_high, (STEPS, ENVS, task.action_count)).astype(np.float32)

    def train(rollouts: int) -> int:
        for step in range(rollouts * STEPS):
            simulator.step(actions[step % STEPS])
            if simulator.terminated.any():
                which = np.flatnonzero(simulator.terminated).tolist()
                simulator.reset(which, which)
        return rollouts * ENVS * STEPS

    return train


def answers(subject: Subject) -> Answer:
    """The worker's side, of one process."""
    torch.set_num_threads(subject.threads)
    if subject.kind in (OURS, TOGETHER, TORCH):
        return timed(hpbench_side(subject.task, subject.threads, "torch" if subject.kind == TORCH else "native"))
    if subject.kind in (PEER, ONE_PEER):
        return timed(sb3_side(subject.task, subject.threads))
    return timed(simulator_side(subject.task) if subject.kind == ALONE else matrices(subject.threads))


def operations(name: str) -> float:
    """Floating-point operations of actor and critic per environment step: one pass to act and, in each epoch, one forth
    and two back, but for the gradient of the observation. A multiplication and an addition are two. The smaller rest is
    left out: biases, tanh, normalisation, losses, Adam, the values of final observations."""
    task = tasks.make(f"mujoco/{name}")
    forward = first = 0
    for outputs in (task.action_count, 1):
        widths = (task.observation_size, *HIDDEN, outputs)
        forward += sum(2 * inputs * width for inputs, width in pairwise(widths))
        first += 2 * widths[0] * widths[1]
    return float(forward + EPOCHS * (3 * forward - first))


def comparison(name: str, cores: int, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the rates say, one per round and kind: steps per second, of the matrices operations per second."""

    def better(*kinds: str) -> Sequence[float]:
        return max((rates[kind] for kind in kinds if kind in rates), key=statistics.median)

    bounds = [1.0 / (1.0 / a + operations(name) / m) for a, m in zip(rates[ALONE], rates[MATRICES], strict=True)]
    mine, theirs = better(OURS, TOGETHER), better(PEER, ONE_PEER)
    return {
        "task": f"mujoco/{name}",
        "cores": cores,
        "steps_per_second": {kind: round(statistics.median(rate)) for kind, rate in rates.items() if kind != MATRICES},
        "matrix_operations_per_second": round(statistics.median(rates[MATRICES])),
        "operations_per_step": operations(name),
        "times_stable_baselines3": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2),
        "bound": round(statistics.median(bounds)),
        "share_of_bound": round(statistics.median(a / b for a, b in zip(mine, bounds, strict=True)), 3),
    }


def measure(name: str, cores: int, rounds: int, seconds: float) -> dict[str, Any]:
    """All sides in turn, on so many cores; the first round is not counted."""
    sides = subjects(name, cores)
    rates: dict[str, list[float]] = {side.kind: [] for side in sides}
    with ExitStack() as stack, ThreadPoolExecutor(cores) as pool:
        workers = [
            [stack.enter_context(Worker(__file__, asdict(side), side.threads)) for _ in range(side.processes)]
            for side in sides
        ]
        for _ in range(rounds + 1):
            for side, its in zip(sides, workers, strict=True):
                asked = [pool.submit(worker.ask, seconds=seconds) for worker in its]
                rates[side.kind].append(sum(each.result()["rate"] for each in asked))
    return comparison(name, cores, {kind: its[1:] for kind, its in rates.items()})


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--tasks", nargs="+", default=["halfcheetah", "hopper"], choices=list(ENVIRONMENTS))
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="how often every side is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for mujoco_speed.json and mujoco_speed.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        serve(answers(Subject(**json.loads(options.worker))))
        return
    command = f"python benchmarks/mujoco_speed.py --rounds {options.rounds} --seconds {options.seconds:g}"
    if options.quick:
        options.rounds, options.seconds = 1, 0.01
    rows = []
    for name in options.tasks:
        for cores in options.cores:
            rows.append(measure(name, cores, options.rounds, options.seconds))
            print(json.dumps(rows[-1]), flush=True)
    kinds = (OURS, TOGETHER, TORCH, PEER, ONE_PEER, ALONE)
    table = [
        [
            row["task"], str(row["cores"]),
            *(thousands(row["steps_per_second"][kind]) if kind in row["steps_per_second"] else "" for kind in kinds),
            f"{row['times_stable_baselines3']:.2f}x", thousands(row["bound"]), f"{100 * row['share_of_bound']:.0f} %",
        ]
        for row in rows
    ]  # fmt: skip
    columns = ("task", "cores", *kinds, "to SB3", "bound", "of the bound")
    load = [round(value, 1) for value in os.getloadavg()]
    write_results(
        options.out,
        "mujoco_speed",
        command,
        {"rounds": options.rounds, "seconds": options.seconds, "load": load, "rows": rows},
        [Grid(f"PPO on MuJoCo, {ENVS} environments x {STEPS} steps, steps per second", columns, table)],
        "On so many cores: as many members, or models of Stable-Baselines3, in processes of their own, or members and "
        "one model on as many threads in one process; the better way of both sides counts. The simulator alone runs in "
        "as many processes, at random: on Hopper its episodes are short, and restarts take their time. "
        "The bound is the simulator alone plus the networks' operations, counted, at the speed of the matrix product. "
        "Medians over rounds in which all took turns; ratios are medians of round-wise ratios.",
    )


if __name__ == "__main__":
    main()
