"""Learning curves of PPO on PettingZoo tasks, with the configuration of a tier.

    python -m reproduce.pettingzoo.curves train pursuit simple-line --values short-sighted
    python -m reproduce.pettingzoo.curves plot

``train`` keeps a row per task, tier and choice of values in ``curves.json`` and writes it at every point: a run that is
stopped leaves what it has seen. ``plot`` draws ``curves.png``, and takes in rows from elsewhere (``--add FILE ...``).
Points are mean returns of complete evaluation episodes per seed, before training and then at equal distances; steps are
those of all agents. Values: PPO's defaults, what was published for the task, or short-sighted ones of our own, which
are the defaults but for a discount of 0.9, a learning rate of 1e-3 and an entropy coefficient of 0.01. Speeds are
those of the machine as it was, without evaluation. ``curves.json`` was measured on two cores that had much
else to do, so its speeds say little, and the pursuit was stopped at 499,200 of its 832,000 steps.
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

from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.pettingzoo import TASKS

HERE = Path(__file__).parent
EPISODES = 64
EPISODES_OF = {"pursuit": 8}
POINTS = 10
SHORT_SIGHTED = {"discount": 0.9, "learning_rate": 1e-3, "entropy_coefficient": 0.01}
COLOURS = {"default": "tab:blue", "published": "tab:green", "short-sighted": "tab:orange"}


def train(name: str, values: str, seeds: list[int], tier: str) -> Iterator[dict[str, Any]]:
    """One population with a member per seed: the row so far, before the first step and then ``POINTS`` times."""
    torch.set_num_threads(1)
    task = TASKS[name]
    given = {"default": {}, "short-sighted": SHORT_SIGHTED}.get(values)
    source = "PPO's defaults" if values == "default" else "our own"
    if given is None:
        given, source = dict(task.hand_tuned["ppo"].values), task.hand_tuned["ppo"].source
    population = PPO(task, seeds, PPOConfig(**task.learner_config[tier]["ppo"]), given)
    rollouts = task.budgets[tier].steps // population.steps_per_rollout // POINTS
    curve: list[dict[str, Any]] = []
    seconds = 0.0
    for point in range(POINTS + 1):
        if point > 0:
            start = time.perf_counter()
            population.train(rollouts)
            seconds += time.perf_counter() - start
        returns = population.evaluate(EPISODES_OF.get(name, EPISODES)).returns.mean(axis=1)
        curve.append({"steps": int(population.steps[0]), "returns": [round(float(each), 2) for each in returns]})
        print(name, values, curve[-1], flush=True)
        yield {
            "task": task.id,
            "tier": tier,
            "values": values,
            "source": source,
            "seeds": seeds,
            "random": task.anchors.low,
            "high": task.anchors.high,
            "score_at_end": round(float(np.mean([task.anchors.score(each) for each in curve[-1]["returns"]])), 3),
            "steps_per_second": round(float(np.sum(population.steps)) / seconds) if point > 0 else None,
            "curve": curve,
        }


def keep(row: dict[str, Any], path: Path) -> None:
    """Write the row in the place of an older one of the same task, tier and values."""
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    rows = [old for old in rows if any(old[name] != row[name] for name in ("task", "tier", "values"))]
    rows = sorted([*rows, row], key=lambda each: (each["task"], each["tier"], each["values"]))
    path.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel per task: the mean over seeds for each choice of values, every seed, and both anchors."""
    from matplotlib.figure import Figure

    names = sorted({row["task"] for row in rows})
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(names)))
    for axis, name in zip(axes, names, strict=True):
        for row in (row for row in rows if row["task"] == name):
            steps = [point["steps"] / 1000 for point in row["curve"]]
            returns = np.array([point["returns"] for point in row["curve"]])
            colour = COLOURS[row["values"]]
            axis.plot(steps, returns, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, returns.mean(axis=1), color=colour, label=f"{row['values']}, {len(row['seeds'])} seeds")
            axis.axhline(row["random"], color="grey", linestyle=":")
            axis.axhline(row["high"], color="grey", linestyle="--")
        axis.set(title=name.partition("/")[2], xlabel="thousand steps of agents")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("evaluation return")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train or plot, as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--values", default="default", choices=list(COLOURS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tier", default="small")
    parser.add_argument("--out", type=Path, default=HERE / "curves.json")
    parser.add_argument("--add", nargs="*", type=Path, default=[], help="files with more rows, to be kept")
    arguments = parser.parse_args()
    if arguments.command == "train":
        for name in arguments.tasks:
            for row in train(name, arguments.values, arguments.seeds, arguments.tier):
                keep(row, arguments.out)
    else:
        for path in arguments.add:
            for row in json.loads(path.read_text("utf-8")):
                keep(row, arguments.out)
        rows = json.loads(arguments.out.read_text("utf-8"))
        plot([row for row in rows if row["tier"] == arguments.tier], HERE / "curves.png")


if __name__ == "__main__":
    main()
