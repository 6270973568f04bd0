"""What a random policy reaches on MuJoCo: the low anchors of ``hpbench/tasks/mujoco.py``.

    python examples/mujoco_anchors.py                       # all tasks, 100 episodes each: some minutes on one core
    python examples/mujoco_anchors.py --episodes 4 --tasks hopper

How episodes are played, ``hpbench/tasks/random_play.py`` says.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gymnasium as gym
import mujoco

from hpbench.learners.simulator_pool import make_simulator
from hpbench.tasks.mujoco import ENVIRONMENTS, TASKS
from hpbench.tasks.random_play import random_play

OUT = Path(__file__).parent / "results" / "mujoco_anchors.json"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    for name in options.tasks:
        task = TASKS[name]
        assert task.simulator is not None
        simulator = make_simulator(task.simulator, 1)
        rows.append({"environment": ENVIRONMENTS[name], **random_play(task, simulator, options.episodes).summary()})
        simulator.close()
        print(json.dumps(rows[-1]), flush=True)
    versions = {"mujoco": mujoco.__version__, "gymnasium": gym.__version__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"policy": "uniform", **versions, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
