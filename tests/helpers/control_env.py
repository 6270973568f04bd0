"""Short meta-episodes for the tests of the environments, and what happens in them."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import data_equivalence

OBSERVATIONS = ("vector", "text", "dict")
ACTIONS = ("delta", "absolute", "discrete", "text")
REWARDS = ("progress", "auc", "uplift")

SMALL: dict[str, Any] = {
    "steps": 512,
    "decisions": 4,
    "evaluation_episodes": 2,
    "learner_config": {"num_envs": 4, "num_steps": 32},
}
CARTPOLE = {**SMALL, "task": "classic/cartpole"}


def make(**options: Any) -> Any:
    """The bare environment."""
    return gym.make("HPControl-Classic-v0", **{**CARTPOLE, **options}).unwrapped


def play(env: Any, actions: list[Any], seed: int | None = None) -> list[Any]:
    """All that comes out of an episode, or of the rest of one if there is no seed."""
    out: list[Any] = [] if seed is None else [env.reset(seed=seed)]
    return out + [env.step(action) for action in actions]


def actions_of(env: Any, count: int = 4, seed: int = 0) -> list[Any]:
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))
