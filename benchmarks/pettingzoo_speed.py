"""Steps of agents per second: PettingZoo's own environments, one world after the other, against our worlds in one pass.

    python benchmarks/pettingzoo_speed.py --worlds 16
    python benchmarks/pettingzoo_speed.py --quick       # tiny sizes, to see that it works

Both sides take random actions; they alternate, round by round, and the medians over rounds are compared. Resets are not
counted: they are PettingZoo's on both sides. Written to ``results/pettingzoo_speed.json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from hpbench.tasks.pettingzoo import TASKS

OUT = Path(__file__).parent / "results" / "pettingzoo_speed.json"


def theirs(name: str, worlds: int) -> Callable[[int], float]:
    """A function that steps so many of PettingZoo's environments that many times: the seconds it took."""
    underscored = name.replace("-", "_")
    module = "pettingzoo.sisl.pursuit.pursuit" if name == "pursuit" else f"mpe2.{underscored}.{underscored}"
    envs: list[Any] = [importlib.import_module(module).parallel_env() for _ in range(worlds)]
    generator = np.random.default_rng(0)

    def run(steps: int) -> float:
        taken = 0.0
        for seed, env in enumerate(envs):
            env.reset(seed=seed)
            start = time.perf_counter()
            for _ in range(steps):
                env.step({agent: int(generator.integers(env.action_space(agent).n)) for agent in env.agents})
            taken += time.perf_counter() - start
        return taken

    return run


def ours(name: str, worlds: int) -> Callable[[int], float]:
    """The same for the simulator of the task."""
    task = TASKS[name]
    assert task.simulator is not None
    copies = worlds * task.agents
    simulator, generator = task.simulator.make(copies), np.random.default_rng(0)

    def run(steps: int) -> float:
        simulator.reset(range(copies), [copy // task.agents for copy in range(copies)])
        start = time.perf_counter()
        for _ in range(steps):
            simulator.step(generator.integers(task.action_count, size=copies))
        return time.perf_counter() - start

    return run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.quick:
        options.worlds, options.rounds = 2, 1
    rows = []
    for name, task in TASKS.items():
        steps = 3 if name == "pursuit" else 25
        runs = [make(name, options.worlds) for make in (theirs, ours)]
        seconds: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for run, taken in zip(runs, seconds, strict=True):
                taken.append(run(steps))
        theirs_per_second, ours_per_second = (
            round(options.worlds * task.agents * steps / float(np.median(taken))) for taken in seconds
        )
        rows.append(
            {
                "task": task.id,
                "worlds": options.worlds,
                "pettingzoo": theirs_per_second,
                "ours": ours_per_second,
                "ratio": round(ours_per_second / theirs_per_second, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    written = {"unit": "agent steps per second, one core", "rows": rows}
    options.out.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
