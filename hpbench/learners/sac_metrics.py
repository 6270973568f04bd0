"""What a segment of SAC tells: running totals, which the engines add to, and the metrics made of them."""

from __future__ import annotations

import numpy as np

from hpbench.learners.population import Floats

TOTALS = (
    "episodes", "return_sum", "return_square_sum", "length_sum", "successes", "q_bias",
    "critic_loss", "actor_loss", "entropy", "temperature", "td_error_mean", "td_error_p95", "q_mean", "gradient_norm",
    "optimiser_steps", "update_ratio", "rollouts", "dormant_share", "feature_rank", "buffer_fill",
)  # fmt: skip
"""Columns of the running totals of a segment. The native engine shares the order; the last three are set at the end."""

METRICS = (
    "episodes", "return_mean", "return_sem", "episode_length", "success_rate",
    "critic_loss", "actor_loss", "entropy", "temperature", "td_error_mean", "td_error_p95", "q_mean", "q_bias",
    "buffer_fill", "gradient_norm", "update_ratio", "dormant_share", "feature_rank",
)  # fmt: skip
"""Keys of the metrics, in order."""

PER_OPTIMISER_STEP = (
    "critic_loss", "actor_loss", "entropy", "temperature", "td_error_mean", "td_error_p95", "q_mean", "gradient_norm",
)  # fmt: skip
_AT_THE_END = ("dormant_share", "feature_rank", "buffer_fill")


def summary(totals: Floats, success_known: bool) -> dict[str, Floats]:
    """Metrics of a segment, each float64 ``[members]``; NaN where there is no value, as before training has started.

    Args:
        totals: ``[members, len(TOTALS)]``.
        success_known: whether the task has a notion of success.
    """
    total = {name: totals[:, column] for column, name in enumerate(TOTALS)}
    episodes = total["episodes"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total["return_sum"] / episodes
        variance = np.maximum(total["return_square_sum"] / episodes - mean**2, 0.0) * episodes / (episodes - 1)
        metrics = {
            "episodes": episodes,
            "return_mean": mean,
            "return_sem": np.where(episodes > 1, np.sqrt(variance / episodes), np.nan),
            "episode_length": total["length_sum"] / episodes,
            "success_rate": total["successes"] / episodes if success_known else np.full_like(episodes, np.nan),
            "q_bias": total["q_bias"] / episodes,
            **{name: total[name] / total["optimiser_steps"] for name in PER_OPTIMISER_STEP},
            "update_ratio": total["update_ratio"] / total["rollouts"],
            **{name: total[name] for name in _AT_THE_END},
        }
    return {name: metrics[name] for name in METRICS}
