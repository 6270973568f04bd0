"""A small network on the vector observation, trained by Stable-Baselines3's PPO as the model was: one of its opponents.

    python reproduce/hyperprompt/controller.py --minutes 9        trains, writes controller.npz and controller.json
    cd reproduce/hyperprompt
    hpbench run --agent controller:Controller --suite held-out.toml

It trains on the training variants of all five classic tasks and on all three tracks, with the budgets of the suite. Its
action is the values themselves (``absolute``), and its reward the meta-score: half the mean and half the final score.
Every environment is a process of its own. ``--work`` keeps Stable-Baselines3's own file; given again, training goes on
from there. Needs the extra ``sb3``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import hpbench  # noqa: F401  (registers the environments)
from hpbench.errors import InvalidConfiguration

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples")]
from train_meta_agent import MetaAgent, weights_of  # noqa: E402

WEIGHTS = HERE / "controller.npz"
TASKS = (
    "classic/cartpole", "classic/acrobot", "classic/mountaincar", "classic/mountaincar-continuous", "classic/pendulum",
)  # fmt: skip
TRACKS = ("default", "random", "shift")
PPO_SETTINGS: Mapping[str, Any] = {
    "n_steps": 10,  # half a meta-episode of every environment
    "batch_size": 150,
    "n_epochs": 10,
    "learning_rate": 5e-4,
    "gamma": 0.98,
    "gae_lambda": 0.95,
    "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.7},
}


class Controller(MetaAgent):
    """The trained network: its mean action, without noise.

    Raises:
        InvalidConfiguration: if it has not been trained yet.
    """

    name = "sb3-ppo"

    def __init__(self, weights: Mapping[str, NDArray[np.float32]] | str | Path = WEIGHTS) -> None:
        if not isinstance(weights, Mapping) and not Path(weights).exists():
            raise InvalidConfiguration(
                f"There is no {weights}: train it first, python {Path(__file__).name} --minutes 9"
            )
        super().__init__(weights)


class MetaScore(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards that add up to the meta-score, less half the score before training; and ends that are ends.

    Nothing follows the last decision, so there is no value to estimate there: Stable-Baselines3 would, were the episode
    said to be truncated.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start of a meta-episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._score = float(info["hpbench"]["score"])
        return observation, {}

    def step(self, action: Any) -> Any:
        """One decision."""
        observation, _, terminated, truncated, info = self.env.step(action)
        before, self._score = self._score, float(info["hpbench"]["score"])
        decisions = self.env.unwrapped.agent_spec.decisions  # type: ignore[attr-defined]
        reward = 0.5 * self._score / decisions + 0.5 * (self._score - before)
        over = terminated or truncated
        # Infos travel between processes at every step, and nothing else in them is read.
        kept = {"meta_score": float(info["hpbench"]["meta_score"])} if over else {}
        return observation, reward, over, False, kept


def make(task: str, track: str, small: Mapping[str, int]) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes an environment in its process."""

    def made() -> gym.Env[Any, Any]:
        torch.set_num_threads(1)
        return MetaScore(
            gym.make("HPControl-Classic-v0", task=f"{task}@train", split="train", track=track, action="absolute",
                     device="cpu", **small)
        )  # fmt: skip

    return made


def train(
    work: Path,
    minutes: float,
    copies: int = 5,
    decisions: int = 10**9,
    tasks: Sequence[str] = TASKS,
    small: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[Controller, list[dict[str, float | None]]]:
    """PPO until the time is over or so many decisions have been made.

    Args:
        work: folder for ``controller.zip`` and ``controller.jsonl``; what lies there is gone on from.
        minutes: of training, now; that of starting the processes does not count.
        copies: environments of every task and track.
        decisions: of training, in all.
        tasks: base tasks.
        small: overrides of the environment, for tests.
        seed: of networks and environments.

    Returns:
        The agent, and a line for every update: decisions so far, how many meta-episodes ended since the last line,
        their mean meta-score (None for none), mean standard deviation of the policy, seconds.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import SubprocVecEnv

    work.mkdir(parents=True, exist_ok=True)
    path, log = work / "controller.zip", work / "controller.jsonl"

    class Clock(BaseCallback):
        """Stops when the time is over, and writes down how it goes."""

        def _on_training_start(self) -> None:
            self.scores: list[float] = []
            self.start = time.monotonic()

        def _on_step(self) -> bool:
            self.scores += [info["meta_score"] for info in self.locals["infos"] if "meta_score" in info]
            return time.monotonic() - self.start < 60.0 * minutes

        def _on_rollout_end(self) -> None:
            line = {
                "decisions": self.num_timesteps,
                "meta_episodes": len(self.scores),
                "meta_score": round(float(np.mean(self.scores)), 4) if self.scores else None,
                "std": round(float(self.model.policy.log_std.detach().exp().mean()), 4),
                "seconds": round(time.monotonic() - self.start, 1),
            }
            self.scores = []
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)

    # Dozens of processes: what all of them import is imported once.
    multiprocessing.set_forkserver_preload(["stable_baselines3.common.vec_env", "hpbench.control.env"])
    everything = [(task, track) for _ in range(copies) for track in TRACKS for task in tasks]
    overrides = {"evaluation_episodes": 5} if small is None else dict(small)
    envs = SubprocVecEnv([make(*each, overrides) for each in everything], start_method="forkserver")
    try:
        if path.exists():
            model = PPO.load(path, envs, device="cpu")
            envs.seed(seed + 1_000_003 * model.num_timesteps % 2**31)  # other variants than those it began with
        else:
            model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **PPO_SETTINGS)
        left = decisions - model.num_timesteps
        if left > 0:
            model.learn(left, callback=Clock(), reset_num_timesteps=False)
            model.save(path)
    finally:
        envs.close()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return Controller(weights_of(model.policy)), lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--copies", type=int, default=5, help="environments of every task and track")
    parser.add_argument("--decisions", type=int, default=10**9, help="in all, if there is time enough")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("controller"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    agent, lines = train(given.work, given.minutes, given.copies, given.decisions, seed=given.seed)
    agent.save(WEIGHTS)
    facts = {"command": "python reproduce/hyperprompt/controller.py", "ppo": dict(PPO_SETTINGS), "log": lines}
    WEIGHTS.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {WEIGHTS}")


if __name__ == "__main__":
    main()
