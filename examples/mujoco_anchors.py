"""What a random policy reaches on MuJoCo: the low anchors of ``hpbench/tasks/mujoco.py``.

    python examples/mujoco_anchors.py                       # all tasks, 200 episodes each: some minutes on one core
    python examples/mujoco_anchors.py --episodes 4 --tasks Hopper-v5

Every action is drawn uniformly from the action space, from a generator of its own for every episode; episodes have the
seeds 0, 1, 2, ... and Gymnasium's time limit. The mean return is written with its standard error.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np

from hpbench.tasks.mujoco import ENVIRONMENTS

OUT = Path(__file__).parent / "results" / "mujoco_anchors.json"


def play(environment: str, episodes: int) -> tuple[list[float], list[int]]:
    """Returns and lengths of random episodes."""
    env = gym.make(environment)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    returns, lengths = [], []
    for seed in range(episodes):
        generator, total, length, ended = np.random.default_rng(seed), 0.0, 0, False
        env.reset(seed=seed)
        while not ended:
            action = generator.uniform(space.low, space.high).astype(np.float32)
            _, reward, terminated, truncated, _ = env.step(action)
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    env.close()
    return returns, lengths


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(ENVIRONMENTS.values()), choices=list(ENVIRONMENTS.values()))
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = []
    for environment in options.tasks:
        returns, lengths = play(environment, options.episodes)
        row = {
            "environment": environment,
            "episodes": len(returns),
            "mean": round(float(np.mean(returns)), 3),
            "standard_error": round(float(np.std(returns, ddof=1) / len(returns) ** 0.5), 3),
            "best": round(float(np.max(returns)), 3),
            "steps": round(float(np.mean(lengths)), 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    versions = {"mujoco": mujoco.__version__, "gymnasium": gym.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"policy": "uniform", **versions, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
