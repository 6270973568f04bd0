"""PPO with an encoder on a tiny task of images with a known answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.base import Anchors, Task
from hpbench.tasks.simulator import ExactDynamics

SIDE = 64


class Corners:
    """A bright square in one of four corners, somewhere near it: naming the corner gives 1 and ends the episode."""

    def __init__(self, envs: int) -> None:
        self.observation = np.zeros((envs, SIDE * SIDE * 3), np.uint8)
        self.reward, self.terminated = np.zeros(envs), np.zeros(envs, np.bool_)
        self.seeds = np.zeros(envs, np.int64)

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        for env, seed in zip(which, seeds, strict=True):
            self.load(env, int(seed).to_bytes(8, "little"))

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        self.reward[:] = actions == self.seeds % 4
        self.terminated[:] = True

    def save(self, env: int) -> bytes:
        return int(self.seeds[env]).to_bytes(8, "little")

    def load(self, env: int, state: bytes) -> None:
        seed = int.from_bytes(state, "little")
        self.seeds[env] = seed
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        down, right = (32 * (seed % 4 // 2) + seed // 4 % 16, 32 * (seed % 2) + seed // 64 % 16)
        image[down : down + 12, right : right + 12] = 255
        self.observation[env] = image.ravel()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class CornersMaker:
    state_bytes: int = 8
    in_process: bool = True
    restarts_itself: bool = False

    def make(self, envs: int, evaluation: bool = False) -> Corners:
        return Corners(envs)


TASK = Task(
    id="probe/corners",
    observation_size=SIDE * SIDE * 3,
    discrete=True,
    action_count=4,
    max_episode_steps=10,
    anchors=Anchors(0.0, 1.0, "none and all"),
    success_return=1.0,
    budgets={},
    dynamics=ExactDynamics(),
    physics=ExactDynamics.physics,
    simulator=CornersMaker(),
    observation_dtype="uint8",
    encoder="impala-small",
)
CONFIG = PPOConfig(num_envs=16, num_steps=8)
VALUES = {"learning_rate": 2e-3, "update_epochs": 4, "minibatches": 2, "discount": 0.9}


def test_learns_to_look() -> None:
    population = PPO(TASK, [0], CONFIG, VALUES)
    before = population.evaluate(64).returns.mean()
    assert before < 0.5
    metrics = population.train(20)
    assert population.evaluate(64).returns.mean() > 0.95
    assert metrics["episodes"][0] == 20 * 16 * 8


@pytest.mark.parametrize("num_envs", [3, 16])
def test_a_member_is_the_same_alone_and_among_others(num_envs: int) -> None:
    """Also where batches have a size for which libraries of linear algebra look at how the memory is aligned."""
    config = replace(CONFIG, num_envs=num_envs, normalize_reward=True)
    together = PPO(TASK, [3, 4, 5], config, {**VALUES, "minibatches": np.array([2.0, 8.0, 2.0])})
    alone = PPO(TASK, [4], config, {**VALUES, "minibatches": 8})
    for population in (together, alone):
        population.train(2)
    assert together.digests()[1] == alone.digests()[0]


def test_observations_are_kept_in_bytes_and_snippets_are_short() -> None:
    population = PPO(TASK, [0], CONFIG, VALUES)
    population.train(1)
    assert population.buffer["observation"].dtype == torch.uint8
    assert population.state["env_observation"].dtype == torch.uint8
    assert population.state["snippet_observation"].shape == (1, 8, 7)
    lit = population.state["snippet_observation"][0, :, :3]
    torch.testing.assert_close(lit, torch.full((8, 3), 144 / 4096))


def test_options_that_do_not_fit_pixels() -> None:
    with pytest.raises(InvalidConfiguration, match="normalize_observation is for encoder='mlp'"):
        PPO(TASK, [0], PPOConfig(normalize_observation=True))
    with pytest.raises(
        InvalidConfiguration, match="encoder='mlp' reads float32, the observations of probe/corners are uint8"
    ):
        PPO(TASK, [0], PPOConfig(encoder="mlp"))
    with pytest.raises(InvalidConfiguration, match="engine='native' cannot be used"):
        PPO(TASK, [0], CONFIG, engine="native")
