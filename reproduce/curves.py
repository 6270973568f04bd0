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


_NETHACK = {"entropy_coefficient": 0.01, "update_epochs": 2, "minibatches": 4}
_SHORT = {"num_envs": 8, "num_steps": 64, "normalize_reward": False}
_WIDE = {"num_envs": 32, "num_steps": 64, "normalize_reward": True}
_LARGE = {"num_envs": 32, "num_steps": 256, "normalize_reward": True}
SETTINGS: Mapping[str, Setting] = {
    "ppo": Setting(),
    "ppo-defaults": Setting(tuned=False),
    "sac": Setting("sac"),
    "sac-defaults": Setting("sac", tuned=False),
    # NetHack, each with fewer passes over a rollout and more entropy than the defaults: rollouts of 512 steps; the same
    # with larger steps; of 2,048 steps; the same with five times the entropy; and of 8,192 steps.
    "plain": Setting(tuned=False, values=_NETHACK, config=_SHORT),
    "fast": Setting(tuned=False, values={**_NETHACK, "learning_rate": 1e-3, "clip_range": 0.1}, config=_SHORT),
    "wide": Setting(tuned=False, values={**_NETHACK, "discount": 0.995, "minibatches": 8}, config=_WIDE),
    "explore": Setting(
        tuned=False,
        values={**_NETHACK, "discount": 0.995, "minibatches": 8, "entropy_coefficient": 0.05},
        config=_WIDE,
    ),
    "large": Setting(
        tuned=False,
        values={**_NETHACK, "discount": 0.995, "minibatches": 16, "entropy_coefficient": 0.03},
        config=_LARGE,
    ),
}
"""By name."""

TRAINING = ("episodes", "return_mean", "return_sem", "success_rate", "entropy")
"""What is kept of the metrics of training."""
EPISODES = {"mujoco": 8, "nethack": 16, "procgen": 128}


def jobs(family: str) -> Iterator[str]:
    """The runs of a family, as arguments of ``train``."""
    if family == "nethack":
        for setting in ("plain", "fast"):
            for name in ("staircase", "score"):
                yield from (f"nethack/{name} {seed} {setting} 614400 --points 6" for seed in range(3))
        yield from (f"nethack/staircase {seed} wide 614400 --points 6" for seed in range(3))
        yield from (f"nethack/score {seed} wide 3072000 --points 15" for seed in range(3))
        yield from (f"nethack/staircase {seed} large 3072000 --points 15" for seed in range(3))
        yield "nethack/staircase 0 ppo-defaults 163840 --points 8"
        yield "nethack/staircase 0 explore 307200 --points 6"
        yield from (f"nethack/scout {seed} ppo-defaults 122880 --points 6" for seed in range(3))
        yield "nethack/gold 0 ppo-defaults 122880 --points 6"
    elif family == "procgen":
        for name in ("coinrun", "fruitbot", "starpilot"):
            yield from (f"procgen/{name} {seed} ppo 491520 --points 6" for seed in range(3))
    elif family == "mujoco":
        yield from (f"{task} 0,1,2 ppo-defaults 102400 --points 10" for task in tasks.task_ids("mujoco"))
        yield "mujoco/inverted-pendulum 0,1,2 sac-defaults 12288 --points 8"


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


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval (Student's t) over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.2f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per task and setting, at the last point that all its seeds have: evaluation episodes there, and episodes
    of training since the third point before it (their mean per seed)."""
    lines = ["| task | setting | seeds | steps | evaluation | training | low anchor | steps/s |", "|---|" + "---|" * 7]
    for (name, setting), runs in groups(rows).items():
        points = min(len(run["curve"]) for run in runs)
        ends = [run["curve"][points - 1]["return"] for run in runs]
        seen = [
            [point["training_return_mean"] for point in run["curve"][max(1, points - 3) : points]]
            for run in runs
            if run["curve"][points - 1].get("training_return_mean") is not None
        ]
        training = interval([float(np.mean(each)) for each in seen]) if len(seen) == len(runs) else ""
        speed = np.median([run["steps_per_second"] or np.nan for run in runs])
        steps = runs[0]["curve"][points - 1]["steps"]
        anchor = tasks.make(name).anchors.low
        cells = [name, setting, len(runs), f"{steps:,}", interval(ends), training, f"{anchor:g}", f"{speed:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel per task: the mean over seeds of each setting, every seed, and the low anchor."""
    from matplotlib.figure import Figure

    names = sorted({row["task"] for row in rows})
    columns = min(4, len(names))
    figure = Figure(figsize=(4.0 * columns, 3.0 * -(-len(names) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat
    settings = sorted({row["setting"] for row in rows})
    for name, axis in zip(names, axes, strict=False):
        for (task, setting), runs in groups(rows).items():
            if task != name:
                continue
            points, colour = min(len(run["curve"]) for run in runs), f"C{settings.index(setting)}"
            steps = [point["steps"] / 1000 for point in runs[0]["curve"][:points]]
            returns = np.array([[point["return"] for point in run["curve"][:points]] for run in runs])
            axis.plot(steps, returns.T, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, returns.mean(axis=0), color=colour, label=f"{setting}, {len(runs)} seeds")
        axis.axhline(tasks.make(name).anchors.low, color="grey", linestyle=":", label="low anchor")
        axis.set(title=name, xlabel="thousand environment steps", ylabel="evaluation return")
        axis.legend(fontsize=7)
    for axis in axes:  # those that are left
        axis.remove()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def gather(family: str, folder: Path, settings: Sequence[str]) -> None:
    """All runs of a family in one file, one a line, and their figure and table."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{family}-*.json"))]
    rows = [row for row in rows if len(row["curve"]) > 1 and (not settings or row["setting"] in settings)]
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
        print(*jobs(options.family), sep="\n")
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
