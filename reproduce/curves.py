"""Learning curves on the tasks that run in simulators, with the configuration of a tier.

    python -m reproduce.curves jobs nethack                        # a line for each run that the results are made of
    python -m reproduce.curves train nethack/score 0 --out runs    # one run, to a file of its own
    python -m reproduce.curves gather nethack runs                 # reproduce/nethack/curves.json, .png, and a table

A run is one seed of one task at one setting. Points are the mean returns of evaluation episodes (on levels that
training does not have, where the family keeps some), before training and then at equal distances. A run writes its file
again at every point, so that one that is stopped keeps what it has seen. It uses one thread, and one process more where
simulators run in processes.

A setting (:data:`SETTINGS`) is what differs from the task's hand-tuned values, or from the learner's defaults where it
has none, and from the tier's configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from hpbench import learners, tasks
from hpbench.learners import simulator_pool

HERE = Path(__file__).parent
NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Setting:
    """How a run differs from what its task comes with."""

    learner: str = "ppo"
    tier: str = "small"
    tuned: bool = True
    """Whether to start from the hand-tuned values, not from the learner's defaults."""
    values: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


_PLAIN_NETHACK = {"entropy_coefficient": 0.01, "update_epochs": 2, "minibatches": 4}
SETTINGS: Mapping[str, Setting] = {
    "ppo": Setting(),
    "ppo-defaults": Setting(tuned=False),
    "sac": Setting("sac"),
    "sac-defaults": Setting("sac", tuned=False),
    # NetHack: the defaults with fewer passes over each rollout; fast learning, long horizons, more exploration.
    "plain": Setting(tuned=False, values=_PLAIN_NETHACK),
    "fast": Setting(tuned=False, values={**_PLAIN_NETHACK, "learning_rate": 1e-3, "clip_range": 0.1}),
    "long": Setting(tuned=False, values={**_PLAIN_NETHACK, "discount": 0.999}),
    "normalised": Setting(tuned=False, values=_PLAIN_NETHACK, config={"normalize_reward": True}),
    "wide": Setting(
        tuned=False,
        values={**_PLAIN_NETHACK, "discount": 0.995, "minibatches": 8},
        config={"num_envs": 32, "num_steps": 64, "normalize_reward": True},
    ),
}
"""By name."""

EPISODES = {"mujoco": 8, "nethack": 16, "procgen": 32}
POINTS = {"mujoco": 20, "nethack": 6, "procgen": 12}
NETHACK_STEPS, PROCGEN_STEPS, PPO_STEPS, SAC_STEPS = 614_400, 737_280, 614_400, 51_200


def jobs(family: str) -> Iterator[tuple[str, int, str, int]]:
    """Runs: task, seed, setting, steps; the most important first."""
    if family == "nethack":
        for setting in ("plain", "wide", "fast", "long", "normalised", "ppo"):
            for name in ("staircase", "score"):
                for seed in range(3):
                    yield f"nethack/{name}", seed, setting, NETHACK_STEPS
    elif family == "procgen":
        for name in ("fruitbot", "coinrun", "starpilot"):
            for seed in range(3):
                yield f"procgen/{name}", seed, "ppo", PROCGEN_STEPS
    elif family == "mujoco":
        for setting in ("ppo-defaults", "ppo"):
            for name in tasks.task_ids("mujoco"):
                for seed in range(3):
                    yield name, seed, setting, PPO_STEPS
        for name in ("inverted-pendulum", "inverted-double-pendulum", "reacher", "swimmer", "hopper", "halfcheetah"):
            for seed in range(3):
                yield f"mujoco/{name}", seed, "sac-defaults", SAC_STEPS


def train(name: str, seed: int, setting_name: str, steps: int, folder: Path, seconds: float) -> None:
    """One run."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    simulator_pool._shared[:] = [simulator_pool.SimulatorPool(1)]
    task, setting = tasks.make(name), SETTINGS[setting_name]
    kind: Any = learners.make(setting.learner)
    tuned = task.hand_tuned.get(setting.learner) if setting.tuned else None
    values = {**(NOTHING if tuned is None else tuned.values), **setting.values}
    config = {**task.learner_config.get(setting.tier, NOTHING).get(setting.learner, NOTHING), **setting.config}
    population = kind(task, [seed], kind.config_type(**config), values=kind.hyperparameters.check(values))
    points, episodes = POINTS[task.family], EPISODES[task.family]
    rollouts = max(1, round(steps / points / population.steps_per_rollout))
    row: dict[str, Any] = {
        "task": task.id,
        "setting": setting_name,
        "learner": setting.learner,
        "tier": setting.tier,
        "values_from": "the learner's defaults" if tuned is None else tuned.source,
        "values": dict(setting.values),
        "config": dict(config),
        "seed": seed,
        "episodes": episodes,
        "curve": [],
    }
    training, path = 0.0, folder / f"{task.id.replace('/', '-')}.{setting_name}.{seed}.json"
    for point in range(points + 1):
        seen: dict[str, Any] = {}
        if point > 0:
            before = time.perf_counter()
            metrics = population.train(rollouts)
            training += time.perf_counter() - before
            seen = {name: _rounded(metrics[name][0]) for name in ("return_mean", "success_rate", "entropy")}
            row["steps_per_second"] = round(float(population.steps[0]) / training)
        returns = population.evaluate(episodes).returns[0]
        shown = {"steps": int(population.steps[0]), "return": _rounded(returns.mean()), **seen}
        shown["sem"] = _rounded(returns.std(ddof=1) / np.sqrt(episodes))
        if task.success_return is not None:
            shown["success"] = _rounded((returns >= task.success_return).mean())
        row["curve"].append(shown)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row) + "\n", "utf-8")
        os.replace(partial, path)
        if time.perf_counter() - start > seconds:
            break
    print(name, setting_name, seed, shown, f"{row.get('steps_per_second')} steps/s", flush=True)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def groups(rows: Sequence[Mapping[str, Any]]) -> Mapping[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by task and setting."""
    result: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        result.setdefault((row["task"], row["setting"]), []).append(row)
    return dict(sorted(result.items()))


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per task and setting: where its seeds stand at the last point that all have, and whether the 95 % interval
    of their mean (Student's t over seeds) is above the low anchor."""
    lines = ["| task | setting | seeds | steps | return [95 %] | low anchor | score | steps/s |", "|---|" + "---|" * 7]
    for (name, setting), runs in groups(rows).items():
        anchors, points = tasks.make(name).anchors, min(len(run["curve"]) for run in runs)
        last = [run["curve"][points - 1] for run in runs]
        ends = np.array([point["return"] for point in last])
        spread = stats.t.ppf(0.975, len(ends) - 1) * ends.std(ddof=1) / np.sqrt(len(ends)) if len(ends) > 1 else np.nan
        interval = f"{ends.mean():.2f} [{ends.mean() - spread:.2f}, {ends.mean() + spread:.2f}]"
        above = " above" if ends.mean() - spread > anchors.low else ""
        score = np.mean([anchors.score(end) for end in ends])
        speed = np.median([run.get("steps_per_second", np.nan) for run in runs])
        lines.append(
            f"| {name} | {setting} | {len(runs)} | {last[0]['steps']:,} | {interval}{above} | {anchors.low:g} | "
            f"{score:.3f} | {speed:.0f} |"
        )
    return lines


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel per task: the mean over seeds of each setting, every seed, and the low anchor."""
    from matplotlib.figure import Figure

    names = sorted({row["task"] for row in rows})
    columns = min(4, len(names))
    figure = Figure(figsize=(4.0 * columns, 3.0 * -(-len(names) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat
    settings = sorted({row["setting"] for row in rows})
    for axis, name in zip(axes, names, strict=False):
        for (task, setting), runs in groups(rows).items():
            if task != name:
                continue
            points, colour = min(len(run["curve"]) for run in runs), f"C{settings.index(setting)}"
            steps = [point["steps"] for point in runs[0]["curve"][:points]]
            returns = np.array([[point["return"] for point in run["curve"][:points]] for run in runs])
            axis.plot(steps, returns.T, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, returns.mean(axis=0), color=colour, label=f"{setting}, {len(runs)} seeds")
        axis.axhline(tasks.make(name).anchors.low, color="grey", linestyle=":", label="low anchor")
        axis.set(title=name, xlabel="environment steps", ylabel="evaluation return")
        axis.legend(fontsize=7)
    for axis in list(axes):
        axis.remove()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def gather(family: str, folder: Path, settings: Sequence[str]) -> None:
    """All runs of a family in one file, one a line, and their figure and table."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{family}-*.json"))]
    rows = [row for row in rows if not settings or row["setting"] in settings]
    out = HERE / family
    out.mkdir(exist_ok=True)
    (out / "curves.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", "utf-8")
    plot(rows, out / "curves.png")
    print("\n".join(table(rows)))


def main() -> None:
    """List the runs, do one, or gather what is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("jobs")
    listed.add_argument("family", choices=EPISODES)
    run = commands.add_parser("train")
    run.add_argument("task")
    run.add_argument("seed", type=int)
    run.add_argument("setting", choices=SETTINGS)
    run.add_argument("steps", type=int)
    run.add_argument("--out", type=Path, default=Path("runs"))
    run.add_argument("--seconds", type=float, default=float("inf"), help="begin no point after this time")
    gathered = commands.add_parser("gather")
    gathered.add_argument("family", choices=EPISODES)
    gathered.add_argument("folder", type=Path)
    gathered.add_argument("--settings", nargs="*", default=[], choices=SETTINGS, help="only these")
    options = parser.parse_args()
    if options.command == "jobs":
        for job in jobs(options.family):
            print(*job)
    elif options.command == "train":
        options.out.mkdir(parents=True, exist_ok=True)
        train(options.task, options.seed, options.setting, options.steps, options.out, options.seconds)
    else:
        gather(options.family, options.folder, options.settings)


if __name__ == "__main__":
    main()
