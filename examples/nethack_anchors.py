"""What a random policy reaches in NetHack: the low anchors of ``hpbench/tasks/nethack.py``.

    python examples/nethack_anchors.py                      # all tasks, 200 episodes each: some minutes on 2 cores
    python examples/nethack_anchors.py --episodes 4 --tasks score

How episodes are played, ``hpbench/tasks/random_play.py`` says. ``positive`` is the share of games that return more
than 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hpbench.learners.simulator_pool import make_simulator
from hpbench.tasks.nethack import TASKS
from hpbench.tasks.random_play import random_play

BATCH = 20
OUT = Path(__file__).parent / "results" / "nethack_anchors.json"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    for task in (TASKS[name] for name in options.tasks):
        assert task.simulator is not None
        simulator = make_simulator(task.simulator, BATCH, task=task.id)
        played = random_play(task, simulator, options.episodes)
        simulator.close()
        positive = round(float((played.returns > 1e-4).mean()), 4)
        rows.append({"task": task.id, "limit": task.max_episode_steps, **played.summary(), "positive": positive})
        print(json.dumps(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"policy": "uniform", "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
