"""Steps per second of PPO on MuJoCo, beside Stable-Baselines3, the simulator alone, and the machine's best.

    python benchmarks/mujoco_speed.py                              # HalfCheetah and Hopper, some minutes
    python benchmarks/mujoco_speed.py --rounds 2 --tasks hopper
    python benchmarks/mujoco_speed.py --quick                      # tiny sizes, to see that it works

Both sides: 8 environments of 64 steps, two tanh layers of 64 for actor and critic each, 10 epochs of minibatches of 64,
observations and rewards normalised, one thread. The sides take turns, medians are written; ratios are medians of
round-wise ratios. The bound is the time of the simulator alone plus that of the networks' operations, counted, at the
speed of a product of 1024 x 1024 matrices in PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.mujoco import ENVIRONMENTS

ENVS, STEPS, HIDDEN, EPOCHS = 8, 64, (64, 64), 10
MATRIX = 1024
OURS, PEER, ALONE, MATRICES = "hpbench native", "stable-baselines3", "simulator alone", "matrix"
OUT = Path(__file__).parent / "results" / "mujoco_speed.json"


def hpbench_side(name: str, engine: str) -> Callable[[int], None]:
    """Train a population of one for that many rollouts."""
    config = PPOConfig(num_envs=ENVS, num_steps=STEPS, hidden=HIDDEN, normalize_observation=True, normalize_reward=True)
    population = PPO(tasks.make(f"mujoco/{name}"), [0], config, {"update_epochs": EPOCHS}, engine=engine)

    def run(rollouts: int) -> None:
        population.train(rollouts)

    return run


def sb3_side(name: str) -> Callable[[int], None]:
    """The same with Stable-Baselines3."""
    from stable_baselines3 import PPO as Theirs
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = VecNormalize(DummyVecEnv([lambda: gym.make(ENVIRONMENTS[name])] * ENVS))
    options: dict[str, Any] = {"n_steps": STEPS, "batch_size": 64, "n_epochs": EPOCHS, "device": "cpu", "seed": 0}
    model = Theirs("MlpPolicy", env, **options)

    def run(rollouts: int) -> None:
        model.learn(rollouts * ENVS * STEPS, reset_num_timesteps=False)

    return run


def simulator_side(name: str) -> Callable[[int], None]:
    """The simulator alone, with random actions."""
    task = tasks.make(f"mujoco/{name}")
    assert task.simulator is not None
    simulator = task.simulator.make(ENVS)
    simulator.reset(range(ENVS), range(ENVS))
    random = np.random.default_rng(0)
    actions = random.uniform(task.action_low, task.action_high, (STEPS, ENVS, task.action_count)).astype(np.float32)

    def run(rollouts: int) -> None:
        for step in range(rollouts * STEPS):
            simulator.step(actions[step % STEPS])
            if simulator.terminated.any():
                which = np.flatnonzero(simulator.terminated).tolist()
                simulator.reset(which, which)

    return run


def matrix_side() -> Callable[[int], None]:
    """Products of matrices, one for each rollout."""
    one, two = torch.rand(2, MATRIX, MATRIX).unbind()

    def run(rollouts: int) -> None:
        for _ in range(rollouts):
            torch.mm(one, two)

    return run


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


def comparison(name: str, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the rates say, one per round and side: steps per second, of the matrices operations per second."""
    bounds = [1.0 / (1.0 / a + operations(name) / m) for a, m in zip(rates[ALONE], rates[MATRICES], strict=True)]
    mine, theirs = rates[OURS], rates[PEER]
    return {
        "task": f"mujoco/{name}",
        "steps_per_second": {side: round(statistics.median(rate)) for side, rate in rates.items() if side != MATRICES},
        "matrix_operations_per_second": round(statistics.median(rates[MATRICES])),
        "operations_per_step": operations(name),
        "times_stable_baselines3": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2),
        "bound": round(statistics.median(bounds)),
        "share_of_bound": round(statistics.median(a / b for a, b in zip(mine, bounds, strict=True)), 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--tasks", nargs="+", default=["halfcheetah", "hopper"], choices=list(ENVIRONMENTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.rollouts = 1, 1
    torch.set_num_threads(1)
    rows = []
    for name in options.tasks:
        sides = {
            OURS: hpbench_side(name, "native"),
            "hpbench torch": hpbench_side(name, "torch"),
            PEER: sb3_side(name),
            ALONE: simulator_side(name),
            MATRICES: matrix_side(),
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds + 1):
            for side, run in sides.items():
                start = time.perf_counter()
                run(options.rollouts)
                seconds[side].append(time.perf_counter() - start)
        work = dict.fromkeys(sides, options.rollouts * ENVS * STEPS) | {MATRICES: options.rollouts * 2 * MATRIX**3}
        rows.append(comparison(name, {side: [work[side] / t for t in times[1:]] for side, times in seconds.items()}))
        print(json.dumps(rows[-1]), flush=True)
    load = [round(value, 1) for value in os.getloadavg()]
    result = {"rounds": options.rounds, "steps_per_round": options.rollouts * ENVS * STEPS, "load": load, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
