"""Learning curves of PPO on the grid worlds: the score on held-out levels over the small budget.

    python examples/grid_learning.py                  # all tasks, about 20 minutes on one CPU core
    python examples/grid_learning.py doorkey-5x5      # some of them

Five seeds are trained as one population, with the learner's defaults and with the published values for MiniGrid. Writes
``grid_learning.json`` and ``grid_learning.png`` to ``examples/results/``; tasks that are not named keep their numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hpbench import tasks
from hpbench.learners.ppo import PPO
from hpbench.tasks.base import Task

SEEDS, EPISODES = 5, 20
RESULTS = Path(__file__).with_name("results")


def learn(task: Task, setting: str, seeds: int = SEEDS, episodes: int = EPISODES) -> dict[str, Any]:
    """Train on a task for its small budget, and evaluate after every decision.

    Returns:
        ``steps`` of each evaluation; ``score`` and ``success`` as ``[decisions + 1][seeds]``; ``engine``.
    """
    values = task.hand_tuned["ppo"].values if setting == "hand-tuned" else None
    population = PPO(task, range(seeds), values=values)
    budget = task.budgets["small"]
    rollouts = budget.steps // budget.decisions // population.steps_per_rollout
    steps, scores, successes = [], [], []
    for decision in range(budget.decisions + 1):
        if decision > 0:
            population.train(rollouts)
        returns = population.evaluate(episodes).returns
        steps.append(int(population.steps[0]))
        scores.append([round(task.anchors.score(value), 4) for value in returns.mean(axis=1).tolist()])
        successes.append((returns >= task.success_return).mean(axis=1).round(4).tolist())
    return {"steps": steps, "score": scores, "success": successes, "engine": population.engine}


def plot(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per task, a line per setting: mean over the seeds, and the range they span."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3 * columns, 2.4 * rows), squeeze=False, sharey=True, layout="constrained"
    )
    for panel in panels.flat[len(curves) :]:
        panel.axis("off")
    for panel, (name, settings) in zip(panels.flat, curves.items(), strict=False):
        for color, (setting, curve) in zip(("#1f77b4", "#d62728"), settings.items(), strict=True):
            score, thousands = np.array(curve["score"]), np.array(curve["steps"]) / 1000
            panel.plot(thousands, score.mean(axis=1), color=color, label=setting)
            panel.fill_between(thousands, score.min(axis=1), score.max(axis=1), color=color, alpha=0.15, linewidth=0)
        panel.set_title(name, fontsize=9)
        panel.set_ylim(-0.05, 1.1)
    panels[0, 0].legend(fontsize=7, loc="lower right")
    figure.supxlabel("environment steps, thousands", fontsize=9)
    figure.supylabel("score on held-out levels", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(names: list[str]) -> None:
    """Measure the named tasks (none: all) and write the results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "grid_learning.json"
    known = tasks.family_tasks("grid")
    curves = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names or known:
        task = tasks.make(f"grid/{name}")
        curves[name] = {setting: learn(task, setting) for setting in ("default", "hand-tuned")}
        curves = {name: curves[name] for name in known if name in curves}
        lines = [
            f'"{name}": {{{", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in settings.items())}}}'
            for name, settings in curves.items()
        ]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        final = {setting: np.mean(curve["score"][-1]).round(3) for setting, curve in curves[name].items()}
        print(name, "final score:", ", ".join(f"{setting} {score}" for setting, score in final.items()), flush=True)
    plot(curves, RESULTS / "grid_learning.png")


if __name__ == "__main__":
    main(sys.argv[1:])
