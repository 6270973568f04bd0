"""Does undoing harmful updates pay? And how often does the monitor blame training that nobody touched?

    python examples/roll_back_study.py examples/results/roll_back.json

Three agents that know nothing run classic tasks, with harmful updates undone and without, on the same seeds. What is
thrown away comes out of the budget, so the two arms train for the same number of steps. ``random`` (from random starts)
moves every hyperparameter at every decision. ``reckless`` (from random starts) leaves everything alone but, at one
decision in five, multiplies or divides one hyperparameter by 16. ``careless`` (from the defaults) sets the learning
rate to its upper bound at one decision in eight, and puts the default back at the next. The interval is of the mean
difference over all tasks and seeds (bootstrap, 95 %, seeds drawn within tasks). The false alarms are counted on runs
without any update.

In ``examples/results/roll_back.json``, undoing is worth +0.084 [+0.013, +0.161] of meta-score to the careless agent. To
the other two it is worth nothing that could be measured (-0.007 [-0.055, +0.035] and +0.002 [+0.000, +0.007]): what
single updates of theirs do within a segment is hardly ever told from chance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agents.language.deployment import Deployment, DeploymentOptions, live_environment
from agents.language.monitoring import Monitor, MonitorOptions
from agents.random_updates import RandomUpdates
from hpbench.agent import AgentSpec
from hpbench.control.episode import EnvOptions, EpisodeBatch

TASKS = ("classic/cartpole", "classic/acrobot", "classic/mountaincar", "classic/pendulum")
SEEDS = range(3000, 3010)
QUIET_SEEDS = range(2000, 2016)
OPTIONS: dict[str, Any] = {"evaluation_episodes": 5, "device": "cpu"}
JUDGED = ("better", "as expected", "harmful", "diverged")


class Reckless:
    """With probability ``rate``, one hyperparameter times or divided by 16."""

    name = "reckless"
    action = "text"

    def __init__(self, rate: float = 0.2) -> None:
        self.rate = rate

    def reset(self, spec: AgentSpec, seed: int) -> None:
        self.names = spec.hyperparameters.hot
        self.generator = np.random.default_rng(seed)

    def act(self, observation: Any) -> str:
        chance, which, up = self.generator.random(3)
        if chance >= self.rate:
            return "{}"
        return json.dumps({self.names[int(which * len(self.names))]: "x16" if up < 0.5 else "x0.0625"})


class Careless:
    """With probability ``rate``, the largest learning rate there is; else the default."""

    name = "careless"
    action = "text"

    def __init__(self, rate: float = 0.125) -> None:
        self.rate = rate

    def reset(self, spec: AgentSpec, seed: int) -> None:
        self.item = spec.hyperparameters["learning_rate"]
        self.generator = np.random.default_rng(seed)

    def act(self, observation: Any) -> str:
        slip = self.generator.random() < self.rate
        return json.dumps({"learning_rate": self.item.high if slip else self.item.default})


def run(agent: Any, task: str, seed: int, undo: str, options: dict[str, Any]) -> dict[str, Any]:
    """The report of one run."""
    live = Deployment(live_environment(agent, task, **options), agent, DeploymentOptions(undo=undo))
    for _ in live.run(seed):
        pass
    return live.report()


def compare(agent: Any, tasks: Any, seeds: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Meta-scores with and without undoing, by task, in the order of the seeds."""
    found: dict[str, Any] = {"tasks": {}}
    for task in tasks:
        arms = {undo: [run(agent, task, seed, undo, options) for seed in seeds] for undo in ("restore", "never")}
        row: dict[str, Any] = {undo: [round(report["meta_score"], 5) for report in arms[undo]] for undo in arms}
        row["difference"] = float(np.mean(row["restore"]) - np.mean(row["never"]))
        for name in ("roll_backs", "updates", "rolled_back_steps", "steps"):
            row[name] = int(sum(report[name] for report in arms["restore"]))
        row["judged"], row["harmful"] = (
            sum(report[name] for report in arms["never"]) for name in ("judged", "harmful")
        )
        found["tasks"][task] = row
    differences = [np.subtract(row["restore"], row["never"]) for row in found["tasks"].values()]
    found["difference"], found["interval"] = interval(differences)
    return found


def interval(differences: list[Any], draws: int = 10_000) -> tuple[float, list[float]]:
    """Mean over tasks of the mean difference, and its 95 % bootstrap interval."""
    generator = np.random.default_rng(0)
    means = np.zeros(draws)
    for row in differences:
        means += row[generator.integers(len(row), size=(draws, len(row)))].mean(axis=1) / len(differences)
    ends = np.quantile(means, [0.025, 0.975])
    return float(np.mean([row.mean() for row in differences])), [float(end) for end in ends]


def false_alarms(task: str, track: str, seeds: Any, options: dict[str, Any]) -> dict[str, int]:
    """How many segments of runs without updates are judged, and how many of them as if an update had done harm."""
    batch = EpisodeBatch(EnvOptions.parse({**options, "task": task, "track": track, "evaluation_episodes": 1}), seeds)
    batch.reset()
    monitors = [Monitor() for _ in seeds]
    keep = np.zeros(len(batch.setting.hyperparameters.hot), dtype=np.float32)
    counts, running = {"judged": 0, "harmful": 0}, True
    while running:
        step = batch.step([keep] * len(monitors))
        running = not all(a or b for a, b in zip(step.diverged, step.spent, strict=True))
        for i, monitor in enumerate(monitors):
            anchors = batch.setting.tasks[i].anchors
            features = batch.setting.schema.values(step.observations[i])
            judgement = monitor.judge_features(features, anchors.high - anchors.low, True, step.diverged[i])
            if not step.diverged[i]:
                counts["judged"] += judgement.verdict in JUDGED
                counts["harmful"] += judgement.harmful
                monitor.accept(judgement)
    return counts


def main(output: Path) -> None:
    found: dict[str, Any] = {"options": OPTIONS, "z": MonitorOptions().z, "seeds": [SEEDS[0], SEEDS[-1]]}
    found["false_alarms"] = {
        f"{task} {track}": false_alarms(task, track, QUIET_SEEDS, OPTIONS)
        for task in TASKS
        for track in ("default", "random")
    }
    judged, harmful = (sum(row[name] for row in found["false_alarms"].values()) for name in ("judged", "harmful"))
    print(f"false alarms: {harmful} of {judged}, {100 * harmful / judged:.1f} %")
    for agent, track in ((RandomUpdates(), "random"), (Reckless(), "random"), (Careless(), "default")):
        found[agent.name] = {"track": track, **compare(agent, TASKS, SEEDS, {**OPTIONS, "track": track})}
        low, high = found[agent.name]["interval"]
        print(f"{agent.name}: undoing is worth {found[agent.name]['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
