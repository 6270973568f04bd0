"""PPO and SAC on MuJoCo beside Stable-Baselines3: equal hyperparameters, equal steps, the same evaluation.

    python -m reproduce.mujoco.parity jobs                                 # a line for each run: 60 processes
    python -m reproduce.mujoco.parity train halfcheetah ppo ours 0 --out runs
    python -m reproduce.mujoco.parity report runs                          # parity.json, parity.png, and the tables

Both sides get the same networks, losses, optimiser and numbers (:data:`SETTINGS`). After equal numbers of steps each
side's policy plays ``EPISODES`` episodes of Gymnasium's environment in :func:`evaluate`, from the same seeds: PPO
samples, SAC plays its most likely actions. A run that its time limit stops keeps the points it has; compared are the
points that all runs of a problem have. ``area`` is the mean over those points, ``final`` the mean of the last three.

Not equal: Stable-Baselines3 updates the moments of observations and rewards at every step, we do once per rollout; our
smallest entropy coefficient is 1e-5, which both sides use.

Needs the extras ``mujoco`` and ``sb3``: pip install "hpbench[mujoco,sb3]"
"""

from __future__ import annotations

import argparse
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from hpbench import learners, tasks
from hpbench.tasks.mujoco import ENVIRONMENTS

HERE = Path(__file__).parent
EPISODES = 10
LAST = 3
"""Points that the final return is averaged over."""
SEEDS = {"halfcheetah": range(10), "hopper": range(5)}
"""HalfCheetah has twice as many: its returns differ most between seeds."""
SIDES = ("ours", "sb3")
LABELS = {"ours": "hpbench", "sb3": "Stable-Baselines3"}
COLOURS = {"ours": "#1f77b4", "sb3": "#7f7f7f"}
TASKS = ("halfcheetah", "hopper")

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A policy: observations ``[episodes, size]`` to actions ``[episodes, width]``."""


@dataclass(frozen=True)
class Setting:
    """What both sides are built from, and how long they train."""

    num_envs: int
    num_steps: int
    values: Mapping[str, float]
    config: Mapping[str, Any]
    every: int
    """Steps between two points."""
    points: int


_RATES = {f"{part}_learning_rate": 3e-4 for part in ("actor", "critic", "temperature")}
SETTINGS = {
    "ppo": Setting(
        num_envs=8,
        num_steps=256,
        values={
            "learning_rate": 3e-4, "entropy_coefficient": 1e-5, "value_coefficient": 0.5, "clip_range": 0.2,
            "discount": 0.99, "gae_lambda": 0.95, "max_gradient_norm": 0.5, "update_epochs": 10, "minibatches": 32,
        },
        config={"hidden": [64, 64], "normalize_observation": True, "normalize_reward": True},
        every=20_480,
        points=15,
    ),
    "sac": Setting(
        num_envs=1,
        num_steps=500,
        values={
            **_RATES, "tau": 0.005, "discount": 0.99, "target_entropy": 0.5, "batch_size": 256, "updates_per_step": 1.0,
        },
        config={"hidden": [256, 256], "buffer_size": 100_000, "learning_starts": 1_000},
        every=2_500,
        points=40,
    ),
}  # fmt: skip
"""Stable-Baselines3's defaults, with running normalisation for PPO as RL Baselines3 Zoo has on MuJoCo, and a warm-up
of 1,000 steps for SAC, so that learning shows in the time there is."""


class Side(ABC):
    """A learner in training."""

    @abstractmethod
    def train(self, steps: int) -> None:
        """Train for that many more steps, a whole number of rollouts."""

    @abstractmethod
    def act(self) -> Act:
        """Its policy as it is now, as it is evaluated."""


class Ours(Side):
    """A population of one."""

    def __init__(self, task: str, learner: str, seed: int) -> None:
        setting, kind = SETTINGS[learner], learners.make(learner)
        make: Any = kind
        config = make.config_type(num_envs=setting.num_envs, num_steps=setting.num_steps, **setting.config)
        values = kind.hyperparameters.check(setting.values)
        self.population: Any = make(tasks.make(f"mujoco/{task}"), [seed], config, values)
        self.draws = torch.Generator().manual_seed(seed)

    def train(self, steps: int) -> None:
        self.population.train(steps // self.population.steps_per_rollout)

    def act(self) -> Act:
        policy, width, task = self.population._policy(), self.population.evaluation_draws, self.population.tasks[0]

        def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
            draws = torch.rand(1, len(observation), width, generator=self.draws, dtype=torch.float64).float()
            with torch.no_grad():
                action = policy(torch.from_numpy(observation)[None], draws)[0]
            clipped: NDArray[np.float32] = action.clamp(task.action_low, task.action_high).numpy()
            return clipped

        return act


class StableBaselines(Side):
    """Theirs, on a ``DummyVecEnv``."""

    def __init__(self, task: str, learner: str, seed: int) -> None:
        from stable_baselines3 import PPO, SAC
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        setting = SETTINGS[learner]
        values, config = setting.values, setting.config
        vector: Any = DummyVecEnv
        environments = vector([lambda: gym.make(ENVIRONMENTS[task], disable_env_checker=True)] * setting.num_envs)
        self.normalised: Any = None
        if learner == "ppo":
            self.normalised = environments = VecNormalize(environments, gamma=values["discount"])
            self.model: Any = PPO(
                "MlpPolicy", environments, learning_rate=values["learning_rate"], n_steps=setting.num_steps,
                batch_size=setting.num_envs * setting.num_steps // int(values["minibatches"]),
                n_epochs=int(values["update_epochs"]), gamma=values["discount"], gae_lambda=values["gae_lambda"],
                clip_range=values["clip_range"], ent_coef=values["entropy_coefficient"],
                vf_coef=values["value_coefficient"], max_grad_norm=values["max_gradient_norm"],
                policy_kwargs={"net_arch": list(config["hidden"]), "optimizer_kwargs": {"eps": 1e-5}},
                seed=seed, device="cpu",
            )  # fmt: skip
        else:
            self.model = SAC(
                "MlpPolicy", environments, learning_rate=values["actor_learning_rate"],
                buffer_size=config["buffer_size"], learning_starts=config["learning_starts"],
                batch_size=int(values["batch_size"]), tau=values["tau"], gamma=values["discount"],
                policy_kwargs={"net_arch": list(config["hidden"])}, seed=seed, device="cpu",
            )  # fmt: skip

    def train(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=False, log_interval=None)

    def act(self) -> Act:
        def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
            shown = observation if self.normalised is None else self.normalised.normalize_obs(observation)
            actions: NDArray[np.float32] = self.model.predict(shown, deterministic=self.normalised is None)[0]
            return actions

        return act


def evaluate(task: str, act: Act, first_seed: int) -> NDArray[np.float64]:
    """Returns ``[EPISODES]`` of one episode from each of the seeds from ``first_seed`` on."""
    copies = [gym.make(ENVIRONMENTS[task], disable_env_checker=True) for _ in range(EPISODES)]
    returns = np.zeros(EPISODES)
    shown = [copy.reset(seed=first_seed + i)[0] for i, copy in enumerate(copies)]
    playing = list(range(EPISODES))
    while playing:
        actions = act(np.stack([shown[i] for i in playing]).astype(np.float32))
        for i, action in zip(list(playing), actions, strict=True):
            shown[i], reward, terminated, truncated, _ = copies[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                playing.remove(i)
    for copy in copies:
        copy.close()
    return returns


def train(task: str, learner: str, side: str, seed: int, folder: Path, seconds: float, points: int) -> None:
    """One run, whose file is written again at every point."""
    import mujoco

    mujoco.set_mju_user_warning(lambda _: None)  # of words in Gymnasium's models that are out of date
    torch.set_num_threads(1)
    start, setting = time.perf_counter(), SETTINGS[learner]
    kind = Ours if side == "ours" else StableBaselines
    subject: Side = kind(task, learner, seed)
    row: dict[str, Any] = {"task": task, "learner": learner, "side": side, "seed": seed, "curve": []}
    training, path = 0.0, folder / f"{task}-{learner}-{side}-{seed}.json"
    for point in range(min(points, setting.points) + 1):
        if point > 0:
            before = time.perf_counter()
            subject.train(setting.every)
            training += time.perf_counter() - before
        mean = float(evaluate(task, subject.act(), 1_000_000 + 1_000 * seed).mean())
        row["curve"].append(round(mean, 2))
        row["steps_per_second"] = round(point * setting.every / training) if point > 0 else None
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row) + "\n", "utf-8")
        os.replace(partial, path)
        if time.perf_counter() - start > seconds:
            break
    print(task, learner, side, seed, len(row["curve"]) - 1, "points, last", row["curve"][-1], flush=True)


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    """Ours minus theirs, over seeds ``[seeds]``: means, 95 % interval of the difference (Welch), and the p-value."""
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    return {
        "ours": round(float(ours.mean()), 1),
        "sb3": round(float(theirs.mean()), 1),
        "difference": round(float(ours.mean() - theirs.mean()), 1),
        "interval": [round(low, 1), round(high, 1)],
        "welch_p": round(float(test.pvalue), 4),
        "verdict": "worse" if high < 0.0 else "better" if low > 0.0 else "no difference found",
    }


def report(folder: Path, out: Path) -> None:
    """Compare what the folder has, and write ``parity.json`` and ``parity.png``."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    problems = []
    for task, learner in ((task, learner) for learner in SETTINGS for task in TASKS):
        of = {
            side: [r for r in rows if (r["task"], r["learner"], r["side"]) == (task, learner, side)] for side in SIDES
        }
        if not all(len(of[side]) > 1 for side in SIDES):
            continue
        points = min(len(row["curve"]) for side in SIDES for row in of[side])
        curves = {side: np.array([row["curve"][:points] for row in of[side]]) for side in SIDES}
        problem: dict[str, Any] = {
            "task": task,
            "learner": learner,
            "seeds": {side: [row["seed"] for row in of[side]] for side in SIDES},
            "steps": [point * SETTINGS[learner].every for point in range(points)],
            "steps_per_second": {side: float(np.median([r["steps_per_second"] for r in of[side]])) for side in SIDES},
            "area": difference(*(curves[side][:, 1:].mean(axis=1) for side in SIDES)),
            "final": difference(*(curves[side][:, -LAST:].mean(axis=1) for side in SIDES)),
            "curves": {side: curves[side].tolist() for side in SIDES},
        }
        problems.append(problem)
        for measure in ("area", "final"):
            print(task, learner, problem["steps"][-1], measure, problem[measure])
        print("steps per second", problem["steps_per_second"])
    settings = {name: asdict(setting) for name, setting in SETTINGS.items()}
    document = {"episodes": EPISODES, "settings": settings, "problems": problems}
    (out / "parity.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    draw(problems, out)


def draw(problems: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A panel per problem: the mean over seeds, and every seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(problems), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(problems)))
    for axis, problem in zip(axes, problems, strict=True):
        steps = np.array(problem["steps"]) / 1000
        for side in SIDES:
            curves = np.array(problem["curves"][side])
            axis.plot(steps, curves.T, color=COLOURS[side], alpha=0.3, linewidth=0.8)
            axis.plot(steps, curves.mean(axis=0), color=COLOURS[side], linewidth=2, label=LABELS[side])
        axis.set(
            title=f"{ENVIRONMENTS[problem['task']]}, {problem['learner'].upper()}",
            xlabel="thousand environment steps",
            ylabel="evaluation return",
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(out / "parity.png", dpi=110, metadata={"Software": None})


def main() -> None:
    """List the runs, do one, or compare what is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("jobs")
    run = commands.add_parser("train")
    run.add_argument("task", choices=TASKS)
    run.add_argument("learner", choices=SETTINGS)
    run.add_argument("side", choices=SIDES)
    run.add_argument("seed", type=int)
    run.add_argument("--out", type=Path, default=Path("runs"))
    run.add_argument("--seconds", type=float, default=float("inf"), help="begin no point after this time")
    run.add_argument("--points", type=int, default=100, help="no more than these")
    compare = commands.add_parser("report")
    compare.add_argument("folder", type=Path)
    compare.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.command == "jobs":
        # Where not all fit, whole problems come first, and the slower side of each.
        for learner in reversed(SETTINGS):
            for side in reversed(SIDES):
                for task in TASKS:
                    for seed in SEEDS[task]:
                        print(task, learner, side, seed)
    elif options.command == "train":
        options.out.mkdir(parents=True, exist_ok=True)
        train(options.task, options.learner, options.side, options.seed, options.out, options.seconds, options.points)
    else:
        report(options.folder, options.out)


if __name__ == "__main__":
    main()
