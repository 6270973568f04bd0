"""What tests of simulators that are saved as replays share."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.learners.ppo import PPO


def record(one: Any, actions: NDArray[np.int64], env: int = 0) -> list[tuple[bytes, float, bool]]:
    """All that a copy shows on the way."""
    shown = []
    for action in actions:
        one.step(np.full(len(one.reward), action), [env])
        shown.append((one.observation[env].tobytes(), float(one.reward[env]), bool(one.terminated[env])))
    return shown


def check_copies(population: PPO) -> None:
    """A fork of the second of two members, a copy and a restored snapshot go on as the original does."""
    population.train(1)
    fork, copied, snapshot = population.fork([1]), copy.deepcopy(population), population.snapshot()
    population.evaluate(1)  # has simulators of its own
    fork.train(1)
    population.restore(snapshot)
    population.train(1)
    copied.train(1)
    assert copied.digests() == population.digests()
    assert fork.digests()[0] == population.digests()[1]
    assert fork.digests()[0] != population.digests()[0]
