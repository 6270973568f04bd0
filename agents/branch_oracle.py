"""Look-ahead by forking: tries what it might do on copies of the run, and does what came out best."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.delta import DeltaAction, keep_all
from hpbench.agent import AgentSpec, Branch
from hpbench.errors import InvalidConfiguration

MOVES = (-1.0, -0.5, 0.5, 1.0)
"""What is tried on each hyperparameter alone: a quarter, half, twice, four times its value, on its own scale."""


class BranchOracle:
    """Takes the update that does best on copies of the learner within the next ``horizon`` segments.

    At every decision it tries, as branches of the run: no update, :data:`MOVES` on each hyperparameter alone, and
    ``random`` updates of all of them. A branch counts with the mean of its scores over the horizon. The best one is
    taken if it is ahead of no update by more than ``margin`` standard errors of the difference; otherwise, none is.

    It is a bound from above, no contestant (``needs = "branch"``). At every decision it spends a multiple of what the
    learner itself gets; records count these steps. And it knows what no agent can: branches train on the random streams
    that the run itself will train on, and through a change of the task that is yet to come. One thing it does not know:
    the evaluation episodes that it is scored by. Branches are evaluated on streams of their own (the key of a stream
    is hashed with a number that the oracle draws from its seed anew for each decision), so a branch cannot win by luck
    in the episodes that decide the score.

    Args:
        horizon: segments to look ahead.
        random: random updates to try; each moves every hyperparameter by a ``delta`` drawn uniformly from ``[-1, 1]``.
        evaluation_episodes: per evaluation of a branch.
        margin: in standard errors, at least 0.

    Raises:
        InvalidConfiguration: for counts or a margin outside their ranges.
    """

    name = "branch-oracle"
    observation = "vector"
    action = "delta"
    needs = "branch"

    def __init__(self, horizon: int = 2, random: int = 8, evaluation_episodes: int = 20, margin: float = 1.0) -> None:
        if horizon < 1 or random < 0 or evaluation_episodes < 2 or not margin >= 0.0:
            raise InvalidConfiguration(
                "the branch oracle needs horizon >= 1, random >= 0, evaluation_episodes >= 2 and margin >= 0, got "
                f"{horizon}, {random}, {evaluation_episodes} and {margin}"
            )
        self.horizon, self.random, self.evaluation_episodes, self.margin = horizon, random, evaluation_episodes, margin
        self._branch: Branch | None = None

    def bind(self, branch: Branch) -> None:
        """Hand over what tries actions on the meta-episode that is controlled next, before ``reset``."""
        self._branch = branch

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. Random updates and the keys of the branches' evaluations come from ``seed``."""
        self._generator = np.random.default_rng(seed)
        self._spec = spec

    def act(self, observation: Any) -> DeltaAction:
        """The best of the updates it has tried.

        Raises:
            InvalidConfiguration: if there is nothing to try them on.
        """
        if self._branch is None:
            raise InvalidConfiguration("bind the branch oracle first: agent.bind(env.unwrapped.branch)")
        candidates = self._candidates()
        found = self._branch(
            candidates,
            self.horizon,
            evaluation_seed=int(self._generator.integers(2**62)),
            evaluation_episodes=self.evaluation_episodes,
        )
        value = found.scores.mean(axis=1)
        error = np.sqrt((found.errors**2).sum(axis=1)) / found.errors.shape[1]
        best = int(value.argmax())
        noise = float(np.hypot(error[best], error[0]))
        return candidates[best] if value[best] - value[0] > self.margin * noise else candidates[0]

    def _candidates(self) -> list[DeltaAction]:
        """No update first, then single moves, then random updates."""
        candidates = [keep_all(self._spec)]
        size = len(candidates[0])
        for column in range(size):
            for move in MOVES:
                candidates.append(keep_all(self._spec))
                candidates[-1][column] = move
        draws = self._generator.uniform(-1.0, 1.0, (self.random, size)).astype(np.float32)
        return [*candidates, *draws]

    def __getstate__(self) -> dict[str, Any]:
        """Without the binding: a copy controls another meta-episode, and is bound anew."""
        return {**self.__dict__, "_branch": None}
