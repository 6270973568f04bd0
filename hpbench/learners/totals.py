"""What a segment tells: running totals, which the engines add to, and the metrics made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpbench.learners.snapshot import Floats

EPISODES = ("episodes", "return_sum", "return_square_sum", "length_sum", "successes")
"""The first columns of every learner's totals."""


@dataclass(frozen=True)
class Totals:
    """The columns of a learner's running totals. The native engine shares their order.

    Args:
        metrics: what :meth:`summary` gives, in order.
        per_episode, per_optimiser_step, per_rollout: columns that are summed up, and become means over finished
            episodes, optimiser steps and rollouts.
        at_the_end: columns that are set once, at the end of a segment.

    Attributes:
        names: of all columns.
    """

    metrics: tuple[str, ...]
    per_episode: tuple[str, ...]
    per_optimiser_step: tuple[str, ...]
    per_rollout: tuple[str, ...]
    at_the_end: tuple[str, ...]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = (
            *EPISODES, *self.per_episode, *self.per_optimiser_step, "optimiser_steps", *self.per_rollout, "rollouts",
            *self.at_the_end,
        )  # fmt: skip
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Column of that name."""
        return self.names.index(name)

    @property
    def of_episodes(self) -> slice:
        """Columns of the statistics of finished episodes."""
        return slice(len(EPISODES) + len(self.per_episode))

    @property
    def of_optimiser_steps(self) -> slice:
        """Columns of the statistics of optimiser steps, and after them their number."""
        return slice(self.of_episodes.stop, self.index("optimiser_steps") + 1)

    def summary(self, totals: Floats, success_known: bool) -> dict[str, Floats]:
        """Metrics of a segment, each float64 ``[members]``; NaN where there is no value, as with no finished episode.

        Args:
            totals: ``[members, len(self)]``.
            success_known: whether the task has a notion of success.
        """
        total = {name: totals[:, column] for column, name in enumerate(self.names)}
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
                **{name: total[name] / episodes for name in self.per_episode},
                **{name: total[name] / total["optimiser_steps"] for name in self.per_optimiser_step},
                **{name: total[name] / total["rollouts"] for name in self.per_rollout},
                **{name: total[name] for name in self.at_the_end},
            }
        return {name: metrics[name] for name in self.metrics}
