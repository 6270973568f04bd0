"""Random search with a budget of one: a single random setting, kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.agent import AgentSpec


class StaticRandom:
    """Draws every hot hyperparameter once, uniformly in its unit scale, and keeps the draw.

    One run of random search (Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 2012). It
    jumps at the first decision, so the track's own start does not matter.
    """

    name = "static-random"
    observation = "vector"
    action = "absolute"

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode: the draw, from ``seed`` alone."""
        generator = np.random.default_rng(seed)
        self._action = generator.uniform(-1.0, 1.0, len(spec.hyperparameters.hot)).astype(np.float32)

    def act(self, observation: Any) -> NDArray[np.float32]:
        """The drawn values as an ``absolute`` action, the same at every decision."""
        return self._action.copy()
