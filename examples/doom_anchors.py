"""What a random policy reaches in Doom: the low anchors of ``hpbench/tasks/doom.py``.

    python examples/doom_anchors.py                      # all scenarios, 500 episodes each: some minutes on 2 cores
    python examples/doom_anchors.py --episodes 4 --scenarios basic

Every action is drawn uniformly, from a generator of its own for every episode; episodes have the seeds 0, 1, 2, ... The
mean return is written with its standard error, and what one episode in twenty reaches. ``--walk`` measures the high
anchor of the deadly corridor instead: what its way is worth to a player who cannot die.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.doom_simulator import BUTTONS, FRAME_SKIP, LIMITS, DoomMaker

OUT = Path(__file__).parent / "results" / "doom_anchors.json"


def play(pool: SimulatorPool, scenario: str, episodes: int, batch: int) -> dict[str, list[float]]:
    """Returns and lengths of random episodes, and whether they ended before the time limit."""
    simulator = pool.make(DoomMaker(scenario, LIMITS[scenario]), batch, task=scenario)
    played: dict[str, list[float]] = {"returns": [], "lengths": [], "ended": []}
    for first in range(0, episodes, batch):
        seeds = list(range(first, min(first + batch, episodes)))
        generators = [np.random.default_rng(seed) for seed in seeds]
        simulator.reset(range(len(seeds)), seeds)
        total, length, actions = np.zeros(batch), np.zeros(batch), np.zeros(batch, dtype=np.int64)
        running = list(range(len(seeds)))
        for _ in range(LIMITS[scenario]):
            if not running:
                break
            for env in running:
                actions[env] = generators[env].integers(BUTTONS[scenario] + 1)
            simulator.step(actions, running)
            total[running] += simulator.reward[running]
            length[running] += 1
            running = [env for env in running if not simulator.terminated[env]]
        played["returns"] += total[: len(seeds)].round(6).tolist()
        played["lengths"] += length[: len(seeds)].tolist()
        played["ended"] += [float(env not in running) for env in range(len(seeds))]
    simulator.close()
    return played


def summary(scenario: str, played: dict[str, list[float]]) -> dict[str, Any]:
    """One row of the table."""
    returns = np.array(played["returns"])
    return {
        "scenario": scenario,
        "limit": LIMITS[scenario],
        "episodes": len(returns),
        "mean": round(float(returns.mean()), 4),
        "standard_error": round(float(returns.std(ddof=1) / len(returns) ** 0.5), 4),
        "median": round(float(np.median(returns)), 4),
        "p95": round(float(np.quantile(returns, 0.95)), 4),
        "best": round(float(returns.max()), 4),
        "ended": round(float(np.mean(played["ended"])), 4),
        "steps": round(float(np.mean(played["lengths"])), 1),
    }


def walk() -> float:
    """The return of walking straight to the end of the deadly corridor, in a game whose player cannot die."""
    simulator = DoomMaker("deadly_corridor", LIMITS["deadly_corridor"]).make(1)
    simulator.reset([0], [0])
    game: Any = simulator.games[0]
    game.game.send_game_command("iddqd")
    forward, total = 4, 0.0
    for _ in range(LIMITS["deadly_corridor"]):
        simulator.step(np.array([forward]))
        total += float(simulator.reward[0])
        if simulator.terminated[0]:
            break
    simulator.close()
    return total


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=list(BUTTONS), choices=list(BUTTONS))
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--batch", type=int, default=20, help="games at a time")
    parser.add_argument("--walk", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.walk:
        print(walk())
        return
    pool = SimulatorPool()
    rows: list[dict[str, Any]] = []
    for scenario in options.scenarios:
        rows.append(summary(scenario, play(pool, scenario, options.episodes, options.batch)))
        print(json.dumps(rows[-1]), flush=True)
        written = {"policy": "uniform", "frame_skip": FRAME_SKIP, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    pool.close()


if __name__ == "__main__":
    main()
