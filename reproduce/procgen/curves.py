"""Learning curves of PPO on Procgen games at the published values, with the configuration of a tier.

    python -m reproduce.procgen.curves train coinrun fruitbot starpilot --seed 100
    python -m reproduce.procgen.curves plot

``train`` adds a row per game to ``curves.json``, ``plot`` draws ``curves.png`` of them. Returns in training are those
of the episodes that ended since the point before; held-out ones are of 32 episodes on levels that training does not
have. The random policy's are of 128 such episodes of the same member before any training.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.procgen import TASKS

HERE = Path(__file__).parent
EPISODES, RANDOM_EPISODES = 32, 128


def train(game: str, seed: int, tier: str, share: float, points: int) -> dict[str, Any]:
    """One run: where it stood ``points`` times, and how fast it was (evaluation not counted)."""
    torch.set_num_threads(1)
    task = TASKS[game]
    budget = task.budgets[tier]
    population = PPO(
        task,
        [seed],
        PPOConfig(**task.learner_config[tier]["ppo"]),
        values=dict(task.hand_tuned["ppo"].values),
    )
    random = population.evaluate(RANDOM_EPISODES)
    rollouts = int(share * budget.steps) // population.steps_per_rollout // points
    curve, seconds = [], 0.0
    for _ in range(points):
        start = time.perf_counter()
        metrics = population.train(rollouts)
        seconds += time.perf_counter() - start
        held_out = population.evaluate(EPISODES).returns[0]
        curve.append(
            {
                "steps": int(population.steps[0]),
                "return": float(metrics["return_mean"][0]),
                "held_out": float(held_out.mean()),
                "held_out_sem": float(held_out.std(ddof=1) / np.sqrt(EPISODES)),
            }
        )
        print(game, curve[-1], f"{population.steps[0] / seconds:.0f} steps/s", flush=True)
    returns = random.returns[0]
    return {
        "task": task.id,
        "tier": tier,
        "seed": seed,
        "random": float(returns.mean()),
        "random_sem": float(returns.std(ddof=1) / np.sqrt(RANDOM_EPISODES)),
        "steps_per_second": round(float(population.steps[0]) / seconds, 1),
        "curve": curve,
    }


def plot(rows: list[dict[str, Any]]) -> None:
    """A panel per game: training, held-out levels, random policy."""
    from matplotlib.figure import Figure

    games = sorted({row["task"] for row in rows})
    figure = Figure(figsize=(4.0 * len(games), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(games)))
    for axis, game in zip(axes, games, strict=True):
        for row in (row for row in rows if row["task"] == game):
            steps = [point["steps"] for point in row["curve"]]
            axis.plot(steps, [point["return"] for point in row["curve"]], color="tab:blue", label="training levels")
            held_out = [point["held_out"] for point in row["curve"]]
            axis.plot(steps, held_out, color="tab:orange", label="held-out levels")
            axis.axhline(row["random"], color="grey", linestyle=":", label="random policy")
        axis.set(title=game, xlabel="environment steps", ylabel="return")
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(handles[:3], labels[:3], fontsize=8)
    figure.savefig(HERE / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("games", nargs="*")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--tier", default="small")
    parser.add_argument("--share", type=float, default=1.0, help="of the tier's budget")
    parser.add_argument("--points", type=int, default=20)
    arguments = parser.parse_args()
    path = HERE / "curves.json"
    for game in arguments.games:
        row = train(game, arguments.seed, arguments.tier, arguments.share, arguments.points)
        key = [row[name] for name in ("task", "tier", "seed")]
        rows = json.loads(path.read_text()) if path.exists() else []
        rows = [old for old in rows if [old[name] for name in ("task", "tier", "seed")] != key]
        path.write_text(json.dumps([*rows, row], indent=1) + "\n")
    if arguments.command == "plot":
        plot(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
