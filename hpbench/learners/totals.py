"""What a segment tells: running totals, which the engines add to, and the metrics made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    _counts: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """Which column each column is divided by: a count for means, elsewhere itself."""
    _own: tuple[tuple[str, int, bool], ...] = field(init=False, repr=False, compare=False)
    """Name and column of each metric of the learner's own, and whether it is set at the end."""

    def __post_init__(self) -> None:
        names = (
            *EPISODES, *self.per_episode, *self.per_optimiser_step, "optimiser_steps", *self.per_rollout, "rollouts",
            *self.at_the_end,
        )  # fmt: skip
        object.__setattr__(self, "names", names)
        counts = {
            **{name: name for name in names},
            **dict.fromkeys((*EPISODES, *self.per_episode), "episodes"),
            **dict.fromkeys(self.per_optimiser_step, "optimiser_steps"),
            **dict.fromkeys(self.per_rollout, "rollouts"),
        }
        object.__setattr__(self, "_counts", np.array([names.index(counts[name]) for name in names]))
        own = [name for name in self.metrics if name in names and name not in EPISODES]
        object.__setattr__(self, "_own", tuple((name, names.index(name), name in self.at_the_end) for name in own))

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
        episodes = totals[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = totals / totals[:, self._counts]
            mean = means[:, EPISODES.index("return_sum")]
            square = means[:, EPISODES.index("return_square_sum")]
            variance = np.maximum(square - mean**2, 0.0) * episodes / (episodes - 1)
            error = np.where(episodes > 1, np.sqrt(variance / episodes), np.nan)
        success = means[:, EPISODES.index("successes")]
        of_episodes = {
            "episodes": episodes,
            "return_mean": mean,
            "return_sem": error,
            "episode_length": means[:, EPISODES.index("length_sum")],
            "success_rate": success if success_known else np.full_like(episodes, np.nan),
        }
        own = {name: (totals if last else means)[:, column] for name, column, last in self._own}
        known = of_episodes | own
        return {name: known[name] for name in self.metrics}
