"""Stable-Baselines3's PPO on NetHack, as one would set it up: NLE's Gymnasium environment in Gymnasium's
``AsyncVectorEnv``, a process for each, and the same network and settings as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from peer_games import PeerGames
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from torch.nn import functional

from hpbench.learners.glyphs import GLYPHS, LETTERS, PATCH, status_features
from hpbench.tasks.base import Task
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITION_INDEX,
    CONDITIONS,
    CROP,
    MESSAGE,
    OUTSIDE,
    STATUS,
)
from hpbench.tasks.nethack_simulator import CHARACTER, CLASSES, PENALTY

KEYS = ("glyphs", "blstats", "message")
"""What our observations are made of."""


def make_game(task: Task) -> gym.Env[Any, Any]:
    """One game with our character and penalty."""
    import nle  # type: ignore[import-untyped]  # noqa: F401 - registers the environments

    options = {"character": CHARACTER, "penalty_step": PENALTY, "max_episode_steps": task.max_episode_steps}
    name = f"{CLASSES[task.id.partition('/')[2]]}-v0"
    return gym.make(name, observation_keys=KEYS, disable_env_checker=True, **options)


class Features(nn.Module):
    """Our glyph encoder as a features extractor. What our simulator does with an observation, cutting out the glyphs
    around the hero above all, is done here for the whole batch."""

    def __init__(self, space: Any, features_dim: int = GLYPHS.features) -> None:
        super().__init__()
        del space
        self.features_dim = features_dim
        shapes = GLYPHS.shapes
        self.glyphs, self.letters = (nn.Parameter(torch.randn(shape)) for shape in shapes[:2])
        self.patches, self.status, self.message, self.all = (nn.Linear(*shape) for shape in shapes[2::2])
        self.register_buffer("places", torch.tensor([status.place for status in STATUS.values()]))
        self.register_buffer("bits", 1 << torch.arange(len(CONDITIONS)))
        self.register_buffer("rows", torch.arange(CROP[0])[None, :, None] - CROP[0] // 2)
        self.register_buffer("columns", torch.arange(CROP[1])[None, None, :] - CROP[1] // 2)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        status = seen["blstats"].long()
        crop = self._crop(seen["glyphs"], status[:, 1, None, None], status[:, 0, None, None])
        high, wide = (size // PATCH for size in CROP)
        cells = crop.view(-1, high, PATCH, wide, PATCH).transpose(2, 3).reshape(-1, CELLS)
        patches = functional.relu(self.patches(self.glyphs[cells].view(-1, high * wide, self.patches.in_features)))
        letters = self.letters[seen["message"][:, :MESSAGE].long().clamp(0, LETTERS - 1)].flatten(1)
        conditions = (status[:, CONDITION_INDEX, None] & self.bits) != 0
        numbers = status_features(torch.cat((crop, status[:, self.places], conditions.long()), dim=1))
        parts = (patches.flatten(1), functional.relu(self.status(numbers)), functional.relu(self.message(letters)))
        return functional.relu(self.all(torch.cat(parts, dim=1)))

    def _crop(self, glyphs: Tensor, row: Tensor, column: Tensor) -> Tensor:
        row, column = row + self.rows, column + self.columns
        high, wide = glyphs.shape[1:]
        inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
        places = (row.clamp(0, high - 1) * wide + column.clamp(0, wide - 1)).flatten(1)
        return glyphs.flatten(1).gather(1, places).long().where(inside.flatten(1), OUTSIDE)


class Games(PeerGames):
    """The vector environment as Stable-Baselines3 wants it."""

    def __init__(self, task: Task, envs: int) -> None:
        make = [lambda: make_game(task)] * envs
        # What this returns is copied by the rollout buffer; copied here, too, it would only take longer.
        self.games = AsyncVectorEnv(make, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        super().__init__(envs, self.games.single_observation_space, self.games.single_action_space)

    def reset(self) -> Any:
        return self.games.reset()[0]

    def step_async(self, actions: Any) -> None:
        self.games.step_async(actions)

    def step_wait(self) -> Any:
        seen, reward, terminated, truncated, more = self.games.step_wait()
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(done).tolist():
            infos[env]["terminal_observation"] = more["final_obs"][env]
            infos[env]["TimeLimit.truncated"] = bool(truncated[env] and not terminated[env])
        return seen, reward.astype(np.float32), done, infos

    def close(self) -> None:
        self.games.close()


def make_peer(task: Task, envs: int, steps: int, threads: int) -> Any:
    """Their PPO with the hand-tuned hyperparameters, PyTorch on that many threads."""
    torch.set_num_threads(threads)
    values = task.hand_tuned["ppo"].values
    return stable_baselines3.PPO(
        "MultiInputPolicy",
        VecNormalize(Games(task, envs), norm_obs=False, gamma=values["discount"]),
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
