"""Stable-Baselines3's PPO on Procgen: the same simulator, network and settings as ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from peer_games import PeerGames
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from torch.nn import functional

from hpbench.learners.impala import IMPALA_SMALL
from hpbench.tasks.base import Task
from hpbench.tasks.procgen import PUBLISHED
from hpbench.tasks.procgen_simulator import ProcgenMaker, ProcgenSimulator


def make_simulator(task: Task, envs: int, threads: int) -> ProcgenSimulator:
    """Running copies of the task, on threads of their own if there is more than one."""
    assert isinstance(task.simulator, ProcgenMaker)
    running = replace(task.simulator, threads=threads if threads > 1 else 0).make(envs)
    running.reset(range(envs), range(envs))
    return running


class Features(nn.Module):
    """The small residual CNN as a features extractor: images come in transposed and scaled."""

    def __init__(self, space: Any, features_dim: int = IMPALA_SMALL.features) -> None:
        super().__init__()
        del space
        self.features_dim, sizes = features_dim, IMPALA_SMALL
        inputs, stages, stride = sizes.colours, [], sizes.stride
        for channels in sizes.channels:
            convolutions = [nn.Conv2d(inputs, channels, 3, stride, padding=1)]
            convolutions += [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * sizes.blocks)]
            stages.append(nn.ModuleList(convolutions))
            inputs, stride = channels, 1
        self.stages = nn.ModuleList(stages)
        self.dense = nn.Linear(sizes.shapes[-1][0], features_dim)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            first, *others = list(stage)  # type: ignore[call-overload]
            x = functional.max_pool2d(first(x), 3, 2, padding=1)
            for one, two in zip(others[::2], others[1::2], strict=True):
                x = x + two(functional.relu(one(functional.relu(x))))
        return torch.relu(self.dense(torch.relu(x).flatten(1)))


class Games(PeerGames):
    """The simulator as Stable-Baselines3 wants it."""

    def __init__(self, task: Task, envs: int, threads: int) -> None:
        self.running = make_simulator(task, envs, threads)
        super().__init__(envs, spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(15))

    def reset(self) -> Any:
        self.running.reset(range(self.num_envs), range(self.num_envs))
        return self._images()

    def step_async(self, actions: Any) -> None:
        self.running.step(actions)

    def step_wait(self) -> Any:
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._images(), self.running.reward.astype(np.float32), self.running.terminated.copy(), infos

    def _images(self) -> Any:
        return self.running.observation.reshape(self.num_envs, 64, 64, 3).copy()

    def close(self) -> None:
        self.running.close()


def make_peer(task: Task, envs: int, steps: int, threads: int) -> Any:
    """Their PPO with the published hyperparameters, on that many threads."""
    torch.set_num_threads(threads)
    values = PUBLISHED.values
    return stable_baselines3.PPO(
        "CnnPolicy",
        VecNormalize(Games(task, envs, threads), norm_obs=False, gamma=values["discount"]),
        n_steps=steps,
        batch_size=envs * steps // int(values["minibatches"]),
        n_epochs=int(values["update_epochs"]),
        learning_rate=values["learning_rate"],
        gamma=values["discount"],
        gae_lambda=values["gae_lambda"],
        clip_range=values["clip_range"],
        ent_coef=values["entropy_coefficient"],
        vf_coef=values["value_coefficient"],
        max_grad_norm=values["max_gradient_norm"],
        policy_kwargs={"features_extractor_class": Features, "net_arch": []},
        device="cpu",
    )
