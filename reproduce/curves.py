"""Learning curves on the tasks that run in simulators, with the configuration of a tier.

    python -m reproduce.curves jobs nethack                        # a line for each run that the results are made of
    python -m reproduce.curves train nethack/score 0 plain 614400 --out runs      # one run, to a file of its own
    python -m reproduce.curves gather nethack runs                 # reproduce/nethack/curves.json, .png, and a table

A run is one seed of one task at one setting. Points are the mean returns of evaluation episodes (on levels that
training does not have, where the family keeps some), before training and then at equal distances. A run writes its file
again at every point, so that one that is stopped keeps what it has seen. It uses one thread, and ``--processes`` more
where simulators run in processes.

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
    # Procgen: a shorter horizon, with more and larger steps, or without normalised rewards.
    "short": Setting(values={"discount": 0.99}),
    "short-fast": Setting(values={"discount": 0.99, "learning_rate": 1e-3, "minibatches": 16}),
    "short-raw": Setting(values={"discount": 0.99, "minibatches": 16}, config={"normalize_reward": False}),
    "explore": Setting(
        tuned=False,
        values={**_PLAIN_NETHACK, "discount": 0.995, "minibatches": 8, "entropy_coefficient": 0.05},
        config={"num_envs": 32, "num_steps": 64, "normalize_reward": True},
    ),
    "large": Setting(
        tuned=False,
        values={**_PLAIN_NETHACK, "discount": 0.995, "minibatches": 16, "entropy_coefficient": 0.03},
        config={"num_envs": 32, "num_steps": 256, "normalize_reward": True},
    ),
    "raw": Setting(
        tuned=False,
        values={**_PLAIN_NETHACK, "discount": 0.995, "minibatches": 16, "entropy_coefficient": 0.003},
        config={"num_envs": 32, "num_steps": 256},
    ),
    "large-fast": Setting(
        tuned=False,
        values={
            **_PLAIN_NETHACK, "discount": 0.995, "minibatches": 16, "entropy_coefficient": 0.03, "learning_rate": 1e-3,
        },
        config={"num_envs": 32, "num_steps": 256, "normalize_reward": True},
    ),
}  # fmt: skip
"""By name."""

TRAINING = ("episodes", "return_mean", "return_sem", "success_rate", "entropy")
"""What is kept of the metrics of training."""
EPISODES = {"mujoco": 8, "nethack": 16, "procgen": 32}
NETHACK_STEPS, PROCGEN_STEPS, PPO_STEPS, SAC_STEPS = 614_400, 737_280, 614_400, 51_200


def jobs(family: str) -> Iterator[tuple[str, int, str, int]]:
    """Runs: task, seed, setting, steps; the most important first."""
    if family == "nethack":
        for setting in ("plain", "wide", "fast", "long", "normalised", "ppo"):
            for name in ("staircase", "score"):
                for seed in range(3):
                    yield f"nethack/{name}", seed, setting, NETHACK_STEPS
    elif family == "procgen":
        for setting in ("ppo", "short", "short-fast", "short-raw"):
            for seed in range(2):
                yield "procgen/fruitbot", seed, setting, PROCGEN_STEPS
        for name in ("coinrun", "starpilot"):
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


def train(
    name: str,
    seeds: Sequence[int],
    setting_name: str,
    steps: int,
    folder: Path,
    seconds: float = float("inf"),
    device: str = "cpu",
    processes: int = 1,
    points: int = 12,
) -> None:
    """Runs of one task, as one population with a member per seed. Each has a file of its own."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    simulator_pool._shared[:] = [simulator_pool.SimulatorPool(processes)]
    task, setting = tasks.make(name), SETTINGS[setting_name]
    kind: Any = learners.make(setting.learner)
    tuned = task.hand_tuned.get(setting.learner) if setting.tuned else None
    values = {**(NOTHING if tuned is None else tuned.values), **setting.values}
    config = {**task.learner_config.get(setting.tier, NOTHING).get(setting.learner, NOTHING), **setting.config}
    values = kind.hyperparameters.check(values)
    population = kind(task, list(seeds), kind.config_type(**config), values=values, device=device)
    episodes = EPISODES[task.family]
    rollouts = max(1, round(steps / points / population.steps_per_rollout))
    curves: list[list[dict[str, Any]]] = [[] for _ in seeds]
    training = 0.0
    for point in range(points + 1):
        metrics: Mapping[str, Any] = NOTHING
        if point > 0:
            before = time.perf_counter()
            metrics = population.train(rollouts)
            training += time.perf_counter() - before
        returns = population.evaluate(episodes).returns
        for m, seed in enumerate(seeds):
            shown = {"steps": int(population.steps[m]), "return": _rounded(returns[m].mean())}
            shown["sem"] = _rounded(returns[m].std(ddof=1) / np.sqrt(episodes))
            if task.success_return is not None:
                shown["success"] = _rounded((returns[m] >= task.success_return).mean())
            # Of the episodes of training that ended since the point before.
            shown |= {f"training_{each}": _rounded(metrics[each][m]) for each in TRAINING if each in metrics}
            curves[m].append(shown)
            row = {
                "task": task.id,
                "setting": setting_name,
                "learner": setting.learner,
                "tier": setting.tier,
                "values_from": "the learner's defaults" if tuned is None else tuned.source,
                "values": dict(setting.values),
                "config": dict(config),
                "device": device,
                "seed": seed,
                "episodes": episodes,
                "steps_per_second": round(float(np.sum(population.steps)) / training) if point > 0 else None,
                "curve": curves[m],
            }
            path = folder / f"{task.id.replace('/', '-')}.{setting_name}.{seed}.json"
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(row) + "\n", "utf-8")
            os.replace(partial, path)
        if time.perf_counter() - start > seconds:
            break
    print(name, setting_name, shown, f"{row['steps_per_second']} steps/s of {len(seeds)}", flush=True)


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
        speed = np.median([run["steps_per_second"] or np.nan for run in runs])
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
    run.add_argument("seeds", help="with commas: members of one population")
    run.add_argument("setting", choices=SETTINGS)
    run.add_argument("steps", type=int)
    run.add_argument("--out", type=Path, default=Path("runs"))
    run.add_argument("--seconds", type=float, default=float("inf"), help="begin no point after this time")
    run.add_argument("--device", default="cpu")
    run.add_argument("--processes", type=int, default=1, help="for simulators that run in processes")
    run.add_argument("--points", type=int, default=12)
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
        given = (
            options.setting,
            options.steps,
            options.out,
            options.seconds,
            options.device,
            options.processes,
            options.points,
        )
        train(options.task, [int(seed) for seed in options.seeds.split(",")], *given)
    else:
        gather(options.family, options.folder, options.settings)


if __name__ == "__main__":
    main()
