"""Steps per second of PPO on MuJoCo, beside Stable-Baselines3 and the simulator alone.

    python benchmarks/mujoco_speed.py                              # HalfCheetah and Hopper, some minutes
    python benchmarks/mujoco_speed.py --rounds 2 --tasks hopper
    python benchmarks/mujoco_speed.py --quick                      # tiny sizes, to see that it works

Both sides: 8 environments of 64 steps, two tanh layers of 64 for actor and critic each, 10 epochs of minibatches of 64,
observations and rewards normalised, one thread. The sides take turns, medians are written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.mujoco import ENVIRONMENTS

ENVS, STEPS = 8, 64
OUT = Path(__file__).parent / "results" / "mujoco_speed.json"


def hpbench_side(name: str, engine: str) -> Callable[[int], None]:
    """Train a population of one for that many rollouts."""
    config = PPOConfig(num_envs=ENVS, num_steps=STEPS, normalize_observation=True, normalize_reward=True)
    population = PPO(tasks.make(f"mujoco/{name}"), [0], config, engine=engine)

    def run(rollouts: int) -> None:
        population.train(rollouts)

    return run


def sb3_side(name: str) -> Callable[[int], None]:
    """The same with Stable-Baselines3."""
    from stable_baselines3 import PPO as Theirs
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = VecNormalize(DummyVecEnv([lambda: gym.make(ENVIRONMENTS[name])] * ENVS))
    options: dict[str, Any] = {"n_steps": STEPS, "batch_size": 64, "n_epochs": 10, "device": "cpu", "seed": 0}
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
            "hpbench native": hpbench_side(name, "native"),
            "hpbench torch": hpbench_side(name, "torch"),
            "stable-baselines3": sb3_side(name),
            "simulator alone": simulator_side(name),
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds + 1):
            for side, run in sides.items():
                start = time.perf_counter()
                run(options.rollouts)
                seconds[side].append(time.perf_counter() - start)
        steps = options.rollouts * ENVS * STEPS
        rates = {side: round(steps / statistics.median(times[1:])) for side, times in seconds.items()}
        rows.append({"task": f"mujoco/{name}", "steps_per_second": rates})
        print(json.dumps(rows[-1]), flush=True)
    load = [round(value, 1) for value in os.getloadavg()]
    result = {"rounds": options.rounds, "steps_per_round": options.rollouts * ENVS * STEPS, "load": load, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
