"""Long runs of PPO on PettingZoo tasks, from a few settings each: how far it gets, and the high anchor of the pursuit.

    python -m reproduce.pettingzoo.long_runs train --seconds 470      # a process per setting: wants as many cores
    python -m reproduce.pettingzoo.long_runs plot                     # draws long_runs.png

Every run is one member whose seed is the number of its setting. Steps are those of all agents; points are the mean
return of 200 evaluation episodes (pursuit: 20) and its standard error. ``long_runs.json`` was measured on a server,
with a core for each run and 470 seconds; runs of tasks that are slower to simulate, or of larger networks, are shorter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "long_runs.json"
LARGE = {"hidden": (128, 128)}
SETTINGS: list[tuple[str, int, int, dict[str, float], dict[str, Any]]] = [
    ("simple-speaker-listener", 32, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.01, "discount": 0.95}, {}),
    ("simple-speaker-listener", 32, 25, {"learning_rate": 7e-4, "entropy_coefficient": 0.03, "discount": 0.9}, {}),
    (
        "simple-speaker-listener", 64, 25,
        {"learning_rate": 2e-3, "entropy_coefficient": 0.01, "discount": 0.9, "minibatches": 16}, {},
    ),
    ("simple-spread", 32, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.01, "discount": 0.9}, {}),
    ("simple-spread", 32, 25, {"learning_rate": 5e-4, "entropy_coefficient": 0.003, "discount": 0.95}, {}),
    ("simple-spread", 64, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.003, "discount": 0.9}, LARGE),
    ("pursuit", 8, 128, {"learning_rate": 5e-4, "entropy_coefficient": 0.01, "discount": 0.95}, {}),
    ("pursuit", 8, 128, {"learning_rate": 1e-3, "entropy_coefficient": 0.003, "discount": 0.98}, {}),
    ("pursuit", 16, 64, {"learning_rate": 7e-4, "entropy_coefficient": 0.01, "discount": 0.99}, LARGE),
    ("simple-line", 32, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.003, "discount": 0.9}, {}),
    ("simple-line", 32, 25, {"learning_rate": 5e-4, "entropy_coefficient": 0.01, "discount": 0.95}, {}),
    ("simple-line", 32, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.003, "discount": 0.9}, LARGE),
    ("simple-reference", 32, 25, {"learning_rate": 1e-3, "entropy_coefficient": 0.01, "discount": 0.9}, {}),
    ("simple-reference", 32, 25, {"learning_rate": 7e-4, "entropy_coefficient": 0.03, "discount": 0.95}, {}),
    (
        "simple-reference", 64, 25,
        {"learning_rate": 2e-3, "entropy_coefficient": 0.01, "discount": 0.9, "minibatches": 16}, {},
    ),
]  # fmt: skip
"""Task, worlds, steps of each per rollout, hyperparameters that are not PPO's defaults, and further frozen options."""


def run(number: int, seconds: float) -> dict[str, Any]:
    """One run, stopped at the first point after that time."""
    import torch

    from hpbench.learners.ppo import PPO, PPOConfig
    from hpbench.tasks.pettingzoo import TASKS

    torch.set_num_threads(1)
    start = time.monotonic()
    name, worlds, steps, values, options = SETTINGS[number]
    task = TASKS[name]
    config = PPOConfig(num_envs=worlds * task.agents, num_steps=steps, normalize_reward=True, **options)
    population = PPO(task, [number], config, values)
    curve: list[tuple[int, float, float]] = []
    while True:
        if curve:
            target = 30_000 * 1.3 ** min(len(curve), 20)
            population.train(max(1, int(target // population.steps_per_rollout)))
        returns = population.evaluate(20 if name == "pursuit" else 200).returns[0]
        mean, error = float(returns.mean()), float(returns.std() / len(returns) ** 0.5)
        curve.append((int(population.steps[0]), round(mean, 3), round(error, 3)))
        if time.monotonic() - start > seconds:
            row = {"task": task.id, "seed": number, "worlds": worlds, "steps": steps, "values": values}
            return {**row, "options": options, "curve": curve}


def plot(rows: list[dict[str, Any]]) -> None:
    """A panel per task: every run with its standard errors, and both anchors."""
    from matplotlib.figure import Figure

    from hpbench.tasks.pettingzoo import TASKS

    figure = Figure(figsize=(3.6 * len(TASKS), 3.4), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(TASKS)), TASKS.values(), strict=True):
        for row in (row for row in rows if row["task"] == task.id):
            steps, means, errors = zip(*row["curve"], strict=True)
            values = row["values"]
            label = "discount {discount:g}, rate {learning_rate:g}, entropy {entropy_coefficient:g}".format(**values)
            axis.errorbar([step / 1e6 for step in steps], means, errors, label=label, linewidth=1.0)
        axis.axhline(task.anchors.low, color="grey", linestyle=":")
        axis.axhline(task.anchors.high, color="grey", linestyle="--")
        axis.set(title=task.id.partition("/")[2], xlabel="million steps of agents")
        axis.legend(fontsize=6)
    figure.axes[0].set_ylabel("evaluation return")
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


def main() -> None:
    """All settings at once, or the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("--seconds", type=float, default=470.0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.command == "train":
        with multiprocessing.get_context("spawn").Pool(len(SETTINGS)) as pool:
            rows = pool.starmap(run, [(number, arguments.seconds) for number in range(len(SETTINGS))])
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        arguments.out.write_text(text, "utf-8")
    else:
        plot(json.loads(arguments.out.read_text("utf-8")))


if __name__ == "__main__":
    main()
