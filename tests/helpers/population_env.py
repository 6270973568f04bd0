"""Short population games, and what members do in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

import hpbench

ID = "HPControl-Population-v0"
HOT = 9
SMALL: dict[str, Any] = {
    "task": "classic/cartpole",
    "members": 3,
    "steps": 512,
    "decisions": 4,
    "evaluation_episodes": 2,
    "learner_config": {"num_envs": 4, "num_steps": 32},
    "device": "cpu",
}
KEEP = np.zeros(HOT, dtype=np.float32)


def make(**options: Any) -> Any:
    return hpbench.parallel_env(ID, **{**SMALL, **options})


def keep(env: Any, **copies: int) -> dict[str, Any]:
    """Actions of all running members that change nothing, apart from the copies that are named."""
    return {
        name: {"update": KEEP, "copy_from": copies.get(name, env.possible_agents.index(name))} for name in env.agents
    }


def random_actions(env: Any) -> dict[str, Any]:
    return {name: env.action_space(name).sample() for name in env.agents}


def seeded(env: Any, seed: int = 0) -> Any:
    for m, name in enumerate(env.possible_agents):
        env.action_space(name).seed(seed + m)
    return env


def hpbench_infos(infos: Mapping[str, Any]) -> dict[str, Any]:
    return {name: info["hpbench"] for name, info in infos.items()}


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))
