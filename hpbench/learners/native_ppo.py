"""PPO on the native engine: see ``cpp/ppo.hpp`` and ``cpp/ppo_member.cpp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hpbench.learners.native import Binding
from hpbench.learners.population import Evaluation
from hpbench.learners.ppo_metrics import TOTALS

if TYPE_CHECKING:
    from hpbench.learners.ppo import PPO

BINDING = Binding(
    "ppo",
    sizes=("normalize_observation", "normalize_reward"),
    state=(
        "parameters", "adam_mean", "adam_square", "adam_steps",
        "observation_mean", "observation_variance", "observation_count",
        "return_running", "return_mean", "return_variance", "return_count",
    ),
    buffer=(
        "observation", "action", "log_prob", "value", "reward", "done", "truncated", "final_value", "advantage",
        "return", "last_value",
    ),
)  # fmt: skip


def train(population: PPO, rollouts: int) -> Tensor:
    """Train every member for that many rollouts: totals of the segment, float64 ``[members, len(TOTALS)]``."""
    return BINDING.train(
        population, population.environments, rollouts, len(TOTALS), _options(population), population.buffer
    )


def evaluate(population: PPO, episodes: int) -> Evaluation:
    """Play complete episodes with the current policies."""
    return BINDING.evaluate(population, population.environments, episodes, _options(population), population.buffer)


def _options(population: PPO) -> dict[str, int]:
    config = population.config
    return {
        "normalize_observation": int(config.normalize_observation),
        "normalize_reward": int(config.normalize_reward),
    }
