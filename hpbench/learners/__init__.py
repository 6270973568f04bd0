"""Inner-loop algorithms: populations of learners as one batch of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpbench.registry import Registry

if TYPE_CHECKING:
    from hpbench.learners.population import Population

LEARNERS = Registry(
    "learner",
    {
        "ppo": "hpbench.learners.ppo:PPO",
        "dqn": "hpbench.learners.dqn:DQN",
        "sac": "hpbench.learners.sac:SAC",
    },
    group="hpbench.learners",
)


def make(name: str) -> type[Population]:
    """The learner class of that name.

    Raises:
        UnknownName: if there is none.
    """
    learner: type[Population] = LEARNERS.load(name)
    return learner


__all__ = ["LEARNERS", "make"]
