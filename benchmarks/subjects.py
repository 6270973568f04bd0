"""The learners that the benchmarks compare, behind one small interface: our PPO, and the PPO of Stable-Baselines3.

Both get the same network (64-64 tanh, actor and critic apart, orthogonal start), the same optimiser (Adam, epsilon
1e-5), the same loss (clipped surrogate, advantages normalised per minibatch, plain squared value error, gradients
clipped by global norm) and the same numbers. Hyperparameters go by our names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from hpbench import tasks
from hpbench.learners.ppo import HYPERPARAMETERS, PPO, PPOConfig

GYMNASIUM_IDS = {"classic/cartpole": "CartPole-v1", "classic/acrobot": "Acrobot-v1", "classic/pendulum": "Pendulum-v1"}

WORKLOAD = {"update_epochs": 4, "minibatches": 4}
"""What speed is measured with: 4 epochs of 4 minibatches, fewer optimiser steps than the library defaults take."""


@dataclass(frozen=True)
class Setting:
    """One training set-up that both sides can run.

    Args:
        task: a task id.
        num_envs, num_steps: shape of a rollout.
        values: hyperparameters that differ from our defaults.
    """

    task: str = "classic/cartpole"
    num_envs: int = 4
    num_steps: int = 128
    values: Mapping[str, float] | None = None

    def all_values(self) -> dict[str, float]:
        """Every hyperparameter by name."""
        return HYPERPARAMETERS.defaults() | HYPERPARAMETERS.check({} if self.values is None else self.values)


class Trainer(Protocol):
    """What a benchmark can do with either side."""

    members: int
    steps_per_rollout: int
    """Of one member."""

    def train(self, rollouts: int) -> None:
        """Train every member for that many rollouts."""
        ...

    def set_values(self, values: Mapping[str, float]) -> None:
        """Change hyperparameters of a running training."""
        ...

    def evaluate(self, episodes: int) -> NDArray[np.float64]:
        """Returns ``[members, episodes]`` of fresh episodes under the stochastic policy."""
        ...


class Ours:
    """A population of our PPO."""

    def __init__(self, setting: Setting, seeds: Sequence[int], engine: str, threads: int = 1) -> None:
        config = PPOConfig(num_envs=setting.num_envs, num_steps=setting.num_steps)
        self.population = PPO(
            tasks.make(setting.task), seeds, config, setting.all_values(), device="cpu", engine=engine, threads=threads
        )
        self.members = len(seeds)
        self.steps_per_rollout = self.population.steps_per_rollout

    def train(self, rollouts: int) -> None:
        """Train every member for that many rollouts."""
        self.population.train(rollouts)

    def set_values(self, values: Mapping[str, float]) -> None:
        """Change hyperparameters of a running training."""
        for name, value in values.items():
            self.population.set_values(name, value)

    def evaluate(self, episodes: int) -> NDArray[np.float64]:
        """Returns ``[members, episodes]`` of fresh episodes under the stochastic policy."""
        return self.population.evaluate(episodes).returns


class Peer:
    """One PPO of Stable-Baselines3, on a ``DummyVecEnv`` of Gymnasium's environment: its fastest ordinary set-up.

    No monitor, no environment checker, no logging to files or the terminal.
    """

    members = 1

    def __init__(self, setting: Setting, seed: int) -> None:
        from stable_baselines3 import PPO as StableBaselinesPPO

        self._name = GYMNASIUM_IDS[setting.task]
        self.steps_per_rollout = setting.num_envs * setting.num_steps
        values = setting.all_values()
        self.model: Any = StableBaselinesPPO(
            "MlpPolicy",
            self._environments(setting.num_envs),
            learning_rate=values["learning_rate"],
            n_steps=setting.num_steps,
            batch_size=self._batch_size(values["minibatches"]),
            n_epochs=int(values["update_epochs"]),
            gamma=values["discount"],
            gae_lambda=values["gae_lambda"],
            clip_range=values["clip_range"],
            clip_range_vf=None,
            normalize_advantage=True,
            ent_coef=values["entropy_coefficient"],
            vf_coef=values["value_coefficient"],
            max_grad_norm=values["max_gradient_norm"],
            policy_kwargs={
                "net_arch": {"pi": [64, 64], "vf": [64, 64]},
                "activation_fn": torch.nn.Tanh,
                "ortho_init": True,
                "optimizer_kwargs": {"eps": 1e-5},
            },
            seed=seed,
            device="cpu",
        )
        self._evaluation_seed = seed + 1_000_000

    def train(self, rollouts: int) -> None:
        """Continue the training for that many rollouts."""
        self.model.learn(rollouts * self.steps_per_rollout, reset_num_timesteps=False, log_interval=None)

    def set_values(self, values: Mapping[str, float]) -> None:
        """Change hyperparameters so that they act.

        Assigning ``model.learning_rate`` alone does nothing once the model is built: the optimiser reads
        ``lr_schedule``. Discount and lambda are held a second time by the rollout buffer.
        """
        from stable_baselines3.common.utils import FloatSchedule

        model = self.model
        plain = {
            "entropy_coefficient": "ent_coef",
            "value_coefficient": "vf_coef",
            "max_gradient_norm": "max_grad_norm",
        }
        for name, value in values.items():
            if name == "learning_rate":
                model.learning_rate, model.lr_schedule = value, FloatSchedule(value)
            elif name == "clip_range":
                model.clip_range = FloatSchedule(value)
            elif name == "discount":
                model.gamma = model.rollout_buffer.gamma = value
            elif name == "gae_lambda":
                model.gae_lambda = model.rollout_buffer.gae_lambda = value
            elif name == "update_epochs":
                model.n_epochs = int(value)
            elif name == "minibatches":
                model.batch_size = self._batch_size(value)
            else:
                setattr(model, plain[name], value)

    def evaluate(self, episodes: int) -> NDArray[np.float64]:
        """Returns ``[1, episodes]`` of fresh episodes under the stochastic policy.

        The episodes run side by side, one per environment, and only the first of each counts: no bias towards short
        ones. Training is not touched, apart from the global random stream that Stable-Baselines3 samples actions
        from.
        """
        environments = self._environments(episodes)
        environments.seed(self._evaluation_seed)
        self._evaluation_seed += episodes
        observations = environments.reset()
        returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
        while running.any():
            actions, _ = self.model.predict(observations, deterministic=False)
            observations, rewards, dones, _ = environments.step(actions)
            returns += np.where(running, rewards, 0.0)
            running &= ~dones
        environments.close()
        return returns[None]

    def _environments(self, count: int) -> Any:
        from stable_baselines3.common.vec_env import DummyVecEnv

        vector: Any = DummyVecEnv
        return vector([lambda: gym.make(self._name, disable_env_checker=True)] * count)

    def _batch_size(self, minibatches: float) -> int:
        return -(-self.steps_per_rollout // int(minibatches))
