"""Learning curves of PPO and SAC on MuJoCo tasks at the published values, with the configuration of a tier.

    python -m reproduce.mujoco.curves train inverted-pendulum hopper --learner ppo --steps 102400
    python -m reproduce.mujoco.curves plot

``train`` keeps a row per task and learner in ``curves.json`` and writes it at every point: a run that is stopped
leaves what it has seen; ``plot`` draws ``curves.png`` of them. Points are mean
returns of 8 evaluation episodes per seed, before training and then at equal distances. Where the Zoo has no values for
a learner on a task, the learner's defaults are used, and the row says so. Speeds are those of the machine as it was,
without evaluation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpbench.learners import make
from hpbench.tasks.mujoco import TASKS

HERE = Path(__file__).parent
EPISODES = 8
POINTS = 10


def train(name: str, learner: str, seeds: list[int], steps: int, tier: str) -> Iterator[dict[str, Any]]:
    """One population with a member per seed: the row so far, before the first step and then ``POINTS`` times."""
    torch.set_num_threads(1)
    task = TASKS[name]
    kind: Any = make(learner)
    tuned = task.hand_tuned.get(learner)
    config = kind.config_type(**task.learner_config.get(tier, {}).get(learner, {}))
    population = kind(task, seeds, config, values=None if tuned is None else dict(tuned.values))
    rollouts = steps // population.steps_per_rollout // POINTS
    curve: list[dict[str, Any]] = []
    seconds = 0.0
    for point in range(POINTS + 1):
        if point > 0:
            start = time.perf_counter()
            population.train(rollouts)
            seconds += time.perf_counter() - start
        returns = population.evaluate(EPISODES).returns.mean(axis=1)
        curve.append({"steps": int(population.steps[0]), "returns": [round(float(each), 2) for each in returns]})
        print(name, learner, curve[-1], flush=True)
        yield {
            "task": task.id,
            "learner": learner,
            "tier": tier,
            "seeds": seeds,
            "values": "the learner's defaults" if tuned is None else tuned.source,
            "random": task.anchors.low,
            "score_at_end": round(float(np.mean([task.anchors.score(each) for each in curve[-1]["returns"]])), 3),
            "steps_per_second": round(float(np.sum(population.steps)) / seconds) if point > 0 else None,
            "curve": curve,
        }


def keep(row: dict[str, Any], path: Path) -> None:
    """Write the row in the place of an older one of the same task, learner and tier."""
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    rows = [old for old in rows if any(old[name] != row[name] for name in ("task", "learner", "tier"))]
    path.write_text(json.dumps([*rows, row], indent=1) + "\n", "utf-8")


def plot(rows: list[dict[str, Any]]) -> None:
    """A panel per task: the mean over seeds of each learner, every seed, and the random policy."""
    from matplotlib.figure import Figure

    names = sorted({row["task"] for row in rows})
    colours = {"ppo": "tab:blue", "sac": "tab:orange"}
    figure = Figure(figsize=(4.0 * len(names), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(names)))
    for axis, name in zip(axes, names, strict=True):
        for row in (row for row in rows if row["task"] == name):
            steps = [point["steps"] for point in row["curve"]]
            returns = np.array([point["returns"] for point in row["curve"]])
            colour = colours[row["learner"]]
            axis.plot(steps, returns, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, returns.mean(axis=1), color=colour, label=f"{row['learner']}, {len(row['seeds'])} seeds")
            axis.axhline(row["random"], color="grey", linestyle=":")
        axis.set(title=name, xlabel="environment steps", ylabel="evaluation return")
        axis.legend(fontsize=8)
    figure.savefig(HERE / "curves.png", dpi=110)


def main() -> None:
    """Train or plot, as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--learner", default="ppo", choices=["ppo", "sac"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=102_400, help="environment steps of each seed")
    parser.add_argument("--tier", default="small")
    arguments = parser.parse_args()
    path = HERE / "curves.json"
    for name in arguments.tasks:
        for row in train(name, arguments.learner, arguments.seeds, arguments.steps, arguments.tier):
            keep(row, path)
    if arguments.command == "plot":
        plot(json.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    main()
