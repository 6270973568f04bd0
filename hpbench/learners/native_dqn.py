"""DQN on the native engine: see ``cpp/dqn.hpp`` and ``cpp/dqn_member.cpp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hpbench.learners.dqn_metrics import TOTALS
from hpbench.learners.native import Binding
from hpbench.learners.population import Evaluation

if TYPE_CHECKING:
    from hpbench.learners.dqn import DQN

BINDING = Binding(
    "dqn",
    sizes=("capacity", "learning_starts", "double_q"),
    state=(
        "steps", "parameters", "targets", "adam_mean", "adam_square", "adam_steps", "train_credit",
        "episode_value", "episode_discounted", "episode_weight",
        "replay_observation", "replay_action", "replay_reward", "replay_next_observation",
        "replay_terminated", "replay_truncated", "replay_position", "replay_size",
    ),
)  # fmt: skip


def train(population: DQN, rollouts: int) -> Tensor:
    """Train every member for that many rollouts: totals of the segment, float64 ``[members, len(TOTALS)]``."""
    return BINDING.train(population, population.environments, rollouts, len(TOTALS), _options(population), {})


def evaluate(population: DQN, episodes: int) -> Evaluation:
    """Play complete episodes with the greedy policies."""
    return BINDING.evaluate(population, population.environments, episodes, _options(population), {})


def _options(population: DQN) -> dict[str, int]:
    config = population.config
    return {
        "capacity": config.buffer_size,
        "learning_starts": config.learning_starts,
        "double_q": int(config.double),
    }
