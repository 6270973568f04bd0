"""Do our learners learn as well as Stable-Baselines3's with the same settings?

    python benchmarks/learning_parity.py                     # everything; Stable-Baselines3 takes most of an hour
    python benchmarks/learning_parity.py --subjects native   # ours again, against the curves already on disk
    python benchmarks/learning_parity.py --quick             # tiny sizes, to see that it works

PPO on CartPole, Acrobot and Pendulum, DQN on CartPole and Acrobot, SAC on Pendulum and MountainCarContinuous, 10 seeds
each. Both sides get the same network, loss, optimiser and numbers (see subjects.py). At 10 to 20 checkpoints the policy
plays fresh episodes, in the same way on both sides (PPO's stochastic, DQN's and SAC's most likely actions). The curves
of every seed are kept in results/curves, so an interrupted run continues and a second one only computes what is
missing.

Compared are the area under the curve (mean over checkpoints) and the final return (mean of the last three
checkpoints): Welch's test, and a bootstrap interval of the difference of the means over seeds. Also counted is how
many seeds solve CartPole (a mean return above 475 at a checkpoint) at the library defaults.

Needs the extra ``sb3``: pip install "hpbench[sb3]"
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, Grid, machine, write_results
from numpy.typing import NDArray
from scipy import stats
from subjects import Ours, Setting, make_peer

from hpbench import tasks

SB3, NATIVE, TORCH = SUBJECTS = ("sb3", "native", "torch")
LABELS = {SB3: "Stable-Baselines3", NATIVE: "hpbench, native engine", TORCH: "hpbench, torch engine"}
COLOURS = {SB3: "#7f7f7f", NATIVE: "#1f77b4", TORCH: "#d95f02"}
SOLVED = 475.0
LAST = 3
"""Checkpoints that the final return is averaged over."""


@dataclass(frozen=True)
class Problem:
    """One comparison. ``values`` are the hyperparameters that differ from the library defaults."""

    name: str
    task: str
    num_envs: int
    num_steps: int
    rollouts: int
    every: int
    """Rollouts between two checkpoints."""
    episodes: int = 30
    values: Mapping[str, float] = field(default_factory=dict)
    learner: str = "ppo"
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> NDArray[np.int64]:
        """Environment steps at the checkpoints."""
        return np.arange(self.every, self.rollouts + 1, self.every) * self.num_envs * self.num_steps

    @property
    def setting(self) -> Setting:
        """What both sides are built from."""
        return Setting(self.task, self.num_envs, self.num_steps, self.values, self.learner, self.config)


_DQN = {"batch_size": 64, "train_frequency": 4, "tau": 0.01, "epsilon": 0.1, "discount": 0.99}
_PLAIN = {"double": False}
"""Stable-Baselines3's DQN has no double Q-learning."""
_RATES = {f"{part}_learning_rate": 1e-3 for part in ("actor", "critic", "temperature")}
_SAC = {**_RATES, "batch_size": 256, "tau": 0.005, "discount": 0.99, "updates_per_step": 1.0}

PROBLEMS = (
    Problem("cartpole", "classic/cartpole", 8, 64, rollouts=195, every=13),
    Problem("acrobot", "classic/acrobot", 8, 64, rollouts=195, every=13),
    # The library defaults learn next to nothing here in this budget, on either side. Discount 0.9, 1e-3 and 10 epochs
    # of 64 are RL Baselines3 Zoo's values for Pendulum (there with state-dependent exploration, which ours has not).
    Problem(
        "pendulum",
        "classic/pendulum",
        4,
        256,
        rollouts=100,
        every=5,
        values={"learning_rate": 1e-3, "discount": 0.9, "update_epochs": 10, "minibatches": 16},
    ),
    Problem("dqn-cartpole", "classic/cartpole", 1, 512, 100, 10, 20, {**_DQN, "learning_rate": 1e-3}, "dqn", _PLAIN),
    Problem("dqn-acrobot", "classic/acrobot", 1, 512, 100, 10, 20, {**_DQN, "learning_rate": 6.3e-4}, "dqn", _PLAIN),
    Problem("sac-pendulum", "classic/pendulum", 1, 512, 40, 4, 20, _SAC, "sac"),
    Problem("sac-mountaincar-continuous", "classic/mountaincar-continuous", 1, 512, 60, 6, 20, _SAC, "sac"),
)


def curves_of(
    subject: str, problem: Problem, seeds: Sequence[int], processes: int
) -> Iterator[tuple[int, list[float]]]:
    """Mean evaluation return at every checkpoint, seed by seed as they are done."""
    if subject == SB3:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
            for done in as_completed([pool.submit(_peer_curve, problem, seed) for seed in seeds]):
                yield done.result()
    else:
        _one_thread()
        yield from zip(seeds, _our_curves(problem, seeds, subject), strict=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _peer_curve(problem: Problem, seed: int) -> tuple[int, list[float]]:
    peer, curve = make_peer(problem.setting, seed), []
    for _ in problem.steps:
        peer.train(problem.every)
        curve.append(float(peer.evaluate(problem.episodes).mean()))
    return seed, curve


def _our_curves(problem: Problem, seeds: Sequence[int], engine: str) -> list[list[float]]:
    ours, columns = Ours(problem.setting, seeds, engine), []
    for _ in problem.steps:
        ours.train(problem.every)
        columns.append(ours.evaluate(problem.episodes).mean(axis=1))
    curves: list[list[float]] = np.stack(columns, axis=1).tolist()
    return curves


class Curves:
    """The curves of one subject on one problem, kept in a file; those made with other settings are dropped."""

    def __init__(self, folder: Path, subject: str, problem: Problem) -> None:
        self._path = folder / f"{problem.name}-{subject}.json"
        self._setting: dict[str, Any] = json.loads(
            json.dumps({**asdict(problem), "values": problem.setting.all_values()})
        )
        self.by_seed = self._stored()

    def _stored(self) -> dict[int, list[float]]:
        if not self._path.exists():
            return {}
        stored = json.loads(self._path.read_text(encoding="utf-8"))
        return {int(seed): curve for seed, curve in stored["curves"].items() if stored["setting"] == self._setting}

    def add(self, seed: int, curve: Sequence[float]) -> None:
        """Keep one curve, beside those that another run has added meanwhile.

        The file is replaced as a whole, so a killed run leaves no half of one.
        """
        self.by_seed = {**self._stored(), **self.by_seed, seed: [round(value, 3) for value in curve]}
        curves = dict(sorted(self.by_seed.items()))
        document = {"setting": self._setting, "machine": machine(), "curves": curves}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = self._path.with_suffix(".partial")
        partial_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(partial_path, self._path)

    def table(self, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Curves ``[seeds, checkpoints]``."""
        return np.array([self.by_seed[seed] for seed in seeds])


def compare(ours: NDArray[np.float64], peer: NDArray[np.float64], span: float) -> dict[str, float]:
    """Ours minus the peer's, per seed summary ``[seeds]``.

    Returns:
        Means, Welch's two-sided p-value, the 95 % bootstrap interval (BCa) of the difference of means, and both ends
        of that interval as a share of the task's anchor range ``span``.
    """
    p_value = float(stats.ttest_ind(ours, peer, equal_var=False).pvalue)
    interval = stats.bootstrap(
        (ours, peer),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {
        "ours": float(ours.mean()),
        "sb3": float(peer.mean()),
        "difference": float(ours.mean() - peer.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "low_share": float(interval.low) / span,
        "high_share": float(interval.high) / span,
        "welch_p": p_value,
    }


def summaries(curves: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """What is compared, ``[seeds]`` each."""
    return {"area": curves.mean(axis=1), "final": curves[:, -LAST:].mean(axis=1)}


def analyse(problem: Problem, tables: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Every engine of ours against the peer."""
    anchors = tasks.make(problem.task).anchors
    rows: list[dict[str, Any]] = []
    for subject in (name for name in tables if name != SB3):
        ours, peer = summaries(tables[subject]), summaries(tables[SB3])
        for measure in ours:
            result = compare(ours[measure], peer[measure], anchors.high - anchors.low)
            verdict = "worse" if result["high"] < 0.0 else "better" if result["low"] > 0.0 else "no difference"
            rows.append({"problem": problem.name, "subject": subject, "measure": measure, **result, "verdict": verdict})
    return rows


def solved(curves: NDArray[np.float64]) -> int:
    """Seeds with a checkpoint above the solving return."""
    return int((curves.max(axis=1) > SOLVED).sum())


def draw(path: Path, problems: Sequence[Problem], tables: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """Learning curves: mean over seeds with its 95 % bootstrap band, one panel per problem, as SVG and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "hpbench"
    from matplotlib import pyplot

    columns = min(4, len(problems))
    lines = -(-len(problems) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(problems) :]:
        axis.remove()
    for axis, problem in zip(axes.flat, problems, strict=False):
        for subject, curves in tables[problem.name].items():
            interval = stats.bootstrap(
                (curves,), np.mean, axis=0, n_resamples=2_000, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
            axis.plot(problem.steps, curves.mean(axis=0), label=LABELS[subject], color=COLOURS[subject])
            axis.fill_between(
                problem.steps, interval.low, interval.high, color=COLOURS[subject], alpha=0.2, linewidth=0
            )
        axis.set(title=problem.name, xlabel="environment steps", ylabel="mean evaluation return")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / "learning_parity.svg", metadata={"Date": None})
    figure.savefig(path / "learning_parity.png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def report(folder: Path, problems: Sequence[Problem], tables: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """Numbers, tables and figure."""
    rows = [
        row for problem in problems if SB3 in tables[problem.name] for row in analyse(problem, tables[problem.name])
    ]
    columns = (
        "problem",
        "engine",
        "measure",
        "ours",
        "SB3",
        "difference [95 %]",
        "share of anchor range",
        "Welch p",
        "verdict",
    )
    body = [
        [
            row["problem"], row["subject"], row["measure"], f"{row['ours']:.1f}", f"{row['sb3']:.1f}",
            f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]",
            f"[{row['low_share']:+.3f}, {row['high_share']:+.3f}]", f"{row['welch_p']:.3f}", row["verdict"],
        ]
        for row in rows
    ]  # fmt: skip
    grids = [Grid("Ours minus Stable-Baselines3", columns, body)]
    data: dict[str, Any] = {"comparisons": rows}
    if "cartpole" in tables:
        counts = {subject: [solved(curves), len(curves)] for subject, curves in tables["cartpole"].items()}
        data["cartpole_solved"] = counts
        lines = [[LABELS[subject], f"{count} of {total}"] for subject, (count, total) in counts.items()]
        title = f"CartPole at the library defaults: seeds with a mean return above {SOLVED:g} within 100,000 steps"
        grids.append(Grid(title, ("subject", "seeds"), lines))
    data["curves"] = {
        problem.name: {
            "setting": asdict(problem),
            "steps": problem.steps.tolist(),
            **{subject: curves.tolist() for subject, curves in tables[problem.name].items()},
        }
        for problem in problems
    }
    notes = (
        "Mean return of 20 or 30 fresh episodes at every checkpoint, with the same settings and the same number of "
        f"seeds on both sides. `area`: mean over checkpoints. `final`: mean of the last {LAST}. "
        "`worse` or `better` where the interval excludes 0. Each file in `curves/` names the machine and the versions "
        "that it was computed with. On MountainCarContinuous neither side finds the goal in this budget: plain SAC "
        "needs more exploration there, and both learn to stand still.\n\n"
        "![Learning curves](learning_parity.svg)"
    )
    write_results(folder, "learning_parity", "python benchmarks/learning_parity.py", data, grids, notes)
    draw(folder, problems, tables)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--seeds", type=int, default=10, help="seeds per subject (default 10)")
    parser.add_argument("--problems", nargs="+", default=[p.name for p in PROBLEMS], choices=[p.name for p in PROBLEMS])
    parser.add_argument(
        "--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS, help="whose curves to compute"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes for Stable-Baselines3 (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results and the curves")
    options = parser.parse_args()
    problems = [problem for problem in PROBLEMS if problem.name in options.problems]
    if options.quick:
        problems = [replace(p, num_steps=16, rollouts=6, every=2, episodes=2) for p in problems]
        options.seeds = min(options.seeds, 3)
    seeds = range(options.seeds)
    tables: dict[str, dict[str, NDArray[np.float64]]] = {}
    for problem in problems:
        stores = {subject: Curves(options.out / "curves", subject, problem) for subject in SUBJECTS}
        for subject in options.subjects:
            missing = [seed for seed in seeds if seed not in stores[subject].by_seed]
            if not missing:
                continue
            for seed, curve in curves_of(subject, problem, missing, options.processes):
                stores[subject].add(seed, curve)
                print(f"{problem.name}: {LABELS[subject]}, seed {seed}: final return {curve[-1]:.1f}", flush=True)
        complete = {name: store for name, store in stores.items() if all(seed in store.by_seed for seed in seeds)}
        tables[problem.name] = {name: store.table(seeds) for name, store in complete.items()}
    report(options.out, problems, tables)


if __name__ == "__main__":
    main()
