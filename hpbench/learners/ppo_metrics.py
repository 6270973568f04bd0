"""What a segment of PPO tells: running totals, which the engines add to, and the metrics made of them."""

from __future__ import annotations

import numpy as np

from hpbench.learners.population import Floats

TOTALS = (
    "episodes", "return_sum", "return_square_sum", "length_sum", "successes",
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm", "gradient_clipped",
    "optimiser_steps", "explained_variance", "update_ratio", "rollouts", "dormant_share", "feature_rank",
)  # fmt: skip
"""Columns of the running totals of a segment; the engines add to them, and set the last two at its end. The native
engine shares the order."""

METRICS = (
    "episodes", "return_mean", "return_sem", "episode_length", "success_rate",
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance",
    "gradient_norm", "gradient_clipped", "update_ratio", "dormant_share", "feature_rank",
)  # fmt: skip
"""Keys of the metrics, in order."""

_PER_OPTIMISER_STEP = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm", "gradient_clipped",
)  # fmt: skip
_PER_ROLLOUT = ("explained_variance", "update_ratio")
_AT_THE_END = ("dormant_share", "feature_rank")


def summary(totals: Floats, success_known: bool) -> dict[str, Floats]:
    """Metrics of a segment, each float64 ``[members]``; NaN where there is no value, as with no finished episode.

    Args:
        totals: ``[members, len(TOTALS)]``.
        success_known: whether the task has a notion of success.
    """
    total = {name: totals[:, column] for column, name in enumerate(TOTALS)}
    episodes = total["episodes"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total["return_sum"] / episodes
        variance = np.maximum(total["return_square_sum"] / episodes - mean**2, 0.0) * episodes / (episodes - 1)
        return {
            "episodes": episodes,
            "return_mean": mean,
            "return_sem": np.where(episodes > 1, np.sqrt(variance / episodes), np.nan),
            "episode_length": total["length_sum"] / episodes,
            "success_rate": total["successes"] / episodes if success_known else np.full_like(episodes, np.nan),
            **{name: total[name] / total["optimiser_steps"] for name in _PER_OPTIMISER_STEP},
            **{name: total[name] / total["rollouts"] for name in _PER_ROLLOUT},
            **{name: total[name] for name in _AT_THE_END},
        }
