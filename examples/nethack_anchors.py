"""What a random policy reaches in NetHack: the low anchors of ``hpbench/tasks/nethack.py``.

    python examples/nethack_anchors.py                      # all tasks, 200 episodes each: some minutes on 2 cores
    python examples/nethack_anchors.py --episodes 4 --tasks score

Every action is drawn uniformly, from a generator of its own for every episode; games have the seeds 0, 1, 2, ... The
mean return is written with its standard error, and what one episode in twenty reaches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.nethack_simulator import ACTIONS, CLASSES, NetHackMaker

LIMITS = {"score": 5_000}
OTHERS = 1_000
OUT = Path(__file__).parent / "results" / "nethack_anchors.json"


def play(pool: SimulatorPool, task: str, limit: int, episodes: int, batch: int = 20) -> dict[str, list[float]]:
    """Returns and lengths of random episodes, and whether the game ended before the time limit."""
    simulator = pool.make(NetHackMaker(task, limit), batch, task=f"nethack/{task}")
    played: dict[str, list[float]] = {"returns": [], "lengths": [], "ended": []}
    for first in range(0, episodes, batch):
        seeds = list(range(first, min(first + batch, episodes)))
        generators = [np.random.default_rng(seed) for seed in seeds]
        simulator.reset(range(len(seeds)), seeds)
        total, length, actions = np.zeros(batch), np.zeros(batch), np.zeros(batch, dtype=np.int64)
        running = list(range(len(seeds)))
        for _ in range(limit):
            if not running:
                break
            for env in running:
                actions[env] = generators[env].integers(ACTIONS)
            simulator.step(actions, running)
            total[running] += simulator.reward[running]
            length[running] += 1
            running = [env for env in running if not simulator.terminated[env]]
        played["returns"] += total[: len(seeds)].round(6).tolist()
        played["lengths"] += length[: len(seeds)].tolist()
        played["ended"] += [float(env not in running) for env in range(len(seeds))]
    simulator.close()
    return played


def summary(task: str, limit: int, played: dict[str, list[float]]) -> dict[str, float | int | str]:
    """One row of the table."""
    returns = np.array(played["returns"])
    return {
        "task": f"nethack/{task}",
        "limit": limit,
        "episodes": len(returns),
        "mean": round(float(returns.mean()), 4),
        "standard_error": round(float(returns.std(ddof=1) / len(returns) ** 0.5), 4),
        "median": round(float(np.median(returns)), 4),
        "p95": round(float(np.quantile(returns, 0.95)), 4),
        "best": round(float(returns.max()), 4),
        "positive": round(float((returns > 1e-4).mean()), 4),
        "ended": round(float(np.mean(played["ended"])), 4),
        "steps": round(float(np.mean(played["lengths"])), 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    pool, rows = SimulatorPool(), []
    for task in options.tasks:
        limit = LIMITS.get(task, OTHERS)
        rows.append(summary(task, limit, play(pool, task, limit, options.episodes)))
        print(json.dumps(rows[-1]), flush=True)
    pool.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"policy": "uniform", "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
