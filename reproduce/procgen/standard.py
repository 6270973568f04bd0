"""Learning curves of PPO on Procgen games at the ``standard`` tier on a GPU, beside the published ones.

    python -m reproduce.procgen.standard train coinrun --seed 100
    python -m reproduce.procgen.standard plot

``train`` adds a row to ``standard.json``, after each point as far as it is; ``plot`` draws ``standard.png`` and writes
``standard.md``. Returns in training are those of the episodes that ended since the point before; held-out ones are of
episodes on levels that training does not have.

The published curves are of the same setting: easy, 200 levels, 64 environments, the same hyperparameters and network.
They are the mean return of the last 100 episodes of each of three runs, as the authors of the benchmark (Cobbe et al.
2020) published them beside their code: github.com/openai/train-procgen, ``train_procgen/results/easy-200-run*``.
``published.json`` has means over the rollouts around some numbers of steps.
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
from hpbench.tasks.procgen import TASKS

HERE = Path(__file__).parent
RANDOM_EPISODES = 128


def train(
    game: str,
    seed: int,
    share: float,
    points: int,
    device: str,
    episodes: int,
    seconds: float,
    tier: str,
    compiled: bool = False,
) -> Iterator[dict[str, Any]]:
    """One run, as far as it is, after each of ``points`` parts: where it stood, and how fast it trained.

    Args:
        game: of the easy games.
        seed: of the member.
        share: of the tier's budget.
        points: parts of equal length.
        device: ``cuda``, or ``cpu``.
        episodes: on held-out levels at each point, and four times as many at the last one.
        seconds: after which the run ends early.
        tier: whose configuration and budget are taken.
        compiled: whether the network is compiled, which needs a GPU.
    """
    torch.set_num_threads(1)
    began, task = time.perf_counter(), TASKS[game]
    config = PPOConfig(**task.learner_config[tier]["ppo"], compile=compiled)
    population = PPO(task, [seed], config, values=dict(task.hand_tuned["ppo"].values), device=device)
    untrained = population.evaluate(RANDOM_EPISODES).returns[0]
    rollouts = max(1, int(share * task.budgets[tier].steps) // population.steps_per_rollout // points)
    row: dict[str, Any] = {
        "task": task.id,
        "tier": tier,
        "seed": seed,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "untrained": float(untrained.mean()),
        "untrained_sem": float(untrained.std(ddof=1) / np.sqrt(RANDOM_EPISODES)),
        "curve": [],
    }
    training = 0.0
    for point in range(points):
        start = time.perf_counter()
        metrics = population.train(rollouts)
        part = time.perf_counter() - start
        training += part
        last = point == points - 1 or time.perf_counter() - began + part > seconds
        held_out = population.evaluate(4 * episodes if last else episodes).returns[0]
        row["curve"].append(
            {
                "steps": int(population.steps[0]),
                "return": float(metrics["return_mean"][0]),
                "held_out": float(held_out.mean()),
                "held_out_sem": float(held_out.std(ddof=1) / np.sqrt(len(held_out))),
                "entropy": float(metrics["entropy"][0]),
                "approx_kl": float(metrics["approx_kl"][0]),
            }
        )
        row["steps_per_second"] = round(float(population.steps[0]) / training, 1)
        row["seconds"] = round(time.perf_counter() - began, 1)
        print(game, row["curve"][-1], f"{row['steps_per_second']:.0f} steps/s", flush=True)
        yield row
        if last:
            return


def plot(rows: list[dict[str, Any]], published: dict[str, Any]) -> None:
    """A panel per game: training and held-out levels, ours and published, and the untrained policy."""
    from matplotlib.figure import Figure

    games = sorted({row["task"] for row in rows})
    figure = Figure(figsize=(4.4 * len(games), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(games)))
    colours = {"return": "tab:blue", "held_out": "tab:orange"}
    labels = {"return": "training levels", "held_out": "held-out levels"}
    for axis, game in zip(axes, games, strict=True):
        for row in (row for row in rows if row["task"] == game):
            steps = [point["steps"] / 1e6 for point in row["curve"]]
            for name, colour in colours.items():
                axis.plot(
                    steps,
                    [point[name] for point in row["curve"]],
                    marker="o",
                    color=colour,
                    label=labels[name],
                    alpha=0.8,
                )
            axis.axhline(row["untrained"], color="grey", linestyle=":", label="untrained")
        for name, split in (("return", "train"), ("held_out", "test")):
            points = [point for point in published["games"].get(game, []) if point[split]]
            axis.errorbar(
                [point["steps"] / 1e6 for point in points],
                [np.mean(point[split]) for point in points],
                [np.ptp(point[split]) / 2 for point in points],
                color=colours[name],
                marker="x" if split == "train" else "+",
                linestyle="none",
                capsize=3,
                label=f"published, {labels[name]}",
            )
        axis.set(title=game, xlabel="million environment steps", ylabel="return")
    handles, names = axes[0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes[0].legend(unique.values(), unique.keys(), fontsize=7)
    figure.savefig(HERE / "standard.png", dpi=110)


def table(rows: list[dict[str, Any]], published: dict[str, Any]) -> str:
    """Ours nearest to each published number of steps, as Markdown."""
    lines = [
        "| task | million steps | training, ours | training, published | held-out, ours | held-out, published |",
        "|---|---|---|---|---|---|",
    ]
    for game in sorted({row["task"] for row in rows}):
        curves = [row["curve"] for row in rows if row["task"] == game]
        for point in published["games"].get(game, []):
            reached = [curve for curve in curves if curve[-1]["steps"] >= 0.95 * point["steps"]]
            if not reached:
                continue
            nearest = [min(curve, key=lambda own: abs(own["steps"] - point["steps"])) for curve in reached]
            cells = [game, f"{point['steps'] / 1e6:.2f}"]
            for name, split in (("return", "train"), ("held_out", "test")):
                cells.append(", ".join(f"{own[name]:.2f}" for own in nearest))
                cells.append(", ".join(f"{value:.2f}" for value in point[split]) or "-")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("games", nargs="*")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--tier", default="standard")
    parser.add_argument("--share", type=float, default=1.0, help="of the tier's budget")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--episodes", type=int, default=64, help="on held-out levels at each point")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which the run ends early")
    parser.add_argument("--compile", action="store_true", help="the network, before its work is recorded")
    parser.add_argument("--results", type=Path, default=HERE / "standard.json")
    arguments = parser.parse_args()
    path = arguments.results
    for game in arguments.games:
        given = (arguments.seed, arguments.share, arguments.points, arguments.device)
        for row in train(game, *given, arguments.episodes, arguments.seconds, arguments.tier, arguments.compile):
            rows = json.loads(path.read_text()) if path.exists() else []
            rows = [old for old in rows if (old["task"], old["seed"]) != (row["task"], row["seed"])]
            path.write_text(json.dumps([*rows, row], indent=1) + "\n")
    if arguments.command == "plot":
        rows, published = (json.loads((HERE / name).read_text()) for name in ("standard.json", "published.json"))
        plot(rows, published)
        (HERE / "standard.md").write_text(table(rows, published))


if __name__ == "__main__":
    main()
