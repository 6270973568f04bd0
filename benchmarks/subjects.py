"""The learners that the benchmarks compare, behind one small interface: ours, and those of Stable-Baselines3.

Both sides get the same network (64-64, actor and critic apart; tanh for PPO, relu for DQN and SAC), initialisation,
optimiser, loss and numbers. Hyperparameters go by our names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from hpbench import learners, tasks

GYMNASIUM_IDS = {
    "classic/cartpole": "CartPole-v1",
    "classic/acrobot": "Acrobot-v1",
    "classic/pendulum": "Pendulum-v1",
    "classic/mountaincar-continuous": "MountainCarContinuous-v0",
}

WORKLOAD = {"update_epochs": 4, "minibatches": 4}
"""What speed of PPO is measured with: 4 epochs of 4 minibatches, fewer optimiser steps than the defaults take."""


@dataclass(frozen=True)
class Setting:
    """One training set-up that both sides can run.

    Args:
        task: a task id.
        num_envs, num_steps: shape of a rollout.
        values: hyperparameters that differ from our defaults.
        learner: its name.
        config: frozen options of the learner that differ from our defaults.
    """

    task: str = "classic/cartpole"
    num_envs: int = 4
    num_steps: int = 128
    values: Mapping[str, float] | None = None
    learner: str = "ppo"
    config: Mapping[str, Any] | None = None

    def all_values(self) -> dict[str, float]:
        """Every hyperparameter by name."""
        space = learners.make(self.learner).hyperparameters
        return space.defaults() | space.check({} if self.values is None else self.values)

    def all_config(self) -> Any:
        """The learner's configuration."""
        given = {} if self.config is None else self.config
        return learners.make(self.learner).config_type(num_envs=self.num_envs, num_steps=self.num_steps, **given)


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
    """A population of one of our learners."""

    def __init__(self, setting: Setting, seeds: Sequence[int], engine: str, threads: int = 1) -> None:
        make: Any = learners.make(setting.learner)
        self.population = make(
            tasks.make(setting.task),
            seeds,
            setting.all_config(),
            setting.all_values(),
            device="cpu",
            engine=engine,
            threads=threads,
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


class Peer(ABC):
    """A learner of Stable-Baselines3, on a ``DummyVecEnv`` of Gymnasium's environment: its fastest ordinary set-up.

    No monitor, no environment checker, no logging to files or the terminal.
    """

    members = 1
    deterministic: bool
    """Whether evaluation takes the most likely actions."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self._name = GYMNASIUM_IDS[setting.task]
        self.steps_per_rollout = setting.num_envs * setting.num_steps
        self.model = self._build(setting, self._environments(setting.num_envs), seed)
        self._evaluation_seed = seed + 1_000_000

    @abstractmethod
    def _build(self, setting: Setting, environments: Any, seed: int) -> Any: ...

    @abstractmethod
    def set_values(self, values: Mapping[str, float]) -> None:
        """Change hyperparameters of a running training so that they act."""

    def train(self, rollouts: int) -> None:
        """Continue the training for that many rollouts."""
        self.model.learn(rollouts * self.steps_per_rollout, reset_num_timesteps=False, log_interval=None)

    def evaluate(self, episodes: int) -> NDArray[np.float64]:
        """Returns ``[1, episodes]`` of fresh episodes, under the policy that our learner is evaluated with.

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
            actions, _ = self.model.predict(observations, deterministic=self.deterministic)
            observations, rewards, dones, _ = environments.step(actions)
            returns += np.where(running, rewards, 0.0)
            running &= ~dones
        environments.close()
        return returns[None]

    def _environments(self, count: int) -> Any:
        from stable_baselines3.common.vec_env import DummyVecEnv

        vector: Any = DummyVecEnv
        return vector([lambda: gym.make(self._name, disable_env_checker=True)] * count)


class PPOPeer(Peer):
    """Its PPO."""

    deterministic = False

    def _build(self, setting: Setting, environments: Any, seed: int) -> Any:
        from stable_baselines3 import PPO as StableBaselinesPPO

        values = setting.all_values()
        return StableBaselinesPPO(
            "MlpPolicy",
            environments,
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

    def _batch_size(self, minibatches: float) -> int:
        return -(-self.steps_per_rollout // int(minibatches))


class OffPolicyPeer(Peer):
    """What DQN and SAC have in common. Changes while training runs are not supported."""

    deterministic = True

    def set_values(self, values: Mapping[str, float]) -> None:
        """Nothing to change.

        Raises:
            NotImplementedError: if there is.
        """
        if values:
            raise NotImplementedError("the peer's hyperparameters are fixed here")

    def _common(self, setting: Setting, values: Mapping[str, float], seed: int) -> dict[str, Any]:
        config = setting.all_config()
        return {
            "buffer_size": config.buffer_size,
            "learning_starts": config.learning_starts,
            "batch_size": int(values["batch_size"]),
            "gamma": values["discount"],
            "tau": values["tau"],
            "policy_kwargs": {"net_arch": list(config.hidden)},
            "seed": seed,
            "device": "cpu",
        }


class DQNPeer(OffPolicyPeer):
    """Its DQN, which has no double Q-learning."""

    def _build(self, setting: Setting, environments: Any, seed: int) -> Any:
        from stable_baselines3 import DQN as StableBaselinesDQN

        values, config = setting.all_values(), setting.all_config()
        if config.double or config.dueling or config.prioritized or values["n_step"] != 1:
            raise ValueError("Stable-Baselines3's DQN is the plain one")
        frequency = int(values["train_frequency"])
        return StableBaselinesDQN(
            "MlpPolicy",
            environments,
            learning_rate=values["learning_rate"],
            train_freq=frequency,
            gradient_steps=1,
            target_update_interval=frequency,  # once per gradient step, as ours
            exploration_initial_eps=values["epsilon"],
            exploration_final_eps=values["epsilon"],
            max_grad_norm=values["max_gradient_norm"],
            **self._common(setting, values, seed),
        )


class SACPeer(OffPolicyPeer):
    """Its SAC with a learned temperature."""

    def _build(self, setting: Setting, environments: Any, seed: int) -> Any:
        from stable_baselines3 import SAC as StableBaselinesSAC

        values = setting.all_values()
        rates = {values[f"{part}_learning_rate"] for part in ("actor", "critic", "temperature")}
        if len(rates) != 1 or values["updates_per_step"] != 1.0 or values["target_entropy"] != 0.5:
            raise ValueError("Stable-Baselines3's SAC has one learning rate; only its default target is compared")
        return StableBaselinesSAC(
            "MlpPolicy",
            environments,
            learning_rate=rates.pop(),
            train_freq=1,
            gradient_steps=1,
            ent_coef="auto",
            target_entropy="auto",
            **self._common(setting, values, seed),
        )


_PEERS: Mapping[str, type[Peer]] = {"ppo": PPOPeer, "dqn": DQNPeer, "sac": SACPeer}


def make_peer(setting: Setting, seed: int) -> Peer:
    """Stable-Baselines3's learner for a setting."""
    return _PEERS[setting.learner](setting, seed)
