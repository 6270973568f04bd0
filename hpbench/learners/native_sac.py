"""SAC on the native engine: see ``cpp/sac.hpp`` and ``cpp/sac_member.cpp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hpbench.learners.native import Binding
from hpbench.learners.population import Evaluation
from hpbench.learners.sac_metrics import TOTALS

if TYPE_CHECKING:
    from hpbench.learners.sac import SAC

BINDING = Binding(
    "sac",
    sizes=("buffer_size", "learning_starts", "fixed_temperature"),
    state=(
        "parameters", "targets", "adam_mean", "adam_square", "adam_steps", "update_credit", "steps",
        "episode_value", "episode_discounted", "episode_weight",
        "replay_observation", "replay_action", "replay_reward", "replay_next_observation",
        "replay_terminated", "replay_truncated", "replay_position", "replay_size",
    ),
)  # fmt: skip


def train(population: SAC, rollouts: int) -> Tensor:
    """Train every member for that many rollouts: totals of the segment, float64 ``[members, len(TOTALS)]``."""
    return BINDING.train(population, population.environments, rollouts, len(TOTALS), _options(population), {})


def evaluate(population: SAC, episodes: int) -> Evaluation:
    """Play complete episodes with the most likely actions."""
    return BINDING.evaluate(population, population.environments, episodes, _options(population), {})


def _options(population: SAC) -> dict[str, int]:
    config = population.config
    return {
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "fixed_temperature": int(config.temperature is not None),
    }
