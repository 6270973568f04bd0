"""Learning curves of PPO on Doom scenarios, with the configuration of a tier.

    python -m reproduce.doom.curves train basic defend-the-center health-gathering --seed 100
    python -m reproduce.doom.curves plot

``train`` adds a row per scenario to ``curves.json``, ``plot`` draws ``curves.png`` of them. Returns in training are
those of the episodes that ended since the point before; what is evaluated are 32 episodes of the stochastic policy. The
random policy's are of 32 such episodes of the same member before any training.

The runs in ``curves.json`` were made eight at a time on one H100 (``--device cuda --points 10``), each with two cores
for its games, and cut after six minutes; those with Sample Factory's values on two cores each (``--share 2``), and cut
after five. So their speeds say little.
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
from hpbench.tasks.doom import TASKS
from hpbench.tasks.procgen import PUBLISHED

HERE = Path(__file__).parent
EPISODES = 32
SAMPLE_FACTORY = {
    "learning_rate": 1e-4,
    "entropy_coefficient": 1e-3,  # there: of the symmetric divergence from the uniform policy
    "value_coefficient": 0.5,
    "clip_range": 0.1,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "max_gradient_norm": 4.0,
    "update_epochs": 1,
    "minibatches": 2,  # batches of 1,024
}
"""What Sample Factory has for Doom: sf_examples/vizdoom/doom/doom_params.py (commit
4903cd2b8955) over sample_factory/cfg/cfg.py (commit 01c7bba1a959)."""
SETTINGS = {"library-default": {}, "procgen": PUBLISHED.values, "sample-factory": SAMPLE_FACTORY}
"""Values that do not change over a run: the learner's defaults, those published for Procgen, and those for Doom."""


def key(row: dict[str, Any]) -> list[Any]:
    """What tells runs apart."""
    return [row[name] for name in ("task", "tier", "values", "seed")]


def train(scenario: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run: where it stood at each point, and how fast it was (evaluation not counted)."""
    torch.set_num_threads(1)
    task = TASKS[scenario]
    budget = task.budgets[arguments.tier]
    values = dict(SETTINGS[arguments.values])
    values |= {name: float(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    config = PPOConfig(**task.learner_config[arguments.tier]["ppo"])
    population = PPO(task, [arguments.seed], config, values=values, device=arguments.device)
    random = population.evaluate(EPISODES).returns[0]
    row: dict[str, Any] = {
        "task": task.id,
        "tier": arguments.tier,
        "values": " ".join((arguments.values, *arguments.set)),
        "seed": arguments.seed,
        "device": arguments.device,
        "random": float(random.mean()),
        "random_sem": float(random.std(ddof=1) / np.sqrt(EPISODES)),
        "curve": [],
    }
    rollouts = int(arguments.share * budget.steps) // population.steps_per_rollout // arguments.points
    seconds = 0.0
    for _ in range(arguments.points):
        start = time.perf_counter()
        metrics = population.train(rollouts)
        seconds += time.perf_counter() - start
        evaluated = population.evaluate(EPISODES).returns[0]
        row["curve"].append(
            {
                "steps": int(population.steps[0]),
                "return": float(metrics["return_mean"][0]),
                "evaluated": float(evaluated.mean()),
                "evaluated_sem": float(evaluated.std(ddof=1) / np.sqrt(EPISODES)),
            }
        )
        row["steps_per_second"] = round(float(population.steps[0]) / seconds, 1)
        print(scenario, row["values"], row["curve"][-1], f"{row['steps_per_second']:.0f} steps/s", flush=True)
        save(arguments.out, row)
    return row


def save(path: Path, row: dict[str, Any]) -> None:
    """Put a run into the file, in place of an older version of it."""
    rows = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*(old for old in rows if key(old) != key(row)), row], indent=1) + "\n")


def plot(rows: list[dict[str, Any]]) -> None:
    """A panel per scenario: a line for each run, and the random policy."""
    from matplotlib.figure import Figure

    scenarios = sorted({row["task"] for row in rows})
    values = sorted({row["values"] for row in rows})
    figure = Figure(figsize=(4.0 * len(scenarios), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(scenarios)))
    for axis, scenario in zip(axes, scenarios, strict=True):
        labels = set()
        for row in (row for row in rows if row["task"] == scenario):
            steps = [0.0, *(point["steps"] / 1000 for point in row["curve"])]
            returns = [row["random"], *(point["evaluated"] for point in row["curve"])]
            label = row["values"] if row["values"] not in labels else None
            labels.add(row["values"])
            axis.plot(steps, returns, color=f"C{values.index(row['values'])}", label=label)
        axis.axhline(TASKS[scenario.partition("/")[2]].anchors.low, color="grey", linestyle=":", label="random policy")
        axis.set(title=scenario, xlabel="thousands of environment steps", ylabel="return")
        axis.legend(fontsize=8)
    figure.savefig(HERE / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "plot"])
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--tier", default="small")
    parser.add_argument("--values", default="library-default", choices=list(SETTINGS))
    parser.add_argument("--set", nargs="*", default=[], help="other values, as learning_rate=0.001")
    parser.add_argument("--share", type=float, default=1.0, help="of the tier's budget")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "curves.json")
    arguments = parser.parse_args()
    for scenario in arguments.scenarios:
        train(scenario, arguments)
    if arguments.command == "plot":
        plot(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    main()
